"""Archives made in a line or two: commits by hand, or a random history with its reference."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pitr.archive.store import ObjectInfo, Store
from pitr.sqlite.pagelog.history import PageArchive
from pitr.sqlite.pagelog.pagemap import CurrentPages, encode_map
from pitr.sqlite.pagelog.segment import CommitKind, CommitRecord, SegmentWriter, page_digest
from tests.memory_store import MemoryStore

PAGE_SIZE = 512
SECOND_US = 1_000_000
HOUR_US = 3600 * SECOND_US
# Late on a Sunday, so that short histories cross an hour and a day.
START_US = 1_700_000_000 * SECOND_US
State = list[bytes]  # the image of page n at n - 1


def an_image(content: str, page_size: int = PAGE_SIZE) -> bytes:
    """Return a page that one recognises in a failure."""
    return content.encode().ljust(page_size, b".")


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit to be written: `pages` are the images that it changes."""

    number: int
    pages: Mapping[int, bytes]
    page_count: int
    kind: CommitKind
    time_us: int
    fork: int = 0


def a_commit(
    number: int,
    pages: Mapping[int, str | bytes],
    *,
    page_count: int = 4,
    kind: CommitKind | None = None,
    time_us: int | None = None,
    page_size: int = PAGE_SIZE,
) -> Commit:
    """Return a commit; the first is a base, each comes a second after the one before."""
    images = {
        page: an_image(image, page_size) if isinstance(image, str) else image
        for page, image in pages.items()
    }
    natural = CommitKind.BASE if number == 1 else CommitKind.COMMIT
    at = START_US + number * SECOND_US if time_us is None else time_us
    return Commit(number, images, page_count, natural if kind is None else kind, at)


def a_base(page_count: int = 4, page_size: int = PAGE_SIZE) -> Commit:
    """Return commit 1, in which each page says its number."""
    pages = {page: f"page {page} of commit 1" for page in range(1, page_count + 1)}
    return a_commit(1, pages, page_count=page_count, page_size=page_size)


def small_commits(numbers: range, *, page_count: int = 4) -> Iterator[Commit]:
    """Yield a base for commit 1 and commits of one page each for the others."""
    for number in numbers:
        page = number % page_count + 1
        yield (
            a_base(page_count)
            if number == 1
            else a_commit(number, {page: f"page {page} of commit {number}"}, page_count=page_count)
        )


class ArchiveBuilder:
    """A writer of one archive under one lease, and the reference for what it wrote."""

    def __init__(
        self,
        store: Store | None = None,
        *,
        page_size: int = PAGE_SIZE,
        lease: int = 1,
        bytes_max: int = 32 << 20,
    ) -> None:
        self.store = MemoryStore() if store is None else store
        self.lease = lease
        self.current = CurrentPages(page_size)
        self.states: dict[int, State] = {0: []}
        self.records: list[CommitRecord] = []
        self._bytes_max = bytes_max
        self.begin_page_size(page_size)

    def begin_page_size(self, page_size: int) -> None:
        """Write with this page size from now on; a base has to follow."""
        self._page_size = self.current.page_size = page_size
        self._writer = SegmentWriter(
            self.store.put_new,
            page_size=page_size,
            lease=self.lease,
            chain=self.current.chain,
            bytes_max=self._bytes_max,
        )

    def taken_over(self, lease: int) -> ArchiveBuilder:
        """Return the writer that goes on from here under another lease."""
        other = ArchiveBuilder(self.store, page_size=self._page_size, lease=lease)
        other.states = dict(self.states)
        other.records = list(self.records)
        other.current = PageArchive(self.store).current_pages()
        other.begin_page_size(self._page_size)
        return other

    def write(self, *commits: Commit) -> ArchiveBuilder:
        """Write commits, to be flushed with what comes after."""
        for commit in commits:
            self._write(commit)
        return self

    def write_apart(self, *commits: Commit) -> ArchiveBuilder:
        """Write commits, each into an object of its own."""
        for commit in commits:
            self.write(commit).flush()
        return self

    def _write(self, commit: Commit) -> None:
        before = self.records[-1].time_end_us if self.records else commit.time_us - SECOND_US
        self._writer.begin(
            number=commit.number,
            kind=commit.kind,
            fork=commit.fork,
            time_begin_us=before,
            time_end_us=commit.time_us,
            page_count=commit.page_count,
            wal=None,
        )
        if commit.kind is CommitKind.BASE:
            self.current.resize(0)
        self.current.resize(max(commit.page_count, self.current.page_count))
        for page, image in sorted(commit.pages.items()):
            self._writer.page(page, image, page_digest(image))
            self.current.record(page, commit.number, page_digest(image))
        self.records.append(self._writer.end())
        self.current.resize(commit.page_count)
        self.current.commit, self.current.chain = commit.number, self.records[-1].chain
        self.states[commit.number] = self._state_after(commit)

    def _state_after(self, commit: Commit) -> State:
        before = [] if commit.kind is CommitKind.BASE else self.states[max(self.states)]
        state = before[: commit.page_count]
        state += [bytes(self._page_size)] * (commit.page_count - len(state))
        for page, image in commit.pages.items():
            state[page - 1] = image
        return state

    def flush(self) -> ArchiveBuilder:
        """Write an object with everything that waits."""
        self._writer.flush()
        return self

    def write_map(self) -> str:
        """Write a page map of the newest state and return its key."""
        self.flush()
        key, data = encode_map(self.current)
        self.store.put(key, data)
        return key


