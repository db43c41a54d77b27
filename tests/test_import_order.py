"""The order that a package states in its `__init__` is the order of its imports.

`Import order inside the package: a, b → c; c → d` says that c may import a and b, and never the
other way. Modules of one step may do what they like, as long as there is no cycle.
"""

from __future__ import annotations

import ast
import itertools
import re

from tests.test_tidy import PACKAGE, Module, imports, parse


def read_order(docstring: str) -> list[list[list[str]]]:
    """Return the chains of a package's stated import order: `a, b → c; c → d`, lowest first.

    A line begins a chain of its own unless an arrow or a comma carries it on from the one before.
    """
    _, found, text = docstring.partition("Import order inside the package:")
    text = re.sub(r"\s*\n\s*(?=→)|(?<=[→,])\s*\n\s*", " ", text.split("\n\n")[0])
    chains = [chain for chain in re.split(r"[;.\n]", text) if chain.strip()] if found else []
    return [[re.findall(r"\w+", step) for step in chain.split("→")] for chain in chains]


def stated_below(chains: list[list[list[str]]]) -> set[tuple[str, str]]:
    """Return each (lower, higher) that the chains say, also by way of a third name."""
    pairs = {
        (low, high)
        for chain in chains
        for step, lows in enumerate(chain)
        for highs in chain[step + 1 :]
        for low, high in itertools.product(lows, highs)
    }
    while further := {(a, d) for a, b in pairs for c, d in pairs if b == c} - pairs:
        pairs |= further
    return pairs


ORDERS = {
    module.name: read_order(ast.get_docstring(module.tree) or "")
    for module in PACKAGE
    if module.path.endswith("__init__.py")
}
BELOW = {package: stated_below(chains) for package, chains in ORDERS.items()}


def siblings(name: str, other: str) -> tuple[str, str, str]:
    """Return the innermost package that holds both, and the child of it that each is in."""
    ours, theirs = name.split("."), other.split(".")
    pairs = zip(ours, theirs, strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
    return ".".join(ours[:shared]), "".join(ours[shared:][:1]), "".join(theirs[shared:][:1])


def against_the_order(module: Module) -> list[str]:
    """Return the imports of a module that its packages, innermost or not, do not allow."""
    findings = []
    for node, name in imports(module):
        package, own, other = siblings(module.name, name)
        if (own, other) in BELOW.get(package, set()):
            findings.append(module.at(node, f"{package} states that {own} is below {other}"))
    return findings


def test_imports_follow_the_stated_order() -> None:
    """No module imports one that its package states to be above it."""
    findings = [finding for module in PACKAGE for finding in against_the_order(module)]

    assert not findings, "move the code down, or state another order in the package"


def test_import_against_the_order_is_reported() -> None:
    """The search sees an import of a module above, and one of a room above."""
    header = parse("pitr.sqlite.wal.header", "from pitr.sqlite.wal.index import WalIndex")
    lazy = parse("pitr.sqlite.pagelog.x", "def f():\n    from pitr.sqlite.merge.plan import make")
    allowed = parse("pitr.sqlite.merge.x", "import pitr.sqlite.pagelog.segment")

    assert against_the_order(header)
    assert against_the_order(lazy)
    assert not against_the_order(allowed)


def test_stated_order_names_every_module_of_its_package() -> None:
    """A package that orders its modules by name leaves none out and names none that is gone."""
    faults = {}
    for package, chains in ORDERS.items():
        stated = {name for chain in chains for step in chain for name in step}
        children = {siblings(package, m.name)[2] for m in PACKAGE if m.is_in(package)} - {""}
        children -= {"__main__"}
        # An order may end in words instead, as that of the verbs does.
        if stated and not stated & {"everything", "one"} and stated != children:
            faults[package] = stated ^ children

    assert not faults


def test_stated_order_with_several_chains_is_read() -> None:
    """Commas, arrows, broken lines and further chains; what follows from two chains counts."""
    order = "Import order inside the package:\n    a, b\n    → c; c → d\n    x → y"
    chains = read_order(f"Things.\n\n{order}\n\nMore → words.")

    assert chains == [[["a", "b"], ["c"]], [["c"], ["d"]], [["x"], ["y"]]]
    assert stated_below(chains[:2]) == {("a", "c"), ("b", "c"), ("c", "d"), ("a", "d"), ("b", "d")}
