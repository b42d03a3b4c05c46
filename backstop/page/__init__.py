"""The web page at `/ui`. Its files hold no data: the page reads all data from the public API with the user's key."""
