"""Files that are read as what they hold: unpacked where their name ends with .gz or .zst."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import zstandard

SUFFIXES = (".gz", ".zst")
# What reading such a file raises when its bytes do not unpack.
UNPACKING_ERRORS = (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError)


@contextmanager
def unpacked(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading from front to back; `seek` leads forward only.

    Raises OSError, and of UNPACKING_ERRORS what reading finds. A .zst that was cut short just ends.
    """
    with path.open("rb") as file:
        if path.suffix == ".gz":
            yield cast(BinaryIO, gzip.GzipFile(fileobj=file))
        elif path.suffix == ".zst":
            unpacker = zstandard.ZstdDecompressor()
            yield unpacker.stream_reader(file, read_across_frames=True)
        else:
            yield file
