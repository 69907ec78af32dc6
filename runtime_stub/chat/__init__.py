"""The terminal face over the engine."""
