"""Options whose values are sizes and lengths of time."""

from __future__ import annotations

import pytest

from pitr.cli.options import quantity
from pitr.errors import UsageError
from pitr.vocabulary.quantity import parse_duration_us, parse_size_bytes


def test_quantity_is_read_by_its_unit() -> None:
    """`--keep 30d` and the like."""
    assert quantity("--keep", "6h", parse_duration_us, "30d") == 6 * 3_600_000_000
    assert quantity("--max-rate", "2MB", parse_size_bytes, "50MB") == 2 << 20


@pytest.mark.parametrize("text", ["30", "-30d", "30d ago", "1.5h", "", "d"])
def test_what_is_none_is_a_usage_error_with_an_example(text: str) -> None:
    """The option is named, the fault told, and one that would do is shown: exit code 2."""
    with pytest.raises(UsageError) as caught:
        quantity("--keep", text, parse_duration_us, "30d")
    assert caught.value.exit_code == 2
    assert caught.value.message == f"--keep is not understood: {text!r}"
    assert caught.value.detail
    assert caught.value.hint == "Write, for example, '--keep 30d'."
