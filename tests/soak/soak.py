"""The long soak: everything at random on both engines, and a ledger that must hold at the end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.postgres.replay_world import world_folder
from tests.soak.sides import Cluster, Lite
from tests.soak.site import SOURCES, Failed, Site

_MERGE = ("--update", "--on-conflict", "skip", "--yes")
_TRIES = 6


@dataclass
class Figures:
    """What a soak has counted, for the table at its end."""

    seed: int
    seconds: float = 0
    commits: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    lags: dict[str, float] = field(default_factory=dict)
    restores: list[float] = field(default_factory=list)
    drills: list[float] = field(default_factory=list)
    archive_bytes: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yield the table, in Markdown."""
        rows: list[tuple[str, object]] = [("length, s", round(self.seconds))]
        rows += [(f"commits: {name}", count) for name, count in self.commits.items()]
        rows += sorted(self.counts.items())
        rows += [(f"longest lag of capture, {name}, s", lag) for name, lag in self.lags.items()]
        rows += [
            (f"archive of {name}, MB", size >> 20) for name, size in self.archive_bytes.items()
        ]
        for name, found in (("restores", self.restores), ("drills", self.drills)):
            ordered = sorted(found) or [0.0]
            rows.append((f"{name}: seconds to first row, median", ordered[len(ordered) // 2]))
            rows.append((f"{name}: seconds to first row, longest", ordered[-1]))
        rows.append(("faults", len(self.faults)))
        load = os.getloadavg()[0]
        yield f"seed {self.seed}, load at the end {load:.1f} on {os.cpu_count()} cores"
        yield ""
        yield f"| {'what':46} | {'':>12} |"
        yield f"| {'-' * 46} | {'-' * 11}: |"
        for name, value in rows:
            yield f"| {name:46} | {round(value, 2) if isinstance(value, float) else value!s:>12} |"


class Soak:
    """One run. `run` does everything and returns the figures; faults are among them."""

    def __init__(self, folder: Path, sidecars: Path, *, seed: int, rate: int) -> None:
        self._chance = random.Random(seed)
        self._rate = rate
        variables = {"PITR_POLL": "100ms", "PITR_FLUSH": "250ms"}
        variables["PITR_SIDECAR_FOLDER"] = str(sidecars)
        self.site = Site(folder, variables)
        self.figures = Figures(seed)
        self.lite = Lite(folder / "shop.db", seed, pause=0.02)
        self.pg = Cluster(15, seed + 100, pause=0.02)
        self._over = threading.Event()
        self._disturber = threading.Thread(target=self._disturb, args=(random.Random(seed + 7),))
        self._watcher = threading.Thread(target=self._watch)

    def run(self, seconds: float) -> Figures:
        """Begin, act at random for so long, end, and compare."""
        began = time.monotonic()
        try:
            self._begin()
            began = time.monotonic()
            deadline = began + seconds
            is_failed_over = False
            while time.monotonic() < deadline:
                if not is_failed_over and time.monotonic() - began > seconds / 2:
                    is_failed_over = True
                    self._try(self._fail_over)
                self._try(self._chance.choice(self._actions()))
            self._end()
        finally:
            self._over.set()
            self.site.discard()
            self.pg.discard()
        self.figures.seconds = time.monotonic() - began
        self.figures.counts.update(self.site.counts)
        self.figures.faults += self.site.faults
        return self.figures

    # -- the course of it ----------------------------------------------------------------------

    def _begin(self) -> None:
        places = {"pg": self.pg.proxy.url, "lite": str(self.lite.path)}
        for source in SOURCES:
            words = ("init", places[source], "--archive", f"archive-{source}", "--name", source)
            self.site.json(*words)
        self.site.json("backup", "--source", "pg", "--checkpoint", "fast")
        self.site.start_captures()
        self.lite.writers.start()
        self.pg.writers.start()
        self.pg.start_bench(self._rate)
        for source in SOURCES:
            self.site.wait_until_current(source)
        self._disturber.start()
        self._watcher.start()

    def _end(self) -> None:
        self._over.set()
        for thread in (self._disturber, self._watcher):
            thread.join(300)
        self.pg.stop_bench()
        for side in (self.lite, self.pg):
            side.writers.stop()
            self.site.wait_until_current(side.name, 600)
        self.site.stop_captures()
        for side in (self.lite, self.pg):
            self._compare(side.name, "live", side.ledger.faults(side.rows()))
            self._compare(side.name, "archived", side.ledger.faults(self._archived(side.name)))
            self._verify(side.name)
            found = self.site.look(side.name)
            self.figures.archive_bytes[side.name] = found["archive_bytes"] if found else 0
            if found and found["gaps"]:
                self.figures.counts[f"gaps of {side.name}"] += len(found["gaps"])
            self.figures.commits[f"ledger of {side.name}"] = side.ledger.commits
        fault = self.pg.bench_fault()
        self.figures.faults += [fault] if fault else []
        self.figures.commits["pgbench"] = self.pg.bench_commits()
        self.figures.lags = dict(self.site.longest_lag)

    def _compare(self, source: str, which: str, faults: list[str]) -> None:
        if faults:
            shown = "; ".join(faults[:8])
            self.figures.faults.append(f"{source}, {which}: {len(faults)} rows differ: {shown}")

    def _archived(self, source: str) -> list[tuple[int, str, int]]:
        text = "SELECT id, text, version FROM ledger"
        found = self.site.json("sql", "--at", "latest", text, "--source", source)
        return [(int(row[0]), row[1], int(row[2])) for row in found["rows"]]

    def _verify(self, source: str) -> None:
        found = self.site.json("verify", "--source", source)
        if not found["ok"]:
            self.figures.faults.append(f"{source}: verify: {found['damaged']}")
        for number in range(2):
            seed = str(self._chance.randrange(10**6))
            words = ("verify", "--drill", "-t", "ledger", "--seed", seed, "--source", source)
            found = self.site.json(*words)
            self.figures.counts["drills"] += 1
            for table in found["drill"]:
                self.figures.drills.append(float(table["seconds"]))
                if not table["equal"]:
                    self.figures.faults.append(f"{source}: drill {number}: {table}")

    def _try(self, action: Callable[[], None]) -> None:
        """Run an action; what it raises is a fault, and the soak goes on."""
        name = getattr(action, "__name__", "action").lstrip("_")
        print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
        try:
            action()
        except (Failed, AssertionError, KeyError) as error:
            self.figures.faults.append(f"{name}: {error}")
            print(f"         FAULT {error}", flush=True)

    # -- disturbances --------------------------------------------------------------------------

    def _disturb(self, chance: random.Random) -> None:
        while not self._over.wait(chance.uniform(4, 15)):
            with self.site.calm:
                source = chance.choice(SOURCES)
                if chance.random() < 0.6:
                    self.site.kill_capture(source)
                    self._over.wait(chance.choice((0, 0.5, 3)))
                else:
                    self.site.outage(source, chance.uniform(0.5, 6))
                self.site.start_captures()

    def _watch(self) -> None:
        while not self._over.wait(10):
            for source in SOURCES:
                self.site.look(source)

    # -- actions -------------------------------------------------------------------------------

    def _actions(self) -> list[Callable[[], None]]:
        return [
            self._repair_lite, self._repair_pg, self._repair_lite, self._repair_pg,
            self._restore, self._guard_lite, self._guard_pg, self._backup, self._prune,
            self._verify_meanwhile, self._kill_command,
        ]  # fmt: skip

    def _repair_lite(self) -> None:
        self._repair(self.lite)

    def _repair_pg(self) -> None:
        self._repair(self.pg)

    def _repair(self, side: Lite | Cluster) -> None:
        """Damage rows, revert the transaction, merge; sometimes undo, and merge again."""
        side.writers.may_delete.clear()
        try:
            # A commit of SQLite that no capture saw by itself cannot be taken back by itself.
            with self.site.calm:
                self.site.wait_until_current(side.name)
                found = side.accident(self.site, self._chance)
            if found is None:
                return
            position, rows = found
            self.figures.counts["accidents"] += 1
            self.figures.counts["rows damaged"] += rows
            recovery = self._recovered(
                "revert", position, "-t", "ledger", "--source", side.name, "--no-compare"
            )
            if self._chance.random() < 0.3:
                self.site.killed(self._chance, "merge", recovery, *_MERGE, "--source", side.name)
            merge = self._merged(side, recovery)
            if merge is not None and self._chance.random() < 0.4:
                words = ("undo", merge, "--on-conflict", "skip", "--yes", "--source", side.name)
                self._again(*words)
                self.figures.counts["undos"] += 1
                self._merged(side, recovery)
            self.site.json("recoveries", "drop", recovery, "--source", side.name)
        finally:
            side.writers.may_delete.set()

    def _merged(self, side: Lite | Cluster, recovery: str) -> str | None:
        done = self._again("merge", recovery, *_MERGE, "--source", side.name)
        self.figures.counts["merges"] += 1
        self.figures.counts["rows merged"] += done["inserted"] + done["updated"]
        merge = done.get("merge")
        return None if merge is None else str(merge)

    def _recovered(self, *words: str) -> str:
        found = self._again(*words)
        self.figures.counts["restores"] += 1
        self.figures.restores.append(float(found["seconds"]))
        return str(found["recovery"])

    def _again(self, *words: str) -> dict[str, Any]:
        """Run a command that an outage or a moved row may refuse, until it succeeds."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(Failed):
                return self.site.json(*words)
            self.figures.counts["commands run again"] += 1
            time.sleep(2)
        return self.site.json(*words)

    def _restore(self) -> None:
        """Restore the ledger of some seconds ago, compared with live, and drop it again."""
        source = self._chance.choice(SOURCES)
        at = f"{self._chance.randrange(5, 40)}s"
        recovery = self._recovered("restore", "-t", "ledger", "--at", at, "--source", source)
        self.site.json("recoveries", "drop", recovery, "--source", source)

    def _guard_lite(self) -> None:
        self._guard(self.lite)

    def _guard_pg(self) -> None:
        self._guard(self.pg)

    def _guard(self, side: Lite | Cluster) -> None:
        """Let a guarded command delete rows of a table that nobody else writes."""
        rows = self._chance.randrange(3, 40)
        side.execute("DELETE FROM scratch")
        values = ", ".join(f"({number}, 'x')" for number in range(rows))
        side.execute(f"INSERT INTO scratch VALUES {values}")
        with self.site.calm:
            words = side.script("DELETE FROM scratch WHERE id % 3 = 0")
            code, out, err = self.site.run(
                "guard", "run", "--json", "--source", side.name, "--", *words
            )
        if code != 0:
            raise Failed(f"guard run ended with {code}\n{err[-800:]}")
        found = json.loads(out[out.rfind("\n{\n") + 1 :])
        gone = sum(table["deleted"] for table in found["tables"] if "scratch" in table["table"])
        self.figures.counts["guard runs"] += 1
        if gone != len(range(0, rows, 3)):
            raise Failed(f"guard run told of {gone} rows of {rows}: {found['tables']}")

    def _backup(self) -> None:
        source = self._chance.choice(SOURCES)
        words = ("--checkpoint", "fast") if source == "pg" else ()
        self._again("backup", "--source", source, *words)
        self.figures.counts["backups"] += 1

    def _prune(self) -> None:
        source = self._chance.choice(SOURCES)
        self._again("prune", "--keep", "2m", "--keep-bases", "2", "--yes", "--source", source)
        self.figures.counts["prunes"] += 1

    def _verify_meanwhile(self) -> None:
        source = self._chance.choice(SOURCES)
        with self.site.calm:  # an archive that is away is damaged, rightly
            found = self.site.json("verify", "--source", source)
        self.figures.counts["verifications"] += 1
        if not found["ok"]:
            raise Failed(f"verify of {source}: {found['damaged']}")

    def _kill_command(self) -> None:
        source = self._chance.choice(SOURCES)
        fast = ("--checkpoint", "fast") if source == "pg" else ()
        words = self._chance.choice(
            [
                ("backup", *fast),
                ("restore", "-t", "ledger", "--at", "5s"),
                ("verify",),
                ("mark", f"k{time.time_ns()}"),
                ("prune", "--keep", "2m", "--keep-bases", "2", "--yes"),
            ]
        )
        self.site.killed(self._chance, *words, "--source", source)

    def _fail_over(self) -> None:
        with self.site.calm:
            how = self.pg.fail_over(self._chance)
        self.figures.counts[f"failovers, primary {how}"] += 1
        self.pg.stop_bench()
        self.pg.start_bench(self._rate)
        self.site.wait_until_current("pg", 300)
        self._again("backup", "--source", "pg", "--checkpoint", "fast")


def soak(folder: Path, *, seconds: float, seed: int, rate: int = 20) -> Figures:
    """Run a soak in an empty folder; print its course; return its figures."""
    with world_folder() as sidecars:
        return Soak(folder, sidecars, seed=seed, rate=rate).run(seconds)
