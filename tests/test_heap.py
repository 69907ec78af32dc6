from __future__ import annotations

from runtime_stub.engine.heap import give_back_freed


def test_freed_memory_is_given_back_at_any_time() -> None:
    pieces = [bytearray(50_000) for _ in range(200)]
    del pieces[::2]
    give_back_freed()
    assert all(not any(piece) for piece in pieces)
