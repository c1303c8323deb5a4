"""The command line: what is read from it, what is printed on it."""
