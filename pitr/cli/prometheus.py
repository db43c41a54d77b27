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
    }
    label = source.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    lines = []
    for name, value in values.items():
        if value is not None:
            lines += [f"# HELP {name} {_HELP[name]}", f"# TYPE {name} gauge"]
            lines.append(f'{name}{{source="{label}"}} {value}')
    return "\n".join(lines)
