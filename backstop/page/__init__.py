"""The web page at `/ui`. Its files hold no data: what it shows it reads from the public API, with the key of whoever looks."""
