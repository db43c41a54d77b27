"""Every error says what to do next, whoever raised it."""

from __future__ import annotations

import json

import pytest

from pitr import errors
from pitr.cli.render import emit_error

LEADING = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type)
    and issubclass(kind, errors.PitrError)
    and kind not in (errors.PitrError, errors.Interrupted)
]


@pytest.mark.parametrize("kind", LEADING)
def test_error_without_a_hint_of_its_own_leads_on(kind: type[errors.PitrError]) -> None:
    """The class has one: a full sentence."""
    assert kind.usual_hint
    assert kind.usual_hint[0].isupper() or kind.usual_hint[0] == "'"
    assert kind.usual_hint.endswith(".")


def test_hint_is_shown_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """That of the error where there is one, else that of its class."""
    emit_error(errors.PlanStale("rows moved"), as_json=False)
    assert "\nhint: Run 'pitr plan' again" in capsys.readouterr().err
    emit_error(errors.PlanStale("rows moved", hint="Look."), as_json=True)
    assert json.loads(capsys.readouterr().err)["error"]["hint"] == "Look."
