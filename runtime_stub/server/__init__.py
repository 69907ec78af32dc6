"""HTTP faces over the engine."""
