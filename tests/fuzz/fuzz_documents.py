"""Documents: those of the archive, and those that recoveries and merges leave in the state folder.

The input: one byte for which document, then its JSON.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from pitr.archive.archive import check_mark, open_archive, read_mark
from pitr.archive.lease import acquire, check_lease, is_live
from pitr.cli.merge_commands import _read_plan
from pitr.errors import PitrError
from pitr.postgres.capture.gap import check_gap
from pitr.recovery.folder import list_recoveries
from pitr.recovery.merges import list_merges
from pitr.vocabulary.plan import PLAN_FORMAT
from tests.fuzz import samples
from tests.fuzz.sealing import assemble, open_form, sections, stored

_KINDS = (b"IDEN", b"LEAS", b"MARK", b"GAPS")
_DOCUMENT = 1
_RESOLVED = (
    b'{"position":"commit:7","utc":"2026-11-28T14:00:00Z","last_included":null,'
    b'"first_excluded":null}'
)
_RECOVERY = (
    b'{"schema":1,"id":"one","engine":"sqlite","source":"/shop.db","archive":"/a","created_us":1,'
    b'"target":"10m","resolved":' + _RESOLVED + b',"sidecar":"/s.db","tables":[{"table":"t",'
    b'"rows":3}],"where":null,"seconds":0.1,"bytes_read":9}'
)
_MERGE = (
    b'{"schema":1,"id":"two","recovery":"one","engine":"sqlite","source":"/shop.db","created_us":1,'
    b'"undoes":null,"tables":[{"table":"t","inserted":1,"updated":0,"deleted":0,"created":false}],'
    b'"skipped":0,"rebuilt":[]}'
)
_PLAN = (
    b'{"plan_format":%d,"recovery":"one","chosen":["t"],"options":{"on_conflict":"abort"},'
    b'"fingerprint":"abc"}' % PLAN_FORMAT
)
_OF_STATE = (_RECOVERY, _MERGE, _PLAN)


def seeds() -> Iterator[bytes]:
    """Yield one document of each kind."""
    for number, kind in enumerate(_KINDS):
        for data in samples.of_kind(kind).values():
            yield bytes([number]) + sections(open_form(data))[_DOCUMENT]
    for number, document in enumerate(_OF_STATE, start=len(_KINDS)):
        yield bytes([number]) + document


def fuzz(data: bytes) -> None:
    """Decode the document, and go on with what it says."""
    number, document = (data[0] if data else 0) % (len(_KINDS) + len(_OF_STATE)), data[1:]
    try:
        if number < len(_KINDS):
            _of_archive(_KINDS[number], document)
        else:
            _of_state(number - len(_KINDS), document)
    except PitrError:
        pass


def _of_archive(kind: bytes, document: bytes) -> None:
    sealed = assemble(kind, {_DOCUMENT: document}, plain=[_DOCUMENT])
    [key] = samples.of_kind(kind)
    store = stored(key, sealed)
    if kind == b"IDEN":
        open_archive(store)
    elif kind == b"MARK":
        check_mark(key, sealed)
        read_mark(store, "release-7")
    elif kind == b"GAPS":
        check_gap(key, sealed)
    else:
        is_live(check_lease(key, sealed), at_us=10**15)
        acquire(store, ttl_seconds=5, clock=lambda: 10**15)


def _of_state(number: int, document: bytes) -> None:
    state = _state()
    recovery = state / "recoveries" / "one"
    merge = recovery / "merges" / "two" / "merge.json"
    (recovery / "recovery.json").write_bytes(document if number == 0 else _RECOVERY)
    merge.write_bytes(document if number == 1 else _MERGE)
    if number == 2:
        (state / "plan.json").write_bytes(document)
        _read_plan(str(state / "plan.json"))
    else:
        list_recoveries(state)
        for kept in list_merges(state):
            assert kept.record.rows is not None


@cache
def _state() -> Path:
    folder = Path(_made().name)
    (folder / "recoveries" / "one" / "merges" / "two").mkdir(parents=True)
    return folder


@cache
def _made() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="pitr-fuzz-")
