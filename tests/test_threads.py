from __future__ import annotations

import sys
import threading

from runtime_stub.server.threads import take_short_turns


def test_another_thread_gets_its_turn_sooner() -> None:
    before = sys.getswitchinterval()
    over = threading.Event()

    def compute() -> int:
        count = 0
        while not over.is_set():
            count += 1
        return count

    computing = threading.Thread(target=compute)
    try:
        take_short_turns()
        assert sys.getswitchinterval() < before / 5
        computing.start()
        over.wait(0.01)  # this thread is heard, though that one never waits
    finally:
        over.set()
        computing.join()
        sys.setswitchinterval(before)
