"""Write docs/errors.md from pitr/errors.py and from every place that raises.

    python tools/gen_errors_doc.py

Read are the classes with their exit codes, and with `ast` the literal message, detail and hint of
each `raise`. A value that is put into a text stands as its expression in braces: `{key}`. A text
that is computed elsewhere is not listed.
"""

from __future__ import annotations

import ast
import inspect
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pitr import errors

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "errors.md"
HEAD = """\
# Errors

Written by `make docs` from `pitr/errors.py` and from the places that raise. Do not edit.

Every error has a message that says what could not be done, often a detail with facts, and a hint
with the next command. The class decides the exit code, by whose move it is next. `--json` prints
the error as JSON on stderr, with the class name as `kind`. In the texts below `{…}` stands for a
value.

Two exit codes have no class. 0 is success. 1 is an answer and no failure: differences under
`--exit-code`, a verification that found damage, a merge with conflicts that wrote nothing. 70 is a
bug of ours: it comes with a traceback and a request to report it.
"""


@dataclass(frozen=True, slots=True, order=True)
class Text:
    """The literal parts of one `raise`; an absent or computed part is empty."""

    message: str
    detail: str
    hint: str


def literal(node: ast.expr | None) -> str:
    """Return the text of a string expression with `{expression}` for each value, or nothing."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(
            literal(part) if isinstance(part, ast.Constant) else "{" + ast.unparse(part.value) + "}"
            for part in node.values
            if isinstance(part, ast.Constant | ast.FormattedValue)
        )
    return ""


def error_classes() -> dict[str, type[errors.PitrError]]:
    """Return the classes of pitr/errors.py in the order of the file, which is the tree's."""
    return {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.PitrError)
    }


def own_text(owner: type[errors.PitrError]) -> Iterator[Text]:
    """Yield the text that a class makes itself, in the call of its base's __init__."""
    tree = ast.parse(inspect.getsource(owner))
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
            yield call_text(call)


def call_text(call: ast.Call) -> Text:
    """Return the literal texts among the arguments of a call."""
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    hint = named.get("hint")
    if isinstance(hint, ast.BoolOp):  # `hint or "the usual one"`
        hint = hint.values[-1]
    message = literal(call.args[0]) if call.args else ""
    return Text(message, literal(named.get("detail")), literal(hint))


def raised_texts(names: set[str]) -> dict[str, set[Text]]:
    """Return, by class, the texts with which the package makes its errors."""
    found: dict[str, set[Text]] = defaultdict(set)
    for path in sorted((ROOT / "pitr").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
                name = call.func.id
                if name in names and call_text(call).message:
                    found[name].add(call_text(call))
    return found


def depth(owner: type[errors.PitrError]) -> int:
    """Return how many classes of ours lie above this one."""
    return len(owner.__mro__) - len(errors.PitrError.__mro__)


def section(owner: type[errors.PitrError], texts: list[Text]) -> Iterator[str]:
    """Yield the lines of the section of one class."""
    doc = inspect.getdoc(owner) or ""
    yield f"\n## {owner.__name__}\n"
    yield f"Exit code {owner.exit_code}. {' '.join(doc.split())}"
    if texts:
        yield ""
    for text in texts:
        yield f"- `{text.message}`"
        if text.detail:
            yield f"  - detail: {text.detail}"
        if text.hint:
            yield f"  - hint: {text.hint}"


def document() -> str:
    """Return the whole of docs/errors.md."""
    classes = error_classes()
    raised = raised_texts(set(classes))
    lines = [HEAD, "| class | exit code | says |", "| --- | --- | --- |"]
    for name, owner in classes.items():
        if depth(owner):
            first = (inspect.getdoc(owner) or "").splitlines()[0]
            indent = "&nbsp;&nbsp;&nbsp;" * (depth(owner) - 1)
            lines.append(f"| {indent}[{name}](#{name.lower()}) | {owner.exit_code} | {first} |")
    for name, owner in classes.items():
        if depth(owner):
            own = set(own_text(owner)) if "__init__" in vars(owner) else raised[name]
            lines.extend(section(owner, sorted(own)))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_text(document())
