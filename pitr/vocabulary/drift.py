"""How a live table differs in its columns from what it was, alike for both engines."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class SchemaDrift:
    """How the table differs from what it was at the target, columns by their names.

    `renamed` has (name before, live name), `type_changed` (live name, type before, live type),
    `incomparable` the columns that are computed on one side only or had no place in the state
    after the damage, `readded` those that were dropped and added again. `missing`: there is no live
    table. `recreated`: it was dropped and made anew.
    """

    added: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    type_changed: tuple[tuple[str, str, str], ...] = ()
    incomparable: tuple[str, ...] = ()
    renamed_table: bool = False
    missing: bool = False
    recreated: bool = False
    readded: tuple[str, ...] = ()

    @property
    def is_none(self) -> bool:
        """Return whether the table is as it was."""
        return self == SchemaDrift()

    def sentences(self, table: str) -> tuple[str, ...]:
        """Return what there is to say about it, for people."""
        said = []
        if self.missing:
            said.append("the live database has no such table")
        if self.renamed_table:
            said.append("the live table has another name now")
        if self.recreated:
            said.append("the table was dropped and made anew since")
        if self.added:
            said.append(f"added since: {', '.join(self.added)}")
        if self.readded:
            said.append(f"dropped and added again since: {', '.join(self.readded)}")
        if self.dropped:
            said.append(f"gone since, not compared: {', '.join(self.dropped)}")
        said += [f"{old} is called {new} now" for old, new in self.renamed]
        said += [
            f"the type of {name} was {old or 'none'} and is {new or 'none'}"
            for name, old, new in self.type_changed
        ]
        if self.incomparable:
            said.append(f"not compared: {', '.join(self.incomparable)}")
        return tuple(f"{table}: {sentence}" for sentence in said)
