"""Figures of `pitr status` in Prometheus' text exposition format."""

from __future__ import annotations

from pitr.operations.status import Status

_HELP = {
    "pitr_window_from_seconds": "Begin of the recoverable window, seconds since the epoch.",
    "pitr_window_to_seconds": "End of the recoverable window, seconds since the epoch.",
    "pitr_lag_seconds": "Age of the oldest commit that is not proven to be archived.",
    "pitr_capturing": "1 while a capture holds the archive.",
    "pitr_gaps": "Stretches of the window whose interior is unknown.",
    "pitr_archive_bytes": "Bytes of all objects of the archive's log.",
    "pitr_bases": "States that can be read without the commits before them.",
    "pitr_spooled_bytes": "Bytes that wait because the store did not take them.",
    "pitr_lag_bytes": "Bytes of WAL that the source has and the archive lacks.",
    "pitr_slot_kept_bytes": "Bytes of WAL that the source keeps for the archive.",
    "pitr_slot_safe_bytes": "Bytes of WAL until the source removes some that is not archived.",
    "pitr_slot_lost": "1 when the source has removed WAL that was not archived, or has no slot.",
    "pitr_verified_seconds": "When every object was last read again, seconds since the epoch.",
    "pitr_verify_ok": "1 when that found no damage and nothing missing.",
    "pitr_verify_damaged": "Objects that were damaged, and stretches that were missing.",
    "pitr_drilled_seconds": "When tables were last restored to try it, seconds since the epoch.",
    "pitr_drill_ok": "1 when all of them were as they had been.",
    "pitr_drill_first_row_seconds": "The longest time to the first row of a restored table.",
}


def _proofs(status: Status) -> dict[str, float | int | None]:
    verified, drilled = status.verified, status.drilled
    return {
        "pitr_verified_seconds": verified.finished_us / 1e6 if verified else None,
        "pitr_verify_ok": int(verified.ok) if verified else None,
        "pitr_verify_damaged": verified.damaged if verified else None,
        "pitr_drilled_seconds": drilled.finished_us / 1e6 if drilled else None,
        "pitr_drill_ok": int(drilled.ok) if drilled else None,
        "pitr_drill_first_row_seconds": drilled.first_row_seconds if drilled else None,
    }


def prometheus_text(status: Status, source: str) -> str:
    """Return the figures, labelled with the name of the source."""
    slot = status.slot
    values: dict[str, float | int | None] = {
        "pitr_window_from_seconds": status.window.from_us / 1e6 if status.window else None,
        "pitr_window_to_seconds": status.window.to_us / 1e6 if status.window else None,
        "pitr_lag_seconds": status.lag_us / 1e6,
        "pitr_capturing": int(status.capturing),
        "pitr_gaps": len(status.gaps),
        "pitr_archive_bytes": status.archive_bytes,
        "pitr_bases": len(status.bases),
        "pitr_spooled_bytes": status.spooled_bytes,
        "pitr_lag_bytes": status.lag_bytes,
        "pitr_slot_kept_bytes": slot.kept_bytes if slot else None,
        "pitr_slot_safe_bytes": slot.safe_bytes if slot else None,
        "pitr_slot_lost": int(slot.status in ("lost", "absent")) if slot else None,
        **_proofs(status),
    }
    label = source.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    lines = []
    for name, value in values.items():
        if value is not None:
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge"]
            lines.append(f'{name}{{source="{label}"}} {value}')
    return "\n".join(lines)
