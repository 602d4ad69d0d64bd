"""The documents agree with the code: commands, settings, paths, metrics and quoted sentences exist.

The Python blocks of a document are one program, and run from top to bottom. Those of the SDK talk to a real gunicorn
with the reference backend, in the place of https://sync.example.org.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

import synckit_notify
from synckit_notify import cli as client_command
from synckit_notify import host_commands, metrics, setting_names
from synckit_notify.backend import admin as backend_commands
from synckit_notify.backend import create_app
from synckit_notify.settings import Settings

from .support import doc_commands
from .support.markdown import DOCUMENTS, Block, anchors, blocks, blocks_of, inline_code, links, name_of, prose, rows
from .support.server import ROOT
from .support.tokens import KEY

LANGUAGES = frozenset({"console", "env", "http", "json", "python", "sh", "text"})
"""Each but `text` is run or checked, `http` and `json` as the protocol's conversation, where alone they may be."""

PACKAGE = Path(synckit_notify.__file__).parent
SOURCES = [*sorted(PACKAGE.rglob("*.py")), ROOT / "gunicorn.conf.py"]

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)


@each_document
def test_every_block_is_of_a_language_that_is_checked(document: Path) -> None:
    for block in blocks_of(document):
        assert block.language in LANGUAGES, f"{block}: {block.language or 'no language'}"
        assert block.language not in ("http", "json") or document.name == "protocol.md", str(block)


@each_document
def test_no_code_is_hidden_from_the_tests_by_its_form(document: Path) -> None:
    assert not re.search(r"\n\n(    |\t)\S", prose(document))
    for line in prose(document).splitlines():
        assert line.count("`") % 2 == 0, line  # code that goes on in the next line would not be found


@each_document
def test_links_lead_somewhere(document: Path) -> None:
    for link in links(document):
        path, _, anchor = link.partition("#")
        target = (document.parent / path) if path else document
        assert link.startswith("https://") or target.exists(), f"{name_of(document)}: {link}"
        assert not anchor or anchor in anchors(target), f"{name_of(document)}: {link}"


@each_document
def test_files_and_modules_that_are_named_exist(document: Path) -> None:
    for word in inline_code(prose(document)):
        if re.fullmatch(r"(docs|deploy|tests|benchmarks(?!/results)|synckit_notify)/[\w./]*", word):
            folder = PACKAGE.parent if word.startswith(PACKAGE.name) else ROOT
            assert (folder / word).exists(), f"{name_of(document)}: {word}"
        if re.fullmatch(r"(synckit_notify|benchmarks)(\.\w+)+", word):
            assert _exists(word), f"{name_of(document)}: {word}"


def _exists(dotted: str) -> bool:
    module, _, name = dotted.rpartition(".")
    return importlib.util.find_spec(dotted) is not None if module == "benchmarks" else _has(module, name)


def _has(module: str, name: str) -> bool:
    try:
        importlib.import_module(f"{module}.{name}")
    except ImportError:
        return hasattr(importlib.import_module(module), name)
    return True


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_a_command_is_one_that_its_program_takes(block: Block) -> None:
    for words in doc_commands.commands(block.text):
        doc_commands.check(words)


@each_document
def test_commands_within_sentences_are_too(document: Path) -> None:
    for words in _commands_in(document):
        doc_commands.check(words)


@cache
def _commands_in(document: Path) -> list[list[str]]:
    ours = r"\S*(gunicorn -|pip install |python3? -|synckit \w|flask (--app|synckit|run))"
    inline = [code for code in inline_code(prose(document)) if re.match(ours, code)]
    return [words for code in inline for words in doc_commands.commands(code)]


@cache
def _documented_commands() -> set[str]:
    """All command lines, as texts without the way to the program and without `--app wsgi`."""
    found = [words for block in blocks("sh") for words in doc_commands.commands(block.text)]
    found += [words for block in blocks("console") for words in doc_commands.commands(block.text.splitlines()[0][2:])]
    found += [words for document in DOCUMENTS for words in _commands_in(document)]
    return {re.sub(r"^\S*/|(?<=flask) --app \S+", "", " ".join(words)) for words in found}


def _leaves(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield name, command
        return
    for word, child in command.commands.items():
        yield from _leaves(child, f"{name} {word}")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        *_leaves(client_command.main, "synckit"),
        *_leaves(backend_commands.synckit, "flask synckit"),
        *((f"flask synckit {command.name}", command) for command in host_commands.COMMANDS),
    ],
)
def test_a_command_and_all_its_options_are_documented(name: str, command: click.Command) -> None:
    documented = _documented_commands()
    assert any(line.startswith(name) for line in documented), f"no document has: {name}"
    text = " ".join([*documented, *(prose(document) for document in DOCUMENTS)])
    options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
    assert not [option for option in options if option not in text]


