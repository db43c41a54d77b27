"""What a benchmark hands back, and how it is shown: tables, aims and bars, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

_BAR_CHARACTERS = 44


@dataclass(frozen=True, slots=True)
class Table:
    """A table of measurements; `note` says what is to be known for reading it."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Aim:
    """Something that was promised: `value` is to be at most, or at least, `limit`."""

    what: str
    value: float
    limit: float
    is_maximum: bool = True

    @property
    def is_met(self) -> bool:
        """Return whether the promise holds."""
        return self.value <= self.limit if self.is_maximum else self.value >= self.limit


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the figure `figure`; bars of one figure share a unit."""

    figure: str
    label: str
    value: float


@dataclass(frozen=True, slots=True)
class Result:
    """What one benchmark measured."""

    tables: list[Table]
    aims: list[Aim] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)


def table_text(table: Table) -> str:
    """Return a table as Markdown that reads well unrendered, too."""
    lines = [table.columns, *table.rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(table.columns))]
    rule = [f"{'-' * (width - (at > 0))}{':' * (at > 0)}" for at, width in enumerate(widths)]
    rows = [_line(cells, widths) for cells in (table.columns, rule, *table.rows)]
    note = f"\n\n{table.note}" if table.note else ""
    return f"**{table.title}**\n\n" + "\n".join(rows) + note


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if at else cell.ljust(width)
        for at, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def aims_text(aims: Sequence[Aim]) -> str:
    """Return what was promised beside what was measured."""
    rows = [
        [
            aim.what,
            f"{'<=' if aim.is_maximum else '>='} {aim.limit:g}",
            f"{aim.value:.3g}",
            "yes" if aim.is_met else "NO",
        ]
        for aim in aims
    ]
    return table_text(Table("Aims", ["what", "aim", "measured", "met"], rows))


def figure_text(bars: Sequence[Bar]) -> str:
    """Return the bars of each figure, drawn with characters."""
    figures: dict[str, list[Bar]] = {}
    for bar in bars:
        figures.setdefault(bar.figure, []).append(bar)
    return "\n\n".join(_figure(title, found) for title, found in figures.items())


def _figure(title: str, bars: Sequence[Bar]) -> str:
    longest = max(bar.value for bar in bars)
    width = max(len(bar.label) for bar in bars)
    lines = [title, ""]
    for bar in bars:
        length = round(_BAR_CHARACTERS * bar.value / longest) if longest else 0
        lines.append(f"  {bar.label.ljust(width)}  {'█' * length or '▏'} {bar.value:.3g}")
    return "\n".join(lines)


def times(value: float) -> str:
    """Return a ratio."""
    return f"{value:.2f} x"


def seconds_text(value: float) -> str:
    """Return seconds."""
    return f"{value:.2f} s"


def bytes_text(value: float) -> str:
    """Return bytes in the unit that suits them."""
    for unit, size in (("GB", 1 << 30), ("MB", 1 << 20), ("KB", 1 << 10)):
        if value >= size:
            number = value / size
            return f"{number:,.0f} {unit}" if number >= 100 else f"{number:.3g} {unit}"
    return f"{value:.0f} B"
