"""Builds packs on the maker's machine. Knows runtime_stub; runtime_stub never knows it."""
