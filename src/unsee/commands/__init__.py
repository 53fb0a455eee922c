"""The commands: a typed function each, whose signature and docstring are its flags and help."""
