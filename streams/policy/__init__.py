"""Pure: a question in, a decision out."""
