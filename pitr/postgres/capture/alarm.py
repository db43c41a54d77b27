"""When to say that the archive falls behind: early, and again each time it gets twice as bad."""

from __future__ import annotations

from dataclasses import dataclass

from pitr.vocabulary.event import Event, Level, OnEvent

# Without a limit on the server nothing but its disk ends the waiting.
_BYTES_UNLIMITED = 1 << 30
_SECONDS = 60.0


@dataclass(slots=True)
class LagAlarm:
    """Tell of lag in bytes and in time. `on_event` is called from whatever thread asks."""

    on_event: OnEvent
    _bytes_told: int = 0
    _seconds_told: float = 0.0

    def judge(self, lag_bytes: int, lag_seconds: float, limit_bytes: int | None) -> None:
        """Tell when the lag has reached a new step.

        `limit_bytes` is how much WAL the server keeps for the slot, None without a limit: a quarter
        of it is the first step.
        """
        first = limit_bytes // 4 if limit_bytes else _BYTES_UNLIMITED
        is_news = lag_bytes >= max(first, 2 * self._bytes_told)
        is_news = is_news or lag_seconds >= max(_SECONDS, 2 * self._seconds_told)
        if is_news and lag_bytes:
            self._bytes_told, self._seconds_told = lag_bytes, lag_seconds
            what = f"{lag_bytes} bytes of WAL, {lag_seconds:.0f} s"
            kept = (
                f"The server keeps up to {limit_bytes} bytes for the slot; beyond that it removes "
                "WAL that is not archived, which makes a gap."
                if limit_bytes
                else "The server keeps all of it, without a limit but its disk: "
                "max_slot_wal_keep_size is not set."
            )
            self.on_event(Event(Level.WARNING, f"the archive lags behind: {what}", kept))
        elif self._bytes_told and lag_bytes < first // 2 and lag_seconds < _SECONDS / 2:
            self._bytes_told, self._seconds_told = 0, 0.0
            self.on_event(Event(Level.INFO, "the archive has caught up"))
