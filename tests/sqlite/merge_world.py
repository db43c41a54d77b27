"""A world in which recoveries are merged: a real database, its archive, its recoveries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pitr.config import Config, Settings
from pitr.errors import PitrError
from pitr.operations.merge import MergeResult
from pitr.operations.sqlite.merge import Run, run_plan
from pitr.operations.undo import UndoWish, undo
from pitr.recovery.folder import RecoveredTable, Recovery, new_recovery
from pitr.sqlite.diff.classified import classify
from pitr.sqlite.diff.states import StateSources, open_states
from pitr.sqlite.merge.plan import PlanRequest, PreparedPlan, attached_past, make_plan
from pitr.vocabulary.plan import MergeOptions, MergeStep, OnStep, Plan
from pitr.vocabulary.row_class import ConflictPolicy
from pitr.vocabulary.target import ResolvedTarget
from tests.sqlite.diff_world import DiffWorld

# Every row of every table, each value with its type as `quote` writes it.
Image = dict[str, Counter[tuple[str, ...]]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a merge ended: with a result, or with an error; and the exit code of the command."""

    code: int
    result: MergeResult | None = None
    error: PitrError | None = None

    @property
    def merge(self) -> str:
        """Return the merge's id; there must be one."""
        assert self.result is not None, self.error
        assert self.result.merge is not None, self.result.plan
        return self.result.merge


def conflicts(plan: Plan) -> dict[tuple[str, str], int]:
    """Return the rows of each blocker, by kind and table."""
    found: Counter[tuple[str, str]] = Counter()
    for blocker in plan.blockers:
        found[str(blocker.kind), blocker.table] += blocker.rows
    return dict(found)


def counts(plan: Plan) -> dict[str, int]:
    """Return the rows of each class by its text."""
    return {str(name): count for name, count in plan.counts.items()}


