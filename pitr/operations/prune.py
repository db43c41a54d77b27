"""prune: drop what a policy no longer needs, and nothing that a kept target does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pitr.clock import now_us
from pitr.config import Settings
from pitr.operations.engine import engine_of_archive, wired


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneWish:
    """What is to be kept. At least one of the first two is given; what either keeps is kept.

    `keep_us` is how far back every target stays one. `keep_bases` counts the newest bases, as
    status lists them: what can be reached from the oldest of them on stays. With `keep_marks` the
    states that marks name stay as well, however old.
    """

    keep_us: int | None = None
    keep_bases: int | None = None
    keep_marks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """Objects of one kind that go: a folder of the archive, how many, their bytes."""

    kind: str
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneOutcome:
    """What goes, or went when `done`.

    `from_us` is the moment from which on everything stays, `position` the first state that does
    (None: the policy keeps all there is). `kept_marks` and `dropped_marks` are names of marks
    before it. `written_bytes` is what had to be written anew for it. `notes` say what was put off,
    and why.
    """

    from_us: int
    position: str | None
    kept_marks: tuple[str, ...]
    dropped_marks: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    written_bytes: int
    done: bool
    notes: tuple[str, ...] = ()


def prune(settings: Settings, wish: PruneWish, *, is_confirmed: bool) -> PruneOutcome:
    """Return what the policy drops; with `is_confirmed` drop it.

    Safe beside a capture, a backup and readers; killed anywhere it has lost nothing that is kept.
    Raises PreconditionFailed while another prune runs, CorruptObject, StoreUnusable.
    """
    return wired(prune, engine_of_archive(settings))(settings, wish, is_confirmed=is_confirmed)


def kept_from_us(wish: PruneWish, base_times: Callable[[], Iterable[int]]) -> int:
    """Return the moment from which on everything stays: the earlier one of the two policies.

    `base_times` gives when the bases were taken; it is only called when the wish counts bases.
    """
    times = [] if wish.keep_us is None else [now_us() - wish.keep_us]
    if wish.keep_bases is not None:
        bases = sorted(base_times())
        times.append(bases[-wish.keep_bases] if len(bases) >= wish.keep_bases else 0)
    return min(times)


def by_kind(deleted: tuple[tuple[str, int], ...]) -> tuple[Dropped, ...]:
    """Return objects (key, bytes) counted by the folder that they are in."""
    sizes: dict[str, list[int]] = {}
    for key, size in deleted:
        sizes.setdefault(key.partition("/")[0], []).append(size)
    return tuple(
        Dropped(kind=kind, objects=len(found), bytes=sum(found)) for kind, found in sizes.items()
    )
