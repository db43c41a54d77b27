"""The documents keep pace with the code. Goal: what a reader finds there exists, and runs."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from pitr import errors
from pitr.cli.main import cli
from tests.test_tidy import PACKAGE, ROOT, part_of
from tools import gen_errors_doc

GLOSSARY = (ROOT / "docs" / "GLOSSARY.md").read_text()
# The documents a user reads to learn the commands. The rest is for developers.
USER_PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
USER_TEXT = "\n".join(page.read_text() for page in USER_PAGES)
BLOCK_SECONDS_MAX = 180


# ---- commands and options ------------------------------------------------------------------------


def walk(command: click.Command, path: str = "pitr") -> Iterator[tuple[str, click.Command]]:
    """Yield (path, command) of each command that is not hidden, groups included."""
    if not command.hidden:
        yield path, command
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, f"{path} {name}")


COMMANDS = dict(walk(cli))


def missing_options(command: click.Command, text: str) -> list[str]:
    """Return the options of a command of which no spelling stands in the text."""
    options = [o for o in command.params if isinstance(o, click.Option) and not o.hidden]
    return [
        option.opts[-1]
        for option in options
        if not any(re.search(rf"(?<![\w-]){re.escape(o)}(?![\w-])", text) for o in option.opts)
    ]


@pytest.mark.parametrize("path", COMMANDS)
def test_command_is_documented_with_its_options(path: str) -> None:
    """README or a guide names the command and each of its options."""
    assert re.search(rf"{path}\b", USER_TEXT), f"describe `{path}` in README.md or docs/guides/"
    assert not missing_options(COMMANDS[path], USER_TEXT), f"describe these options of `{path}`"


@pytest.mark.parametrize("path", COMMANDS)
def test_command_has_help_for_itself_and_each_option(path: str) -> None:
    """`--help` says what the command does and what each option means."""
    options = [o for o in COMMANDS[path].params if isinstance(o, click.Option)]

    assert COMMANDS[path].help
    assert not [option.opts[-1] for option in options if not option.help]


def test_option_that_no_document_names_is_reported() -> None:
    """The search for options sees a missing one, also when a longer one begins like it."""
    command = click.Command("x", params=[click.Option(["--at"]), click.Option(["-t", "--table"])])

    assert missing_options(command, "use --attach or -t orders") == ["--at"]


# ---- errors --------------------------------------------------------------------------------------


def test_errors_document_is_up_to_date() -> None:
    """docs/errors.md is what the generator writes today."""
    assert gen_errors_doc.document() == gen_errors_doc.TARGET.read_text(), "run: make docs"


def test_errors_document_names_every_class_and_its_code() -> None:
    """Each class of the error tree has a section."""
    text = gen_errors_doc.TARGET.read_text()
    classes = [c for c in vars(errors).values() if isinstance(c, type) and c.__mro__[1:]]
    owners = [c for c in classes if issubclass(c, errors.PitrError) and c is not errors.PitrError]

    assert owners
    for owner in owners:
        assert f"\n## {owner.__name__}\n\nExit code {owner.exit_code}." in text


# ---- the glossary --------------------------------------------------------------------------------


def glossary_words(text: str) -> set[str]:
    """Return the words of every term, and the plain words the glossary's last section allows."""
    terms = re.findall(r"\*\*(.+?)\*\*", text)
    plain = text.partition("## Plain words")[2]
    return {word.lower() for word in re.findall(r"\w+", " ".join(terms) + plain)}


def class_words(name: str) -> list[str]:
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]+", name)]


def unknown_words(names: list[str], text: str) -> dict[str, list[str]]:
    """Return, by class name, its words that the glossary does not have, in singular or plural."""
    known = glossary_words(text)
    unknown = {
        name: [w for w in class_words(name) if not {w, f"{w}s", w.removesuffix("s")} & known]
        for name in names
    }
    return {name: words for name, words in unknown.items() if words}


