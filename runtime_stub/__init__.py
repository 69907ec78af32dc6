"""All that travels inside a pack: format, cache, engine, and the faces over it."""

__version__ = "0.1.0"
