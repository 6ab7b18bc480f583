"""A config becomes stages, once."""