def a_history(
    rng: random.Random, *, commits: int = 60, store: Store | None = None, maps: bool = True
) -> ArchiveBuilder:
    """Write a random history: growth and shrinking, parts, flushes and maps at random points."""
    bytes_max = rng.choice([300, 900, 1 << 20])
    builder = ArchiveBuilder(store, bytes_max=bytes_max)
    pages = rng.choice([3, 40])
    builder.write(_random_commit(rng, 1, range(1, pages + 1), pages))
    for number in range(2, commits + 1):
        before = len(builder.states[number - 1])
        pages = max(1, before + rng.choice([0, 0, 0, 1, 5, -2, -10]))
        # Growth that nobody wrote: it must read as zeros, whatever lay there once.
        written = rng.sample(range(1, pages + 1), rng.randrange(1, min(pages, 9) + 1))
        kind = rng.choices([CommitKind.COMMIT, CommitKind.GAP, CommitKind.FORK], [40, 1, 1])[0]
        builder.write(_random_commit(rng, number, written, pages, kind))
        if rng.random() < 0.2:
            builder.flush()
        if maps and rng.random() < 0.05:
            builder.write_map()
    return builder.flush()


def _random_commit(
    rng: random.Random,
    number: int,
    written: Sequence[int],
    pages: int,
    kind: CommitKind = CommitKind.COMMIT,
) -> Commit:
    images = {page: rng.randbytes(16) * (PAGE_SIZE // 16) for page in written}
    time_us = START_US + number * 7 * 60 * SECOND_US  # so that an hour has eight or nine
    return a_commit(
        number, images, page_count=pages, time_us=time_us, kind=None if number == 1 else kind
    )


def read_state(archive: PageArchive, number: int) -> State:
    """Return every page of one commit by way of `PageArchive.at`."""
    source = archive.at(number)
    return [source.page(page) for page in range(1, source.page_count + 1)]


def snapshot(store: Store) -> dict[str, bytes]:
    """Return everything that a store holds."""
    return {info.key: store.get(info.key) for info in store.list()}


def a_store_with(objects: Mapping[str, bytes]) -> MemoryStore:
    """Return a store that holds these objects."""
    store = MemoryStore()
    for key, data in objects.items():
        store.put_new(key, data)
    return store


class RemoteStore(MemoryStore):
    """A store whose requests cost, with a count of them."""

    is_remote = True

    def __init__(self) -> None:
        super().__init__()
        self.requests = 0

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return ranges, and count one request."""
        self.requests += 1
        return super().get_ranges(key, ranges)


def keys(store: Store, prefix: str = "") -> list[str]:
    """Return the keys of a store."""
    return [info.key for info in store.list(prefix)]


def infos(*names: str) -> list[ObjectInfo]:
    """Return a listing of objects of these keys."""
    return [ObjectInfo(name, 100, 0) for name in names]
