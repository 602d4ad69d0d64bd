"""Command lines of the documents, looked over by the programs they name; nothing is installed, started or stopped.

    lines ──▶ commands, as lists of words ──▶ check ──▶ None, or AssertionError

A program that is neither ours nor among NOT_OURS fails: then somebody has to decide how its lines are checked.
"""

import contextlib
import io
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path

import click
import flask.cli
import pytest
from click.testing import CliRunner
from gunicorn.config import Config

from synckit_notify import cli as client_command
from synckit_notify import host_commands
from synckit_notify.backend import admin as backend_commands

from .server import ROOT

NOT_OURS = frozenset({"apt-get", "cd", "cp", "install", "journalctl", "pytest", "sqlite3", "systemctl", "useradd"})
"""Taken as they are. pytest is the test line, which CI reads out of the README and runs."""

BESIDE = frozenset({"&&", "||", "|", ";"})


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a text, without the settings in front of them and the brackets around what is optional."""
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(re.sub(r"\[(-[^\]]*)\]", r"\1", line), posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in BESIDE:
                words.append(word)
            elif words := without_settings(words):
                yield words
                words = []


def without_settings(words: list[str]) -> list[str]:
    """Return a command without its `NAME=value` in front."""
    return words[next((at for at, word in enumerate(words) if not re.match(r"[A-Z_]+=", word)), len(words)) :]


def check(words: list[str]) -> None:
    """Let the program look over its words."""
    program = Path(words[0]).name
    if program not in NOT_OURS:
        assert program in CHECKS, f"nobody knows how to check the program {program!r}"
        CHECKS[program](words[1:])


def _python(words: list[str]) -> None:
    option, what, *rest = words
    if option == "-c":
        exec(compile(what, "python -c", "exec"), {})
    elif what == "pytest":
        return
    elif what == "venv":
        assert rest == [".venv"]
    else:
        _benchmark(what, rest)


def _benchmark(module: str, words: list[str]) -> None:
    known = help_of(module)
    unknown = [word for word in words if word.startswith("-") and not re.search(rf"{word}\b", known)]
    assert not unknown, f"python -m {module} knows no {unknown}"


def help_of(module: str) -> str:
    """Return what `python -m module --help` prints."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as printed:
        patch.setattr(sys, "argv", [module, "--help"])
        patch.delitem(sys.modules, module, raising=False)  # imported by another: runpy would warn
        with contextlib.suppress(SystemExit):
            runpy.run_module(module, run_name="__main__")
    return printed.getvalue()


def _pip(words: list[str]) -> None:
    action, *rest = words
    assert action == "install"
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for word in (word for word in rest if word not in ("-q", "-e")):
        name, extras = re.fullmatch(r"([\w./-]+)(?:\[([\w,]+)\])?", word).groups("")  # type: ignore[union-attr]
        if name in (".", "/path/to/the/clone", setup["metadata"]["name"]):
            unknown = set(filter(None, extras.split(","))) - set(setup["options.extras_require"])
            assert not unknown, f"setup.cfg has no extra {unknown}"


def _click(command: click.Command) -> Callable[[list[str]], None]:
    def look_over(words: list[str]) -> None:
        """Parse everything, as `--help` at the end does; it is then printed instead of acting."""
        result = CliRunner().invoke(command, [*words, "--help"])
        assert result.exit_code == 0, result.output

    return look_over


def _flask(words: list[str]) -> None:
    words = words[2:] if words[0] == "--app" else words
    group, rest = words[0], words[1:]
    synckit = click.Group("synckit", commands=[*host_commands.COMMANDS, *backend_commands.synckit.commands.values()])
    _click({"synckit": synckit, "run": flask.cli.run_command}[group])(rest)


def _gunicorn(words: list[str]) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            Config().parser().parse_args(words)
        except SystemExit:
            raise AssertionError(said.getvalue()) from None


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "flask": _flask,
    "gunicorn": _gunicorn,
    "pip": _pip,
    "python": _python,
    "python3": _python,
    "synckit": _click(client_command.main),
}
