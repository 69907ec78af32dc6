"""Typed access to what a model's header says about it."""

from __future__ import annotations

from pathlib import Path

from packer.gguf import GgufHeader, Value


class Facts:
    """Typed access to the metadata: values of the wrong type count as absent."""

    def __init__(self, header: GgufHeader, path: Path) -> None:
        self.header = header
        self.path = path
        self.architecture = self.text("general.architecture")
        self.layers = self.number("block_count")

    def get(self, key: str) -> Value | None:
        """An architecture's own key."""
        return self.header.metadata.get(f"{self.architecture}.{key}")

    def text(self, key: str) -> str:
        value = self.header.metadata.get(key)
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int:
        """An architecture's own count; the largest of a value for each layer."""
        return max(self.numbers(key), default=0)

    def numbers(self, key: str) -> tuple[int, ...]:
        value = self.get(key)
        items = value if isinstance(value, tuple) else (value,)
        counts = tuple(item for item in items if isinstance(item, int) and 0 <= item < 2**32)
        return counts if len(counts) == len(items) else ()

    def per_layer(self, key: str, default: int) -> tuple[int, ...]:
        """One number for each layer, from one value for all or an array."""
        values = self.numbers(key)
        if isinstance(self.get(key), tuple):
            return (values + (default,) * self.layers)[: self.layers]
        return (values[0] if values else default,) * self.layers
