"""Where people look in a picture, given a sentence."""

__version__ = '0.1.0'