class MergeWorld(DiffWorld):
    """A DiffWorld with a state folder. Merging runs in this process, the application never does."""

    def __init__(self, folder: Path, *statements: str, mode: str = "WAL") -> None:
        super().__init__(folder, *statements, mode=mode)
        self.state = folder / "state"
        self._recoveries = 0

    def settings(self) -> Settings:
        """Return settings that know the state folder alone."""
        config = Config(path=None, sources={}, environment={}, folder=self.folder)
        return config.choose(flags={"archive": "elsewhere", "state": str(self.state)})

    def plan(self, before: int, *tables: str, **how: Any) -> Plan:
        """Plan a merge of a recovery made now, on states opened for reading."""
        request, sources = self._split(before, tables, how)
        with open_states(sources, wait_seconds=0) as states, attached_past(states) as past:
            return self._make(states, request, past).plan

    def merge(
        self,
        before: int,
        *tables: str,
        is_agreed: bool = True,
        confirm: Callable[[Plan], None] = lambda _plan: None,
        on_step: OnStep = lambda _step: None,
        lock_seconds: float = 2.0,
        **how: Any,
    ) -> Outcome:
        """Merge a recovery made now, and return how it ended."""
        request, sources = self._split(before, tables, how)
        run = Run(
            state=self.state,
            recovery=self._recovery(sources),
            undoes=None,
            is_agreed=is_agreed,
            saved=None,
            lock_seconds=lock_seconds,
            confirm=confirm,
            on_step=on_step,
        )
        try:
            with (
                open_states(sources, wait_seconds=0, writable=True) as states,
                attached_past(states) as past,
            ):
                result = run_plan(states, self._with_past(request, run.recovery, past), run)
        except PitrError as error:
            return Outcome(error.exit_code, error=error)
        return Outcome(1 if result.plan.blocking else 0, result)

    def undo(
        self,
        merge: str,
        *,
        on_conflict: str = "abort",
        on_step: OnStep = lambda _step: None,
        lock_seconds: float = 2.0,
    ) -> Outcome:
        """Take a merge back, and return how it ended."""
        wish = UndoWish(
            merge_id=merge,
            on_conflict=ConflictPolicy(on_conflict),
            is_agreed=True,
            lock_seconds=lock_seconds,
        )
        try:
            result = undo(self.settings(), wish, confirm=lambda _plan: None, on_step=on_step)
        except PitrError as error:
            return Outcome(error.exit_code, error=error)
        return Outcome(1 if result.plan.blocking else 0, result)

    def image(self) -> Image:
        """Return every row of the live database, shadow tables included, as the app sees it."""
        names = self.app.run("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        found: Image = {}
        for (name,) in names:
            quoted = name.replace('"', '""')
            columns = self.app.run("SELECT name FROM pragma_table_xinfo(?) WHERE hidden <> 1", name)
            taken = ", ".join('quote("{}")'.format(c[0].replace('"', '""')) for c in columns)
            rows = self.app.run(f'SELECT {taken} FROM "{quoted}"')
            found[name] = Counter(map(tuple, rows))
        return found

    def changed_since(self, image: Image) -> dict[str, tuple[list[Any], list[Any]]]:
        """Return, of each table that changed, the rows that went and those that came.

        That nothing else is listed is the proof that all other rows are what they were.
        """
        now = self.image()
        found = {}
        for name in sorted(image.keys() | now.keys()):
            was, became = image.get(name, Counter()), now.get(name, Counter())
            if was != became:
                gone, come = sorted((was - became).elements()), sorted((became - was).elements())
                found[name] = (gone, come)
        return found

    def _split(
        self, before: int, tables: Sequence[str], how: dict[str, Any]
    ) -> tuple[PlanRequest, StateSources]:
        chosen = {
            name: how.pop(name) for name in ("after", "where", "columns", "archive") if name in how
        }
        how["on_conflict"] = ConflictPolicy(how.pop("on_conflict", "abort"))
        how["set_columns"] = tuple(how.pop("set_columns", {}).items())
        sources = self.sources(before, *tables, **chosen)
        options = MergeOptions(**how)
        request = PlanRequest(
            recovery="r", source=str(self.path), target=f"commit:{before}", options=options
        )
        return request, sources

    def _with_past(self, request: PlanRequest, recovery: str, past: str | None) -> PlanRequest:
        return PlanRequest(
            recovery=recovery,
            source=request.source,
            target=request.target,
            options=request.options,
            past=past,
        )

    def _make(self, states: Any, request: PlanRequest, past: str | None) -> PreparedPlan:
        return make_plan(states, classify(states), self._with_past(request, "r", past))

    def _recovery(self, sources: StateSources) -> str:
        """Make the folder of a recovery, as `restore` does."""
        self._recoveries += 1
        with new_recovery(self.state, label="test", now_us=self._recoveries * 1_000_000) as new:
            recovery = Recovery(
                id=new.id,
                engine="sqlite",
                source=str(self.path),
                archive="memory",
                created_us=self._recoveries,
                target="test",
                resolved=ResolvedTarget(None, f"commit:{sources.before_commit}", None, None),
                sidecar=str(sources.sidecar),
                tables=tuple(RecoveredTable(name, 0) for name in sources.tables),
                where=None,
                seconds=0.0,
                bytes_read=0,
            )
            new.finish(recovery)
        return new.id


@contextmanager
def making_merge_worlds(folder: Path) -> Iterator[Callable[..., MergeWorld]]:
    """Yield a function that makes worlds in folders of their own, and close them at the end."""
    worlds: list[MergeWorld] = []

    def make(*statements: str, mode: str = "WAL") -> MergeWorld:
        own = folder / str(len(worlds))
        own.mkdir()
        worlds.append(MergeWorld(own, *statements, mode=mode))
        return worlds[-1]

    try:
        yield make
    finally:
        for world in worlds:
            world.close()


class Interrupting:
    """Runs something when a merge comes to a step."""

    def __init__(self, at: MergeStep, action: Callable[[], object]) -> None:
        self._at, self._action, self.times = at, action, 0

    def __call__(self, step: MergeStep) -> None:
        """Hear of a step."""
        if step is self._at:
            self.times += 1
            if self.times == 1:
                self._action()
