"""Documents in many threads: msgspec crashes on the first use of a type by two of them at once."""

from __future__ import annotations

import subprocess
import sys

# New types again and again, each used first by eight threads at once.
RACE = """
import sys, threading
from dataclasses import dataclass, make_dataclass
from pitr.archive.document import decode_document, encode_document

sys.setswitchinterval(1e-6)
for number in range(300):
    inner = make_dataclass(f"Inner{number}", [("a", int), ("b", str)])
    form = make_dataclass(f"Form{number}", [("x", int), ("y", tuple[inner, ...]), ("w", str)])
    data = encode_document(b"TEST", {"x": 1, "y": [{"a": 1, "b": "c"}], "w": "d"})
    barrier = threading.Barrier(8)

    def run():
        barrier.wait()
        assert decode_document("key", data, b"TEST", form).x == 1

    threads = [threading.Thread(target=run) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
print("alive")
"""


def test_first_use_of_a_type_by_many_threads_crashes_nothing() -> None:
    """The process lives; without care it dies of SIGSEGV within some hundred types."""
    done = subprocess.run(
        [sys.executable, "-c", RACE], capture_output=True, text=True, check=False, timeout=120
    )

    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr
