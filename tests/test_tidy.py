"""The rules of the house, read from the source with `ast`. Goal: layering and habits cannot rot.

Method: a rule is a function from a parsed module to findings. `test_tree_keeps_rule` runs each over
the whole tree. `test_rule_reports_its_violation` feeds each a snippet that breaks it, so that no
rule can pass by seeing nothing. What needs more than one module (cycles, orphans, the SQL files,
the packaging) stands below as tests of its own, each with its own counter-example.
"""

from __future__ import annotations

import ast
import graphlib
import itertools
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

import pitr

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = ROOT / "docs" / "ARCHITECTURE.md"
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
LINE_WIDTH_MAX = 100
SQL_LINES_MAX = 5

# Which part of the tree may import a third-party name: one owner each, so that it can be replaced.
OWNERS = {
    "apsw": "pitr.sqlite",
    "click": "pitr.cli",
    "cryptography": "pitr.archive.sealing",
    "google_crc32c": "pitr.postgres.wal",
    "obstore": "pitr.archive.cloud",
    "pglast": "pitr.postgres",
    "psycopg": "pitr.postgres",
    "whenever": "pitr.target_text",
}
BANNED_NAMES = {"common", "data", "handler", "helper", "helpers", "info", "manager", "misc"}
BANNED_NAMES |= {"util", "utils"}
DURABLE_NAMES = {"fdatasync", "fsync", "link", "rename", "renames", "replace"}


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """One parsed source file; `name` is dotted, a package's `__init__` has the package's name."""

    name: str
    path: str
    source: str
    tree: ast.Module

    def at(self, node: ast.AST, text: str) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {text}"

    def is_in(self, *owners: str) -> bool:
        return any(self.name == owner or self.name.startswith(f"{owner}.") for owner in owners)


def parse(name: str, source: str, path: str | None = None) -> Module:
    return Module(name, path or f"{name.replace('.', '/')}.py", source, ast.parse(source))


def read_modules(folder: str) -> list[Module]:
    modules = []
    for file in sorted((ROOT / folder).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules.append(parse(name, file.read_text(), str(file.relative_to(ROOT))))
    return modules


PACKAGE = read_modules("pitr")
EVERYTHING = PACKAGE + [
    module for folder in ("tests", "tools", "bench", "sql") for module in read_modules(folder)
]
MODULE_NAMES = {module.name for module in PACKAGE} | {"pitr._speedups"}


def read_floors(text: str) -> dict[str, float]:
    """Return the height of each part from the floor table: `| 0 | `a` → `b`, `c` | … |`.

    Parts of one floor stand at one height; after an arrow a part stands a little above the one
    before it, and may import it.
    """
    floors = {}
    for floor, parts in re.findall(r"^\| *(\d) *\| *([^|]+)\|", text, re.MULTILINE):
        for chain in parts.split(","):
            for step, part in enumerate(re.findall(r"`(\w+)(?:/|\.py|\.c)?`", chain)):
                floors[part] = int(floor) + step / 10
    return floors


FLOORS = read_floors(ARCHITECTURE.read_text())


def imports(module: Module, known: Iterable[str] = MODULE_NAMES) -> Iterator[tuple[ast.AST, str]]:
    """Yield (node, dotted name) of each import, also of a module that a string names."""
    for node in nodes(module):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield node, full if full in known else str(node.module)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found = re.fullmatch(r"(pitr(?:\.\w+)+)(?::\w+)?", node.value)
            if found and found[1] in known:
                yield node, found[1]


def part_of(name: str) -> str:
    return name.partition(".")[2].partition(".")[0]


@cache
def nodes(module: Module) -> tuple[ast.AST, ...]:
    """Return every node of a module: walked once for all the rules."""
    return tuple(ast.walk(module.tree))


@cache
def calls(module: Module) -> list[tuple[ast.Call, str]]:
    """Return every call with the name of what is called."""
    found = (node for node in nodes(module) if isinstance(node, ast.Call))
    return [(node, ast.unparse(node.func)) for node in found]


def names_from(module: Module, source: str) -> Iterator[tuple[ast.ImportFrom, str]]:
    for node in nodes(module):
        if isinstance(node, ast.ImportFrom) and node.module == source:
            yield from ((node, alias.name) for alias in node.names)


# ---- rules over one module -----------------------------------------------------------------------

Rule = Callable[[Module], Iterator[str]]
RULES: dict[str, tuple[Rule, list[Module], str]] = {}


def rule(advice: str, *, modules: list[Module] = PACKAGE) -> Callable[[Rule], Rule]:
    """Register a rule with the sentence that tells whoever breaks it what to do."""

    def register(function: Rule) -> Rule:
        RULES[function.__name__] = (function, modules, advice)
        return function

    return register


@rule("Hand values up instead, or move the code; the floors are drawn in docs/ARCHITECTURE.md.")
def imports_only_lower_floors(module: Module) -> Iterator[str]:
    own = part_of(module.name)
    if own in ("", "__main__"):
        return
    for node, name in imports(module):
        part = part_of(name)
        if name.split(".")[0] != "pitr" or part in ("", own, "sql"):
            continue
        if own not in FLOORS or part not in FLOORS:
            yield module.at(node, f"{own} or {part} is missing from the floor table")
        elif FLOORS[part] >= FLOORS[own]:
            yield module.at(node, f"{own} may not import {part}")


@rule("Write the import in full: `from pitr.archive.store import Store`.", modules=EVERYTHING)
def imports_in_full(module: Module) -> Iterator[str]:
    for node in nodes(module):
        if isinstance(node, ast.ImportFrom) and (node.level or node.names[0].name == "*"):
            yield module.at(node, "relative or star import")


@rule("Only the owner may import this library; ask it through the owner's functions.")
def libraries_have_one_owner(module: Module) -> Iterator[str]:
    for node, name in imports(module):
        owner = OWNERS.get(name.split(".")[0])
        if owner and not module.is_in(owner):
            yield module.at(node, f"{name} belongs to {owner}")


@rule("Declare the library in pyproject.toml with its reason in docs/decisions, or do without it.")
def libraries_are_declared(module: Module) -> Iterator[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = re.findall(r"^[\w-]+", "\n".join(project["dependencies"]), re.MULTILINE)
    declared = {name.replace("-", "_") for name in names}
    for node, name in imports(module):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names | declared | {"pitr"}:
            yield module.at(node, f"{top} is no dependency of the project")


@rule(f"Cut it along its steps: at most {FUNCTION_LINES_MAX} lines.", modules=EVERYTHING)
def functions_fit_a_screen(module: Module) -> Iterator[str]:
    for node in nodes(module):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                yield module.at(node, f"{node.name} has {lines} lines")


@rule(f"Cut the file along its subjects: at most {FILE_LINES_MAX} lines.", modules=EVERYTHING)
def files_have_one_subject(module: Module) -> Iterator[str]:
    lines = module.source.count("\n")
    if lines > FILE_LINES_MAX:
        yield f"{module.path}: {lines} lines"


@rule(f"Break the line: at most {LINE_WIDTH_MAX} characters.", modules=EVERYTHING)
def lines_fit_the_width(module: Module) -> Iterator[str]:
    for number, line in enumerate(module.source.splitlines(), start=1):
        if len(line) > LINE_WIDTH_MAX:
            yield f"{module.path}:{number}: {len(line)} characters"


@rule("Return the value and let pitr/cli render it; log with the logging module.")
def only_cli_prints(module: Module) -> Iterator[str]:
    if module.is_in("pitr.cli"):
        return
    for call, name in calls(module):
        if name in ("print", "input"):
            yield module.at(call, "prints")
    for node in nodes(module):
        is_stream = isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr")
        if is_stream and ast.unparse(node).startswith("sys."):
            yield module.at(node, "touches the terminal")


@rule("Raise a PitrError with its exit code; the one error boundary is in pitr/cli.")
def only_cli_exits(module: Module) -> Iterator[str]:
    if module.is_in("pitr.cli"):
        return
    for node, name in calls(module):
        if name in ("sys.exit", "os._exit", "exit", "quit", "SystemExit"):
            yield module.at(node, f"{name} ends the process")


@rule("Call pitr/durable.py: what survives a power loss is decided in that one file.")
def only_durable_syncs_and_renames(module: Module) -> Iterator[str]:
    if module.name == "pitr.durable":
        return
    for node, name in calls(module):
        owner, _, method = name.rpartition(".")
        # pathlib's replace takes one argument, str's two and the values' only keywords.
        path_replace = method == "replace" and len(node.args) == 1 and not node.keywords
        path_call = owner and (method in ("rename", "hardlink_to") or path_replace)
        if (owner == "os" and method in DURABLE_NAMES) or name == "shutil.move" or path_call:
            yield module.at(node, name)
    for line, name in names_from(module, "os"):
        if name in DURABLE_NAMES:
            yield module.at(line, f"os.{name}")


@rule("Give the zone: `datetime.now(UTC)`, or count integer microseconds since the epoch.")
def times_have_a_zone(module: Module) -> Iterator[str]:
    for node, name in calls(module):
        method = name.rpartition(".")[2]
        given = len(node.args) + len(node.keywords)
        if (
            (name.endswith("datetime.now") and not given)
            or (name.endswith("datetime.fromtimestamp") and given < 2)
            or method in ("utcnow", "utcfromtimestamp")
            or name.endswith(("date.today", "datetime.today"))
        ):
            yield module.at(node, f"{name} has no zone")


@rule("Name the module after what it knows; such a name lets anything in.", modules=EVERYTHING)
def modules_are_named_for_what_they_know(module: Module) -> Iterator[str]:
    last = module.name.rpartition(".")[2]
    if last.strip("_") in BANNED_NAMES:
        yield f"{module.path}: {last}"


@rule("Move the statement to sql/, with a header; sql/README.md shows how.")
def long_sql_has_its_own_file(module: Module) -> Iterator[str]:
    if module.name == "pitr.cli.demo_shop":
        return  # the demo's application: a program that knows nothing of pitr
    for node in nodes(module):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(getattr(part, "value", "?")) for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        begins = re.match(r"\s*(select|insert|update|delete|with|create)\s", text, re.IGNORECASE)
        if begins and len(text.strip().splitlines()) > SQL_LINES_MAX:
            yield module.at(node, f"{len(text.strip().splitlines())} lines of SQL")


VIOLATIONS = [
    (
        "imports_only_lower_floors",
        "pitr.archive.x",
        "from pitr.sqlite.rows.log import log",
    ),
    ("imports_only_lower_floors", "pitr.diff.x", "import pitr.archive.store"),
    ("imports_only_lower_floors", "pitr.archive.x", "from pitr import config"),
    ("imports_only_lower_floors", "pitr.errors", "def f():\n    from pitr.durable import sync"),
    ("imports_only_lower_floors", "pitr.archive.x", "LAZY = 'pitr.cli.main:main'"),
    ("imports_only_lower_floors", "pitr.nowhere", "import pitr.errors"),
    ("imports_in_full", "pitr.archive.x", "from . import store"),
    ("imports_in_full", "pitr.archive.x", "from pitr.archive.store import *"),
    ("libraries_have_one_owner", "pitr.archive.x", "import apsw.ext"),
    ("libraries_have_one_owner", "pitr.operations.x", "from click import echo"),
    ("libraries_have_one_owner", "pitr.sqlite.x", "import click"),
    ("libraries_have_one_owner", "pitr.archive.local", "import obstore"),
    ("libraries_have_one_owner", "pitr.cli.x", "def f():\n    import whenever"),
    ("libraries_are_declared", "pitr.sqlite.x", "import numpy"),
    ("functions_fit_a_screen", "pitr.x", "def f():\n" + "    pass\n" * FUNCTION_LINES_MAX),
    ("files_have_one_subject", "pitr.x", "pass\n" * (FILE_LINES_MAX + 1)),
    ("lines_fit_the_width", "pitr.x", "#" * (LINE_WIDTH_MAX + 1)),
    ("only_cli_prints", "pitr.sqlite.x", "print('done')"),
    ("only_cli_prints", "pitr.sqlite.x", "import sys\nsys.stderr.write('done')"),
    ("only_cli_exits", "pitr.operations.x", "import sys\nsys.exit(1)"),
    ("only_cli_exits", "pitr.operations.x", "raise SystemExit(1)"),
    ("only_durable_syncs_and_renames", "pitr.archive.x", "import os\nos.fsync(3)"),
    ("only_durable_syncs_and_renames", "pitr.archive.x", "import os\nos.replace('a', 'b')"),
    ("only_durable_syncs_and_renames", "pitr.archive.x", "from os import link"),
    ("only_durable_syncs_and_renames", "pitr.archive.x", "path.rename(other)"),
    ("only_durable_syncs_and_renames", "pitr.archive.x", "path.replace(other)"),
    ("times_have_a_zone", "pitr.x", "datetime.now()"),
    ("times_have_a_zone", "pitr.x", "datetime.datetime.fromtimestamp(0)"),
    ("times_have_a_zone", "pitr.x", "datetime.utcnow()"),
    ("modules_are_named_for_what_they_know", "pitr.archive.utils", ""),
    ("modules_are_named_for_what_they_know", "pitr.manager", ""),
    ("long_sql_has_its_own_file", "pitr.x", "S = '''select 1" + ",\n 2" * SQL_LINES_MAX + "'''"),
    ("long_sql_has_its_own_file", "pitr.x", "S = f'''with {a}" + ",\n 2" * SQL_LINES_MAX + "'''"),
]
FAITHFUL = """
from datetime import UTC, datetime
from dataclasses import replace
from pitr.errors import PitrError
from pitr.archive.store import Store

def answer(text, value):
    if not text.replace("a", "b"):
        raise PitrError("nothing to do")
    return replace(value, time=datetime.now(UTC)), "select 1"
"""


@pytest.mark.parametrize("name", RULES)
def test_tree_keeps_rule(name: str) -> None:
    """No module of the tree breaks the rule."""
    check, modules, advice = RULES[name]
    findings = [finding for module in modules for finding in check(module)]

    assert not findings, "\n".join([advice, *findings])


@pytest.mark.parametrize(("name", "module", "source"), VIOLATIONS)
def test_rule_reports_its_violation(name: str, module: str, source: str) -> None:
    """A rule that is fed its own violation reports it, so it cannot pass by seeing nothing."""
    assert list(RULES[name][0](parse(module, source)))


@pytest.mark.parametrize("name", RULES)
def test_rule_accepts_faithful_code(name: str) -> None:
    """A rule reports nothing on code that keeps it."""
    assert not list(RULES[name][0](parse("pitr.sqlite.example", FAITHFUL)))


def test_every_rule_has_a_violation_to_prove_it() -> None:
    """No rule stands without a counter-example."""
    assert set(RULES) == {name for name, _, _ in VIOLATIONS}


# ---- the floors ----------------------------------------------------------------------------------


def test_floor_table_names_every_part_of_the_tree() -> None:
    """docs/ARCHITECTURE.md gives each package and module under pitr/ its floor, and no other."""
    parts = {part_of(module.name) for module in PACKAGE} - {"", "__main__"} | {"_speedups"}

    assert not parts - set(FLOORS), "give these a floor in the table of docs/ARCHITECTURE.md"
    assert not set(FLOORS) - parts, "the floor table names what does not exist"


def test_floor_table_with_arrow_orders_parts_of_one_floor() -> None:
    """The reader of the table understands numbers, commas and arrows."""
    floors = read_floors("| 1 | `b/`, `c.py` | … |\n| 0 | `v/` → `e.py`, `_s.c` | … |")

    assert floors == {"b": 1, "c": 1, "v": 0, "e": 0.1, "_s": 0}


# ---- rules over many modules ---------------------------------------------------------------------


def find_cycles(modules: list[Module]) -> list[str]:
    names = {module.name for module in modules}
    graph = {
        module.name: {name for _, name in imports(module, names) if name in names - {module.name}}
        for module in modules
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [" → ".join(error.args[1])]
    return []


def find_orphans(modules: list[Module], entries: set[str]) -> list[str]:
    names = {module.name for module in modules}
    imported = {name for module in modules for _, name in imports(module, names)}
    packages = {name.rpartition(".")[0] for name in names}
    return sorted(names - imported - packages - entries)


def test_tree_has_no_import_cycle() -> None:
    """Modules form an acyclic order: cut a cycle by moving what both need into a lower module."""
    assert not find_cycles(PACKAGE)


def test_cycle_of_two_modules_is_reported() -> None:
    """The search for cycles sees one."""
    modules = [
        parse("pitr.a.x", "from pitr.a.y import f"),
        parse("pitr.a.y", "def g():\n    import pitr.a.x"),
    ]

    assert find_cycles(modules)


def test_tree_has_no_orphan_module() -> None:
    """Every module is imported by another or is an entry point: wire it in or delete it."""
    wired = {module.name for module in PACKAGE if is_wired(module)}

    assert not find_orphans(PACKAGE, entries={"pitr.__main__", "pitr.cli.main"} | wired)


def is_wired(module: Module) -> bool:
    """Whether it is an engine's side of a verb, which `pitr.operations.engine` finds by name."""
    package, _, verb = module.name.rpartition(".")
    operations, _, engine = package.rpartition(".")
    known = f"{operations}.{verb}" in MODULE_NAMES
    side = operations == "pitr.operations" and engine in ("sqlite", "postgres") and known
    return side or module.name == "pitr.operations.postgres"


def test_orphan_module_is_reported() -> None:
    """The search for orphans sees one, and counts a lazily named module as used."""
    modules = [
        parse("pitr", ""),
        parse("pitr.cli", ""),
        parse("pitr.cli.main", "LAZY = {'restore': 'pitr.cli.restore:restore'}"),
        parse("pitr.cli.restore", ""),
        parse("pitr.cli.forgotten", ""),
    ]

    assert find_orphans(modules, entries={"pitr.cli.main"}) == ["pitr.cli.forgotten"]


# ---- the SQL files -------------------------------------------------------------------------------


def sql_header_fault(text: str) -> str | None:
    lines = itertools.takewhile(lambda line: line.startswith("--"), text.splitlines())
    header = "\n".join(lines)
    if not header:
        return "has no header"
    missing = [word for word in ("Parameters:", "Result:") if f"-- {word}" not in header]
    return f"header lacks {' and '.join(missing)}" if missing else None


def test_sql_files_have_headers() -> None:
    """Each file says what goes in and what comes out, as sql/README.md shows."""
    faults = {str(f.relative_to(ROOT)): sql_header_fault(f.read_text()) for f in sql_files()}

    assert not {path: fault for path, fault in faults.items() if fault}


def test_sql_files_are_all_read_by_some_module() -> None:
    """A statement that nobody runs is deleted."""
    sources = "\n".join(module.source for module in PACKAGE)

    assert not [str(file.relative_to(ROOT)) for file in sql_files() if file.stem not in sources]


@pytest.mark.parametrize(
    "text",
    ["select 1;", "-- Answer.\nselect 1;", "-- Answer.\n-- Parameters: none.\nselect 1;"],
)
def test_sql_header_with_a_part_missing_is_reported(text: str) -> None:
    """A header without its parts is a fault; a full one is none."""
    assert sql_header_fault(text)
    assert not sql_header_fault(f"-- Answer.\n-- Parameters: none.\n-- Result: none.\n{text}")


def sql_files() -> list[Path]:
    return sorted((ROOT / "sql").rglob("*.sql"))


# ---- the packaging -------------------------------------------------------------------------------


def test_version_is_the_same_everywhere() -> None:
    """pyproject.toml, pitr.__version__ and the newest entry of CHANGELOG.md name one version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    newest = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert pitr.__version__ == project["version"]
    assert newest
    assert pitr.__version__ == newest[1]


def test_packages_of_the_wheel_are_the_packages_of_the_tree() -> None:
    """pyproject.toml names every package: one left out would be missing after installation."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    found = {module.name for module in PACKAGE if module.path.endswith("__init__.py")}
    folders = {".".join(Path(module.path).parent.parts) for module in PACKAGE}

    assert folders == found, "every folder with modules needs an __init__.py"
    assert set(tools["setuptools"]["packages"]) == found | {"pitr.sql"}


# ---- nothing of one machine ----------------------------------------------------------------------

# Written so that this file does not contain what it forbids.
MACHINE = re.compile(
    r"(?<![\w.$}~-])/(?:root|work|home|tmp)/\w"
    r"|shared/(?:design|research)"
    r"|(?:pypi|pythonhosted|npmjs|debian)\.org"
    r"|--(?:extra-)?index-url|--find-links"
)


def text_files() -> Iterator[Path]:
    kinds = {".py", ".md", ".toml", ".sql", ".sh", ".c", ".h", ".pyi", ""}
    folders = ("pitr", "docs", "sql", "tools", "bench", "tests", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")] + [*ROOT.iterdir()]
    for path in sorted(files):
        hidden = "__pycache__" in path.parts or "golden" in path.parts or path == Path(__file__)
        if (
            path.is_file()
            and path.suffix in kinds
            and not hidden
            and path.name not in ("LICENSE", ".git")
        ):
            yield path


def test_no_file_depends_on_one_machine() -> None:
    """Paths of a machine, its registries and papers that are not in the repository stay out."""
    findings = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in text_files()
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if MACHINE.search(line)
    ]

    assert not findings, "\n".join(["Write it so that it holds on any machine.", *findings])


WAITS_FOR_EVER = re.compile(r"with subprocess\.Popen\(")


def test_no_test_waits_for_a_process_for_ever() -> None:
    """The block of Popen waits without a limit when a test fails in it; `beside` kills."""
    beside = ROOT / "tests" / "processes.py"
    assert WAITS_FOR_EVER.search(beside.read_text())
    found = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if path not in (beside, Path(__file__)) and WAITS_FOR_EVER.search(path.read_text())
    ]

    assert not found, f"Use tests.processes.beside in {', '.join(found)}"


@pytest.mark.parametrize(
    "line",
    ["cd /root/x", "see ../shared/design/x.md", "'/tmp/x'", "pip --find-links x", "files.pypi.org"],
)
def test_machine_path_is_reported(line: str) -> None:
    """The search sees what ties a file to one machine, and lets a variable's path be."""
    assert MACHINE.search(line)
    assert not MACHINE.search('"$TMPDIR/tmp/x" and shared/exclusive locks')
