"""Commands: options in, a call, exit."""
