"""Mixed load with faults, for an hour or for minutes: `python build.py soak --minutes N`.

A server of the real pack answers chats, streams, nonsense and clients that leave; beside it packs
are started for the first time, killed in the middle, started all at once, damaged in the cache,
replaced and verified. Every outcome is counted; anything that should not have happened is a loss.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

QUESTION = "What is the name of the capital of France?"
LONGEST = 90.0
"""Seconds that any one step may take on a busy machine."""
NONSENSE = (
    b"{", b"[]", b"null", b'{"messages": 7}', b'{"messages": [{"content": "hi"}]}', b"\xff\xfe",
    b'{"messages": [{"role": "user", "content": "hi"}], "max_tokens": -5}', b"[" * 5000,
)  # fmt: skip


class Soak:
    """Counts tries and losses of each kind, from several threads."""

    def __init__(self, pack: Path, folder: Path, seconds: float, seed: int) -> None:
        self.pack = pack
        self.folder = folder
        self.until = time.monotonic() + seconds
        self.tries: Counter[str] = Counter()
        self.losses: Counter[str] = Counter()
        self.notes: list[str] = []
        self._random = random.Random(seed)  # noqa: S311
        self._lock = threading.Lock()
        self._server: subprocess.Popen[bytes] | None = None
        self._reader = threading.Thread()
        self._address = ""

    # Counting

    def expect(self, kind: str, condition: bool, note: str = "") -> None:
        """Count a try; a loss where `condition` does not hold."""
        with self._lock:
            self.tries[kind] += 1
            if not condition:
                self.losses[kind] += 1
                self.notes.append(f"{kind}: {note[:500]}")

    def running(self) -> bool:
        return time.monotonic() < self.until

    # The pack

    def environment(self, home: Path) -> dict[str, str]:
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        return {"HOME": str(home), "TMPDIR": str(home / "tmp"), "PATH": os.environ["PATH"]}

    def start(self, home: Path, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [self.pack, *arguments],
            env=self.environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, home: Path, *arguments: str) -> tuple[int, str, str]:
        process = self.start(home, *arguments)
        try:
            out, errors = process.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
            out, errors = process.communicate()
            return -99, out.decode(errors="replace"), "it took too long"
        return process.returncode, out.decode(errors="replace"), errors.decode(errors="replace")

    # The server and its clients

    def serve(self) -> None:
        command = ("serve", "--port", "0", "--temperature", "0", "--context", "2048")
        self._server = self.start(self.folder / "server", *command)
        assert self._server.stderr is not None
        line = self._server.stderr.readline().decode()
        self._address = line.split("listening on ")[1].split()[0]
        stream = self._server.stderr
        self._reader = threading.Thread(target=lambda: [None for _ in stream], daemon=True)
        self._reader.start()

    def client(self, seed: int) -> None:
        """One client after the other, each as it likes."""
        choose = random.Random(seed)  # noqa: S311
        kinds = (self._ask, self._stream, self._leave, self._talk_nonsense, self._hang)
        while self.running():
            kind = choose.choices(kinds, (4, 3, 2, 2, 1))[0]
            try:
                kind(choose)
            except httpx.HTTPError as error:
                self.expect("server answers", condition=False, note=repr(error))

    def _body(self, **more: object) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 12, **more}

    def _ask(self, _choose: random.Random) -> None:
        answer = httpx.post(
            f"{self._address}/v1/chat/completions", json=self._body(), timeout=LONGEST
        )
        busy = answer.status_code == 503 and "retry-after" in answer.headers
        self.expect("chat", busy or "Paris" in answer.text, answer.text)

    def _stream(self, _choose: random.Random) -> None:
        url = f"{self._address}/v1/chat/completions"
        with httpx.stream("POST", url, json=self._body(stream=True), timeout=LONGEST) as answer:
            text = "".join(answer.iter_text())
            busy = answer.status_code == 503
        self.expect("streamed chat", busy or text.rstrip().endswith("[DONE]"), text)

    def _leave(self, choose: random.Random) -> None:
        """Ask for much and go away in the middle."""
        url = f"{self._address}/v1/chat/completions"
        body = self._body(stream=True, max_tokens=400)
        with (
            contextlib.suppress(httpx.HTTPError),
            httpx.stream("POST", url, json=body, timeout=choose.random() * 2) as answer,
        ):
            for number, _ in enumerate(answer.iter_raw()):
                if number > choose.randint(0, 8):
                    break
        self.expect("client that leaves", condition=True)

    def _talk_nonsense(self, choose: random.Random) -> None:
        path = choose.choice(("/v1/chat/completions", "/api/chat", "/v1/messages", "/nowhere"))
        answer = httpx.post(
            f"{self._address}{path}",
            content=choose.choice(NONSENSE),
            headers={"content-type": "application/json"},
            timeout=LONGEST,
        )
        self.expect("nonsense refused", 400 <= answer.status_code < 500, answer.text)

    def _hang(self, choose: random.Random) -> None:
        """Half a request, and nothing more."""
        host, _, port = self._address.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=LONGEST) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Le")
            time.sleep(choose.random())
        self.expect("half a request", condition=True)

    # Faults of starting

    def faults(self) -> None:
        """One fault after the other, each in a home of its own."""
        number = 0
        every: list[Callable[[Path], None]] = [
            self._killed_first_start,
            self._many_first_starts,
            self._damaged_runtime,
            self._silently_damaged_runtime,
            self._pack_replaced_while_running,
            self._cache_cleared_while_running,
        ]
        while self.running():
            home = self.folder / f"home-{number}"
            every[number % len(every)](home)
            shutil.rmtree(home, ignore_errors=True)
            number += 1

    def _whole(self, kind: str, home: Path) -> None:
        code, _, errors = self.run(home, "--version")
        names = sorted(path.name for path in (home / ".cache/satchel/runtimes").iterdir())
        sound = code == 0 and len(names) == 2 and names[1] == f"{names[0]}.lock"
        self.expect(kind, sound, f"{code} {errors} {names}")

    def _killed_first_start(self, home: Path) -> None:
        process = self.start(home, "--version")
        time.sleep(self._random.random() * 2)
        process.kill()
        process.communicate()
        self._whole("first start after kill -9", home)

    def _many_first_starts(self, home: Path) -> None:
        processes = [self.start(home, "info") for _ in range(6)]
        for process in processes:
            _, errors = process.communicate()
            self.expect("simultaneous first start", process.returncode == 0, errors.decode())
        self._whole("cache after simultaneous first starts", home)

    def _library(self, home: Path) -> Path:
        self.run(home, "--version")
        return next((home / ".cache/satchel/runtimes").glob("*/_internal/**/libggml-base.so"))

    def _damaged_runtime(self, home: Path) -> None:
        library = self._library(home)
        os.truncate(library, self._random.randrange(library.stat().st_size))
        code, out, errors = self.run(home, "ask", QUESTION, "--temperature", "0")
        self.expect("damaged runtime repaired", code == 0 and "Paris" in out, errors)

    def _silently_damaged_runtime(self, home: Path) -> None:
        library = self._library(home)
        facts = library.stat()
        with library.open("r+b") as file:
            file.seek(facts.st_size // 2)
            file.write(b"altered!")
        os.utime(library, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        found = self.run(home, "verify")[0] == 6
        code, out, errors = self.run(home, "ask", QUESTION, "--temperature", "0")
        self.expect("altered runtime found and repaired", found and code == 0 and "Paris" in out,
                    errors)  # fmt: skip

    def _pack_replaced_while_running(self, home: Path) -> None:
        home.mkdir(parents=True)
        own = home / "assistant"
        shutil.copy2(self.pack, own)
        process = subprocess.Popen(
            [own, "ask", QUESTION, "--temperature", "0"],
            env=self.environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        time.sleep(self._random.random())
        other = home / "other"
        other.write_bytes(b"#!/bin/sh\nexit 9\n")
        other.replace(own)
        out, errors = process.communicate(timeout=LONGEST)
        self.expect("pack replaced while running", b"Paris" in out, errors.decode())

    def _cache_cleared_while_running(self, home: Path) -> None:
        self.run(home, "--version")
        process = self.start(home, "ask", QUESTION, "--temperature", "0")
        self.run(home, "cache", "clear")
        out, errors = process.communicate(timeout=LONGEST)
        self.expect("cache cleared while running", b"Paris" in out, errors.decode())

    # The whole

    def go(self) -> None:
        self.serve()
        assert self._server is not None
        started = self._resident()
        threads = [threading.Thread(target=self.client, args=(seed,)) for seed in range(3)]
        threads.append(threading.Thread(target=self.faults))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        answer = httpx.get(f"{self._address}/health", timeout=LONGEST)
        self.expect("server alive at the end", answer.status_code == 200, answer.text)
        self.notes.append(f"server's memory: {started} MB at first, {self._resident()} MB at last")
        self._server.send_signal(signal.SIGTERM)
        try:
            code = self._server.wait(LONGEST)
        except subprocess.TimeoutExpired:
            self._server.kill()
            code = -9
        self._reader.join(LONGEST)
        for pipe in (self._server.stdout, self._server.stderr):
            if pipe is not None:
                pipe.close()
        self.expect("server ends when asked to", code in (0, 143, -15), str(code))

    def _resident(self) -> int:
        assert self._server is not None
        status = Path(f"/proc/{self._server.pid}/status").read_text(encoding="ascii")
        kilobytes = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(kilobytes.split()[1]) // 1000


def soak(pack: Path, minutes: float, seed: int = 0) -> Soak:
    """Run it all; the result holds the counts."""
    with tempfile.TemporaryDirectory(prefix="satchel-soak-") as folder:
        found = Soak(pack, Path(folder), minutes * 60, seed)
        found.go()
    return found


def main() -> int:
    """Soak the pack named first for so many minutes, print the counts; 1 if anything was lost."""
    found = soak(Path(sys.argv[1]).resolve(), float(sys.argv[2]))
    for kind, tries in sorted(found.tries.items()):
        print(f"{kind:<42} {tries:>7} tries {found.losses[kind]:>4} losses")  # noqa: T201
    for note in found.notes:
        print(f"   {note}")  # noqa: T201
    print(json.dumps({"tries": found.tries.total(), "losses": found.losses.total()}))  # noqa: T201
    return 1 if found.losses else 0


if __name__ == "__main__":
    sys.exit(main())