@cache
def _settings_in_code() -> set[str]:
    """Each name that the code reads; the list of known names does not count."""
    sources = [source for source in SOURCES if source != Path(setting_names.__file__)]
    constants = [node for source in sources for node in ast.walk(ast.parse(source.read_text()))]
    texts = {node.value for node in constants if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return {text for text in texts if re.fullmatch(r"SYNCKIT_[A-Z_]+[A-Z]", text)}


@cache
def _settings_in_tables() -> dict[str, str]:
    """Each setting with its default, of the tables that say `key`."""
    cells = [row for document in DOCUMENTS for row in rows(document) if row[0].startswith("`SYNCKIT_")]
    return {key: row[1] for row in cells if len(row) == 3 for key in inline_code(row[0]) if key.isupper()}


def test_the_tables_of_settings_hold_every_setting_of_the_code_and_no_other() -> None:
    assert set(_settings_in_tables()) == _settings_in_code()


def test_the_known_names_are_those_that_the_code_reads() -> None:
    assert _settings_in_code() == setting_names.KNOWN


@pytest.mark.parametrize(
    ("document", "names"),
    [
        ("mounting.md", setting_names.NOTIFIER),
        ("deployment.md", setting_names.INCLUDED_SERVER),
        ("sdk.md", setting_names.COMMAND),
    ],
)
def test_each_part_has_its_settings_in_the_table_of_its_document(document: str, names: frozenset[str]) -> None:
    table = [row for row in rows(ROOT / "docs" / document) if row[0].startswith("`SYNCKIT_") and len(row) == 3]
    assert {name for row in table for name in inline_code(row[0])} == names


@each_document
def test_no_document_names_a_setting_that_does_not_exist(document: Path) -> None:
    assert set(re.findall(r"\bSYNCKIT_[A-Z_]+[A-Z]\b", document.read_text())) <= _settings_in_code()


@pytest.mark.parametrize("name", ["keepalive_seconds", "max_streams_per_channel", "sweep_seconds", "url_prefix"])
def test_a_default_is_the_one_in_the_table(name: str) -> None:
    default = getattr(Settings.read({"SYNCKIT_JWT_KEY": KEY}, own_tokens=False), name)
    told = _settings_in_tables()[f"SYNCKIT_{name.upper()}"].strip("`")
    assert told == str(default).removesuffix(".0")


@pytest.mark.parametrize("block", blocks("env"), ids=str)
def test_settings_in_a_block_are_accepted(block: Block) -> None:
    lines = [line for line in block.text.splitlines() if line and not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines)
    assert set(settings) <= _settings_in_code()
    Settings.read({"SYNCKIT_JWT_KEY": KEY} | settings, own_tokens=False)


def test_every_metric_is_documented_and_no_other() -> None:
    source = ast.parse(Path(metrics.__file__).read_text())
    calls = [node for node in ast.walk(source) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    kinds = [call for call in calls if call.func.id in ("Counter", "Gauge", "Histogram") and call.args]
    made = {(call.func.id, call.args[0].value) for call in kinds}
    names = {f"{name}_total" if kind == "Counter" else name for kind, name in made}
    told = [cell for row in rows(ROOT / "docs" / "monitoring.md") for cell in inline_code(row[0])]
    assert {re.sub(r"\{.*\}", "", cell) for cell in told if cell.startswith("synckit_")} == names


def test_every_path_is_documented_and_no_other(tmp_path: Path) -> None:
    app = create_app({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_METRICS": "1"}, instance_path=tmp_path)
    served: dict[str, set[str]] = {}
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            served.setdefault(rule.rule, set()).update(rule.methods or ())
    table = [row for row in rows(ROOT / "docs" / "protocol.md") if re.match(r"`/\S*`", row[0]) and len(row) == 2]
    told = {path: set(re.findall(r"\b[A-Z]{3,}\b", row[1])) for row in table for path in inline_code(row[0])}
    assert set(told) == set(served)
    assert all(methods - {"SYNCKIT"} <= served[path] for path, methods in told.items())
    del served["/api/sync/subscribe"]  # it answers the methods that it does not take itself
    assert all(methods - {"HEAD", "OPTIONS"} <= told[path] for path, methods in served.items())


def test_every_benchmark_is_documented() -> None:
    folder = ROOT / "benchmarks"
    programs = [file for file in folder.glob("*.py") if "ArgumentParser(prog=" in file.read_text()]
    names = {file.stem for file in programs} | {file.parent.name for file in folder.glob("*/__main__.py")}
    text = (folder / "README.md").read_text()
    assert not [name for name in names if f"benchmarks.{name}" not in text]


def _sentences() -> set[str]:
    """Return every string of the code, with a gap for each value that is inserted."""
    found: set[str] = set()
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(re.sub(r"%[sdg]|%\.\df", "\0", node.value))
    return found


def test_what_troubleshooting_quotes_is_what_the_code_prints() -> None:
    cells = [row[0] for row in rows(ROOT / "docs" / "troubleshooting.md") if len(row) == 3]
    ours = [cell for cell in cells if not re.match(r"\w+: |the browser: ", re.sub(r"`[^`]*`", "", cell))]
    quoted = [code for cell in ours for code in inline_code(cell) if len(code.split()) > 3]
    assert len(quoted) > 50
    sentences = _sentences()
    assert not [code for code in quoted if not any(_is_said(code, sentence) for sentence in sentences)]


def _is_said(quoted: str, sentence: str) -> bool:
    """Return whether the parts between the gaps of a quotation are in a sentence in this order."""
    for part in filter(None, map(str.strip, quoted.split("…"))):
        _, found, sentence = sentence.partition(part)
        if not found:
            return False
    return True
