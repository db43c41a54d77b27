"""What the live table itself holds against being written: found from the catalog alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pitr.errors import PrivilegeMissing
from pitr.postgres.merge.planned import PlannedTable
from pitr.postgres.tables.name import quoted
from pitr.postgres.tables.session import Connection, value_of
from pitr.vocabulary.plan import Blocker, BlockerKind, Resolution
from pitr.vocabulary.row_class import Action


@dataclass(frozen=True, slots=True)
class Judgement:
    """Blockers of a table, and what else there is to know before it is written."""

    blockers: tuple[Blocker, ...]
    warnings: tuple[str, ...]


def rights_missing(connection: Connection, table: PlannedTable) -> list[Blocker]:
    """Return the blocker of rights to write that the role lacks, with the GRANTs to be made."""
    if table.is_missing:
        return []
    role = str(value_of(connection, "SELECT current_user"))
    grants = [*_grants(table, role), *_sequence_grants(table, role)]
    if not grants:
        return []
    detail = "; ".join(grants)
    return [table.blocker(BlockerKind.PRIVILEGE_MISSING, detail, Resolution.BLOCKS)]


def check_rights(connection: Connection, tables: Sequence[PlannedTable]) -> None:
    """Raise PrivilegeMissing, with the GRANTs to be made, when the role may not write the plan."""
    found = [blocker for table in tables for blocker in rights_missing(connection, table)]
    if found:
        raise lacking_rights([blocker.detail for blocker in found])


def lacking_rights(grants: Sequence[str]) -> PrivilegeMissing:
    """Return the error for a role that may not write a plan."""
    return PrivilegeMissing(
        "the role may not write what the plan writes; nothing was changed",
        detail="The merge needs rights that the role does not have.",
        hint=f"As the owner of the tables: {'; '.join(grants)};",
    )


def _grants(table: PlannedTable, role: str) -> Iterator[str]:
    live = table.live
    needed: dict[str, list[str]] = {}
    if table.classes(Action.INSERT):
        needed["INSERT"] = list(table.insert_columns)
    if table.classes(Action.UPDATE):
        needed["UPDATE"] = list(table.classified.columns)
    if table.classes(Action.DELETE):
        needed["DELETE"] = []
        needed.setdefault("UPDATE", list(table.classified.columns))  # to lock the rows
    for verb, columns in needed.items():
        if verb in live.privileges:
            continue
        lacking = [name for name in columns if verb not in live.column(name).privileges]
        if lacking or verb == "DELETE":
            listed = f" ({', '.join(map(quoted, lacking))})" if len(lacking) < len(columns) else ""
            yield f"GRANT {verb}{listed} ON {live.name.sql} TO {quoted(role)}"


def _sequence_grants(table: PlannedTable, role: str) -> Iterator[str]:
    if not table.classes(Action.INSERT):
        return
    for sequence in table.live.sequences:
        if sequence.column in table.insert_columns and not (sequence.may_set and sequence.may_read):
            yield f"GRANT SELECT, UPDATE ON SEQUENCE {sequence.name.sql} TO {quoted(role)}"


def judge_table(connection: Connection, table: PlannedTable) -> Judgement:
    """Return what stands in the way of the whole table, and warnings about writing to it."""
    if table.is_missing:
        creation = table.classified.creation
        detail = "the table is gone; --create-missing makes it as it was"
        if creation is not None:
            detail = f"the table is gone, and it cannot be made as it was: {creation.fault}"
        return Judgement(_blocked(table, BlockerKind.SCHEMA_DRIFT, detail), ())
    found = [*_rules(table), *_columns(table), *_published(table)]
    warnings = [*_trigger_warnings(table), *_generated(table), *_downstream(table)]
    warnings += _dropped(table)
    creation = table.classified.creation
    if creation is not None and creation.fault:
        warnings.append(
            f"{table.name}: its partitions cannot be made as they were: {creation.fault}"
        )
    return Judgement(tuple(found), tuple(warnings))


def _blocked(table: PlannedTable, kind: BlockerKind, detail: str) -> tuple[Blocker, ...]:
    if not table.classes():
        return ()
    rows = sum(table.classified.counts.get(row_class, 0) for row_class in table.classes())
    return (table.blocker(kind, detail, Resolution.BLOCKS, rows=rows),)


def _rules(table: PlannedTable) -> tuple[Blocker, ...]:
    if not table.live.rules:
        return ()
    names = ", ".join(table.live.rules)
    detail = f"the rules {names} would put other statements in the place of what is written"
    return _blocked(table, BlockerKind.TRIGGER_SUPPRESSED, detail)


def _columns(table: PlannedTable) -> Iterator[Blocker]:
    needing = [
        column.name
        for column in table.added()
        if column.not_null and column.default is None and not column.identity
    ]
    if needing and table.classes(Action.INSERT):
        detail = f"{', '.join(needing)} needs a value that rows of then do not have; give it with"
        detail += f" --set {needing[0]}=SQL"
        yield from _blocked(table, BlockerKind.SCHEMA_DRIFT, detail)
    if not table.keyless and table.classes(Action.UPDATE):
        always = [c.name for c in table.live.columns if c.identity == "a"]
        fixed = [name for name in always if name in table.classified.columns]
        if fixed:
            detail = f"{', '.join(fixed)} is GENERATED ALWAYS AS IDENTITY, which no UPDATE sets"
            yield from _blocked(table, BlockerKind.CHECK_FAILED, detail)


def _published(table: PlannedTable) -> tuple[Blocker, ...]:
    live = table.live
    if not live.changes_published_by or not table.classes(Action.UPDATE, Action.DELETE):
        return ()
    by_key = any(index.is_primary for index in live.indexes)
    by_index = any(index.is_replica_identity for index in live.indexes)
    has_identity = {"d": by_key, "i": by_index, "f": True}.get(live.replica_identity, False)
    if has_identity:
        return ()
    names = ", ".join(live.changes_published_by)
    detail = f"it is published by {names} and has no replica identity, so that no row of it can be"
    detail += " updated or deleted"
    return _blocked(table, BlockerKind.CHECK_FAILED, detail)


def events(table: PlannedTable) -> dict[str, Action]:
    """Return the events that writing a table sets off."""
    wanted = {"INSERT": Action.INSERT, "UPDATE": Action.UPDATE, "DELETE": Action.DELETE}
    return {event: action for event, action in wanted.items() if table.classes(action)}


def owned_columns(table: PlannedTable, action: Action) -> set[str]:
    """Return the columns that a trigger sets itself when rows are written so."""
    wanted = next(event for event, one in events(table).items() if one is action)
    return {name for trigger in table.live.triggers for name in trigger.owned(wanted)}


def _trigger_warnings(table: PlannedTable) -> Iterator[str]:
    wanted = events(table)
    for trigger in table.live.triggers:
        fires = [event for event in trigger.events if event in wanted]
        if fires:
            sets = f", and sets {', '.join(trigger.assigned)}" if trigger.assigned else ""
            yield (
                f"{table.name}: the trigger {trigger.name} will fire {trigger.timing}"
                f" {' OR '.join(fires)} (calls {trigger.function}{sets})"
            )


def _dropped(table: PlannedTable) -> Iterator[str]:
    """Yield, of each column that was dropped since, how its values can come back by the key.

    That is a step of its own, for somebody to review: nothing adds a column silently.
    """
    before = table.aligned.before
    for name in table.aligned.drift.dropped if not table.keyless else ():
        column = before.column(name)
        if not column.is_generated:
            collation = f" COLLATE {column.collation}" if column.collation else ""
            yield (
                f"{table.name}: the sidecar has the values of {name}; to bring them back, add the"
                f" column again (ALTER TABLE {table.live.name.sql} ADD COLUMN {quoted(name)}"
                f" {column.type}{collation};), and plan and merge once more"
            )


def _generated(table: PlannedTable) -> Iterator[str]:
    for column in table.live.columns:
        was = table.aligned.before.find(column.name)
        if was is not None and was.generated and column.generated and was.default != column.default:
            yield (
                f"{table.name}: the generated column {column.name} is computed otherwise now:"
                f" {column.default}"
            )


def _downstream(table: PlannedTable) -> Iterator[str]:
    live = table.live
    published = sorted({*live.changes_published_by, *live.inserts_published_by})
    if published and table.classes():
        yield f"{table.name}: subscribers of {', '.join(published)} will see what is written"
    large = [column.name for column in live.columns if column.may_name_large_object]
    if large and table.classes(Action.INSERT, Action.UPDATE):
        yield (
            f"{table.name}: {', '.join(large)} may name large objects; the objects themselves do"
            " not come back with the rows"
        )
    if live.partitions > 32 and table.classes():
        yield f"{table.name}: has {live.partitions} partitions, each of which may be locked"


def with_values(table: PlannedTable, options: tuple[tuple[str, str], ...]) -> PlannedTable:
    """Return the table with the values of --set that concern it."""
    found = ((column_meant(table, name), expression) for name, expression in options)
    return replace(table, values=tuple((name, value) for name, value in found if name is not None))


def column_meant(table: PlannedTable, name: str) -> str | None:
    """Return the column, one that was added since, that a name of --set means of a table."""
    place, _, column = name.rpartition(".")
    is_here = not place or place in (table.name, table.aligned.before.name.name)
    return column if is_here and column in table.aligned.drift.added else None
