"""Networks that turn a sentence into features."""
