"""A capture that is told to stop does stop, whatever it is doing at that moment."""

from __future__ import annotations

import signal

import pytest

from pitr.cli.signals import stopped_by_signals
from pitr.vocabulary.event import Event


@pytest.mark.timeout(20)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_in_a_thread_that_holds_the_lock_of_its_event_stops_it(number: int) -> None:
    """A signal comes between any two instructions, also of `wait`, which holds the event's lock."""
    told: list[Event] = []
    with stopped_by_signals(told.append) as stop:
        with stop._cond:
            signal.raise_signal(number)
        assert stop.wait(10)

    assert [event.message for event in told] == ["stopping"]


def test_second_signal_interrupts() -> None:
    """Who cannot wait for the clean stop asks twice."""
    with stopped_by_signals(lambda _event: None) as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.wait(10)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_without_a_signal_handlers_are_put_back() -> None:
    """Afterwards a signal means what it meant before."""
    before = signal.getsignal(signal.SIGTERM)
    with stopped_by_signals(lambda _event: None) as stop:
        assert signal.getsignal(signal.SIGTERM) is not before

    assert signal.getsignal(signal.SIGTERM) is before
    assert not stop.is_set()
