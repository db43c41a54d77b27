"""Show on stderr what a running capture tells: lines for events, one moving line for progress."""

from __future__ import annotations

import json
import sys
import threading

from pitr.cli.render import SCHEMA, bytes_text, note
from pitr.clock import now_us
from pitr.target_text import format_time
from pitr.vocabulary.event import Event, Level


class Reporter:
    """Print events. Called from several threads."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._lock = threading.Lock()
        self._is_line_open = False

    def report(self, event: Event) -> None:
        """Print one event; progress only on a terminal."""
        with self._lock:
            if event.level is Level.PROGRESS:
                self._progress(event)
            else:
                self._end_line()
                note(self.line(event))

    def line(self, event: Event) -> str:
        """Return the line that tells an event."""
        time = format_time(now_us())
        if not self._as_json:
            detail = f": {event.detail}" if event.detail else ""
            return f"{time} {event.level.value}: {event.message}{detail}"
        body = {"level": event.level.value, "message": event.message, "detail": event.detail}
        return json.dumps({"schema": SCHEMA, "time": time, **body}, ensure_ascii=False)

    def _progress(self, event: Event) -> None:
        if not sys.stderr.isatty() or self._as_json:
            return
        share = event.done / event.total if event.total else 1.0
        sys.stderr.write(f"\r{_progress_text(event)} ({share:.0%})\x1b[K")
        sys.stderr.flush()
        self._is_line_open = True
        if event.done >= event.total:
            self._end_line()

    def _end_line(self) -> None:
        if self._is_line_open:
            sys.stderr.write("\n")
            self._is_line_open = False


def _progress_text(event: Event) -> str:
    done, total = str(event.done), f"{event.total} {event.unit}"
    if event.unit == "bytes":
        done, total = bytes_text(event.done), bytes_text(event.total)
    detail = f", {event.detail}" if event.detail else ""
    return f"{event.message} {done} of {total}{detail}"
