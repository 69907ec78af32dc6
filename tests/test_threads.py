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
    computing.start()
    try:
        sys.setswitchinterval(1.0)
        take_short_turns()
        assert sys.getswitchinterval() <= 0.001
        over.wait(0.01)  # this thread is heard, though that one never waits
    finally:
        over.set()
        sys.setswitchinterval(before)
        computing.join()
