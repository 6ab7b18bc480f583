"""Where people look in an image, given a sentence."""

__version__ = '0.1.0'
