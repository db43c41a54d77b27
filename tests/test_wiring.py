"""Verbs and engines: each side of a verb fits it, and neither engine loads the other's library."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from pitr.errors import PreconditionFailed
from pitr.operations import engine as engine_module
from pitr.operations.engine import wired
from pitr.operations.when import find_row
from tests.test_tidy import PACKAGE, ROOT

ENGINES = ("sqlite", "postgres")
VERBS = [
    module.name.rpartition(".")[2]
    for module in PACKAGE
    if module.name.startswith("pitr.operations.")
    and module.name.count(".") == 2
    and "wired(" in module.source
    and module.name != engine_module.__name__
]


def functions(module: ModuleType) -> dict[str, inspect.Signature]:
    """Return the signatures of a module's own public functions, types resolved."""
    return {
        name: inspect.signature(value, eval_str=True)
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    }


def without_context(kind: object) -> str:
    """Name a return type; @contextmanager leaves an Iterator where the verb has its manager."""
    text = str(kind)
    for word in ("contextlib.AbstractContextManager", "collections.abc.Iterator"):
        text = text.replace(word, "Block")
    return text


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("verb", VERBS)
def test_side_of_an_engine_has_the_signature_of_the_verb(verb: str, engine: str) -> None:
    """Same names, kinds, types and defaults: `wired` could not be typed otherwise."""
    place = f"pitr.operations.{engine}.{verb}"
    theirs = functions(import_module(place))
    for name, signature in functions(import_module(f"pitr.operations.{verb}")).items():
        if name not in theirs:
            continue
        assert list(theirs[name].parameters.values()) == list(signature.parameters.values())
        given = without_context(theirs[name].return_annotation)
        assert given == without_context(signature.return_annotation)


def test_verbs_are_found_and_sqlite_has_them_all() -> None:
    """The list is of real verbs, and the first engine lacks none."""
    assert {"capture", "check", "restore", "status", "undo"} <= set(VERBS)
    for verb in VERBS:
        neutral = functions(import_module(f"pitr.operations.{verb}"))
        theirs = functions(import_module(f"pitr.operations.sqlite.{verb}"))
        assert set(neutral) & set(theirs), verb


def test_verb_that_an_engine_does_not_have_is_refused() -> None:
    """Exit 3, naming engine and verb, also for an engine from a later version."""
    with pytest.raises(PreconditionFailed, match=r"sources do not have 'when'") as caught:
        wired(find_row, "later")
    assert caught.value.exit_code == 3
    assert caught.value.hint


SHOW_MODULES = """
import sys
from pitr.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as done:
    print(done.code, "apsw" in sys.modules, "psycopg" in sys.modules)
"""


def loaded_by(folder: Path, *words: str) -> tuple[str, ...]:
    """Run a command; return its exit code, and whether apsw and psycopg were loaded."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW_MODULES, *words],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(done.stdout.splitlines()[-1].split())


def test_command_loads_the_library_of_its_own_engine_only(tmp_path: Path) -> None:
    """Starting psycopg costs a tenth of a second, which no SQLite command shall pay."""
    (tmp_path / "orders.db").touch()
    assert loaded_by(tmp_path, "--version") == ("0", "False", "False")
    found = loaded_by(tmp_path, "init", "orders.db", "--archive", "archive")
    assert found == ("0", "True", "False")
    assert loaded_by(tmp_path, "status")[2] == "False"
    there = f"postgresql:///x?host={tmp_path}"
    found = loaded_by(tmp_path, "init", there, "--archive", "other")
    assert found == ("3", "False", "True")