def exported_classes() -> set[str]:
    """Return the names of the classes that one part of the tree imports from another."""
    return {
        alias.name
        for module in PACKAGE
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("pitr.")
        if part_of(str(node.module)) not in ("errors", "cli", part_of(module.name))
        for alias in node.names
        if re.match(r"[A-Z][a-z]", alias.name)
    }


def test_class_names_are_made_of_glossary_words() -> None:
    """A class that other parts import is named with terms of docs/GLOSSARY.md and plain words."""
    unknown = unknown_words(sorted(exported_classes()), GLOSSARY)

    assert not unknown, "use a term of docs/GLOSSARY.md, or add it there"


def test_class_name_with_a_foreign_word_is_reported() -> None:
    """The search knows terms, plain words and plurals, and sees what is none of them."""
    text = "| **page map** | … |\n\n## Plain words\n\nReader, Entry.\n"

    assert unknown_words(["PageMapReader", "MapEntries"], text) == {"MapEntries": ["entries"]}
    assert unknown_words(["PagesReader", "SnapshotReader"], text) == {
        "SnapshotReader": ["snapshot"]
    }


# ---- the console blocks --------------------------------------------------------------------------


def console_blocks(text: str) -> list[str]:
    """Return, as one shell script each, the commands of the blocks marked ```console test.

    A command begins with `$ ` and goes on over lines that begin with `> `; the rest is output.
    """
    blocks = re.findall(r"^```console test\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [
        "".join(f"{line}\n" for line in re.findall(r"^[$>] (.*)", block, re.MULTILINE))
        for block in blocks
    ]


def run_script(script: str, folder: Path) -> tuple[int, str]:
    """Run a script that stops at its first failure; return its exit code and all its output."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    # A file and no pipe: a capture that a block leaves running would hold a pipe open.
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=BLOCK_SECONDS_MAX)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        return code, output.read()


PAGES_WITH_BLOCKS = [page for page in USER_PAGES if console_blocks(page.read_text())]


@pytest.mark.parametrize("page", PAGES_WITH_BLOCKS, ids=lambda page: page.name)
def test_console_blocks_of_page_run(page: Path, tmp_path: Path) -> None:
    """The marked commands of a page run one after the other in one empty folder."""
    code, output = run_script("".join(console_blocks(page.read_text())), tmp_path)

    assert code == 0, output


def test_readme_has_commands_that_run() -> None:
    """The first page a newcomer reads is proved by running it."""
    assert ROOT / "README.md" in PAGES_WITH_BLOCKS


def test_console_block_that_fails_is_reported(tmp_path: Path) -> None:
    """The runner takes commands and not output, joins continued lines, and sees a failure."""
    page = "```console test\n$ echo one \\\n> two\none two\n$ false\n$ echo three\n```\n"
    [script] = console_blocks(page)
    outcome = run_script(script, tmp_path)

    assert script == "echo one \\\ntwo\nfalse\necho three\n"
    assert outcome == (1, "one two\n")


# ---- what documents point at ---------------------------------------------------------------------


def dead_links(page: Path) -> list[str]:
    """Return the relative links of a page that lead to no file."""
    links = re.findall(r"\]\((?!\w+:|#)([^)#]+)", page.read_text())
    return [link for link in links if not (page.parent / link).exists()]


def test_links_between_documents_lead_somewhere() -> None:
    """A file that a document links to exists."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "sql" / "README.md"]
    dead = {str(page.relative_to(ROOT)): dead_links(page) for page in pages}

    assert not {page: links for page, links in dead.items() if links}


def test_dead_link_is_reported(tmp_path: Path) -> None:
    """The search sees a link to no file, and lets addresses and places in a page be."""
    page = tmp_path / "page.md"
    page.write_text("[a](page.md#x) [b](#x) [c](https://x.org/y.md) [d](gone.md)")

    assert dead_links(page) == ["gone.md"]


def test_hacking_shows_the_commands_of_make() -> None:
    """docs/HACKING.md lists what `make` prints."""
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert shown.stdout in (ROOT / "docs" / "HACKING.md").read_text()
