"""The command: `python -m benchmarks.sdk` measures what `client.run(SQLiteStore(...))` takes and how fast it is.

    a process of its own for each device ── HTTP, encrypted ── one gunicorn with the included backend, on SQLite

    first send    a device with 10,000 rows, then one with 100,000: until the log has all
    first pull    another device of that account: until its table is equal
    edits         one by one on the laptop: from the app's statement until the phone's transaction, by the clock of the
                  machine
    idle          memory of the laptop before its first edit
    lines         examples/todo beside the same app on `push`, `pull` and the stream

Exit status 1 when tables differ in the end, 130 on Ctrl-C.
"""

import argparse
import ast
import json
import os
import queue
import random
import re
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from synckit_notify.backend import create_app

from . import report
from .attack_run import summary
from .process import interrupt_on_signals
from .report import Row
from .sdk_client import INSERT, SCHEMA, TITLE, Settings
from .server import BACKEND, ROOT, Server, gunicorn

WITHIN_SECONDS = 900.0
"""Upper bound of each wait."""

PAUSES = (0.1, 0.4)
"""Seconds between two edits, chosen at random: the store looks for edits every 0.1 s."""

IDLE_SECONDS = 3.0
PROGRESS = ("syncing", "sending")
PASSWORD = "correct horse battery"
WITH_RUN = ROOT / "examples" / "todo" / "todo.py"
ON_PRIMITIVES = ROOT / "benchmarks" / "todo_on_primitives.py"


class Device:
    """A device in a process of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._events: queue.Queue[Row] = queue.Queue()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.sdk_client"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._write(json.dumps(settings))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def edit(self, row: str) -> None:
        """Let the app insert a row."""
        self._write(f"edit {row}")

    def take(self, timeout: float = WITHIN_SECONDS) -> Row:
        """Return the next event; raise RuntimeError when the process has ended, TimeoutError when it says nothing."""
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"{self.settings.name} said nothing for {timeout:g} s") from None
        if event["is"] == "ended":
            raise RuntimeError(f"{self.settings.name} ended: see its messages above")
        return event

    def wait_for(self, is_wanted: Callable[[Row], bool]) -> float:
        """Take events until one is wanted, print what `run` says of many changes, and return its moment."""
        while not is_wanted(event := self.take()):
            if event["is"] == "state" and event["state"] in PROGRESS and event["reason"] not in ("", "1 changes"):
                _tell(f"{self.settings.name}: {event['state']}, {event['reason']}")
        moment: float = event["at"]
        return moment

    def memory(self) -> Row:
        """Return its memory in KiB: private, proportional (PSS) and resident (RSS)."""
        text = Path(f"/proc/{self._child.pid}/smaps_rollup").read_text()
        found = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE)}
        return {"private": found["Private_Dirty"], "pss": found["Pss"], "rss": found["Rss"]}

    def rows(self) -> list[tuple[Any, ...]]:
        """Return the rows of its table."""
        with closing(sqlite3.connect(self.settings.database)) as app:
            return app.execute("SELECT * FROM tasks ORDER BY id").fetchall()

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        self._child.kill()
        self._reader.join()
        with self._child:  # waits for its end, and closes the pipes
            pass

    def _write(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{line}\n")
        self._child.stdin.flush()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._events.put(json.loads(line))
        self._events.put({"is": "ended"})


class Site:
    """A server with an app, and accounts as they are needed."""

    def __init__(self, folder: Path) -> None:
        key = secrets.token_hex(32)
        self._folder, self._accounts = folder, 0
        self._backend = create_app({"SYNCKIT_JWT_KEY": key}, instance_path=folder)
        self._api_key = self._command("app", "add", "todo", "--log", "rows")
        self.server: Server = gunicorn(key, folder, app=BACKEND, core=None)

    def account(self) -> str:
        """Add a user, and return the address."""
        self._accounts += 1
        email = f"user-{self._accounts}@example.org"
        self._command("user", "add", email, "--password", PASSWORD)
        return email

    def device(self, email: str, name: str, rows: int = 0) -> Device:
        """Start a device whose table has so many rows."""
        settings = Settings(
            f"http://127.0.0.1:{self.server.port}", self._api_key, email, PASSWORD, str(self._folder), name
        )
        with closing(sqlite3.connect(settings.database)) as app, app:
            app.execute(SCHEMA)
            app.executemany(INSERT, ((f"{number:032x}", TITLE) for number in range(rows)))
        return Device(settings)

    def __enter__(self) -> "Site":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.kill()
        self._backend.extensions["synckit_backend"].store.dispose()

    def _command(self, *words: str) -> str:
        result = self._backend.test_cli_runner().invoke(args=["synckit", *words], catch_exceptions=False)
        if result.exit_code:
            raise RuntimeError(f"flask synckit {words[0]}: {result.output}")
        return str(result.output.split()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, and return the exit status."""
    options = _options(arguments)
    interrupt_on_signals()
    facts = report.facts(
        f"run(SQLiteStore), encrypted, rows of {len(TITLE)} characters; {options.edits} edits, one by one",
        "gunicorn.conf.py, one gevent worker, the included backend on SQLite; all processes on all cores",
    ) | {"load average before": f"{os.getloadavg()[0]:.1f}"}
    try:
        with tempfile.TemporaryDirectory(prefix="synckit-sdk-") as folder, Site(Path(folder)) as site:
            firsts = [measure_first(site, rows) for rows in options.rows]
            edits = measure_edits(site, options.edits)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    lines = measure_lines()
    print(table(facts, firsts, edits, lines))
    report.save(options.json, facts, firsts=firsts, edits=edits, lines=lines)
    return 0 if all(each["is_equal"] for each in (*firsts, edits)) else 1


def measure_first(site: Site, rows: int) -> Row:
    """Return how long the first device of an account sends its rows, and the second one reads them."""
    email = site.account()
    with site.device(email, f"sender-{rows}", rows) as sender:
        began = sender.wait_for(_is_state("ready"))
        sent = sender.wait_for(_is_state("up_to_date")) - began
        expected = sender.rows()
    with site.device(email, f"puller-{rows}") as puller:
        began = puller.wait_for(_is_state("ready"))
        pulled = puller.wait_for(_is_state("up_to_date")) - began
        return {
            "rows": rows,
            "send_seconds": sent,
            "pull_seconds": pulled,
            "is_equal": puller.rows() == expected and len(expected) == rows,
            "memory_kib": puller.memory(),
        }


def measure_edits(site: Site, count: int) -> Row:
    """Return the delays of edits from one device to the other, and the memory of a device before the first edit."""
    email = site.account()
    with site.device(email, "laptop") as laptop, site.device(email, "phone") as phone:
        for device in (laptop, phone):
            device.wait_for(_is_state("up_to_date"))
        time.sleep(IDLE_SECONDS)
        memory = laptop.memory()
        delays = []
        for number in range(count):
            time.sleep(random.uniform(*PAUSES))
            laptop.edit(f"row-{number}")
            edited = laptop.wait_for(lambda event: event["is"] == "edited")
            delays.append(phone.wait_for(_is_applied(f"row-{number}")) - edited)
            if number % 50 == 49:
                _tell(f"{number + 1} of {count} edits applied, the last one after {delays[-1] * 1e3:.0f} ms")
        is_equal = laptop.rows() == phone.rows() and len(laptop.rows()) == count
    return {"delays": summary(delays), "is_equal": is_equal, "memory_kib": memory}


def measure_lines() -> Row:
    """Return the code lines of both apps."""
    return {"run": code_lines(WITH_RUN.read_text()), "primitives": code_lines(ON_PRIMITIVES.read_text())}


def code_lines(source: str) -> int:
    """Return the number of lines with code: not those that are empty, or have only a comment or a docstring."""
    tree = ast.parse(source)
    lines = {number for number, line in enumerate(source.splitlines(), 1) if line.split("#")[0].strip()}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)


def table(facts: dict[str, str], firsts: Sequence[Row], edits: Row, lines: Row) -> str:
    """Return the whole report."""
    delays = ", ".join(f"{edits['delays'][name] * 1e3:,.0f}" for name in ("p50", "p99", "max"))
    rows = [row for first in firsts for row in _lines_of_first(first)] + [
        ("edit to applied on the other device, ms: p50, p99, longest", _flagged(delays, edits)),
        ("idle client process, MiB: private, PSS, RSS", _memory(edits)),
        ("examples/todo, lines of code: with run, on the primitives", f"{lines['run']}, {lines['primitives']}"),
    ]
    return "\n".join([report.head(facts), "", "| what | figure |", "|---|--:|", *(f"| {a} | {b} |" for a, b in rows)])


def _lines_of_first(first: Row) -> list[tuple[str, str]]:
    rows, sent, pulled = first["rows"], first["send_seconds"], first["pull_seconds"]
    return [
        (f"first send of {rows:,} rows, s (rows per second)", f"{sent:,.1f} ({rows / sent:,.0f})"),
        (
            f"first pull of {rows:,} rows, s (rows per second)",
            _flagged(f"{pulled:,.1f} ({rows / pulled:,.0f})", first),
        ),
        ("that client afterwards, MiB: private, PSS, RSS", _memory(first)),
    ]


def _flagged(figure: str, row: Row) -> str:
    return figure if row["is_equal"] else f"{figure}, **the tables differ**"


def _memory(row: Row) -> str:
    return ", ".join(f"{row['memory_kib'][name] / 1024:.1f}" for name in ("private", "pss", "rss"))


def _is_state(state: str) -> Callable[[Row], bool]:
    return lambda event: event["is"] == "state" and event["state"] == state


def _is_applied(row: str) -> Callable[[Row], bool]:
    return lambda event: event["is"] == "applied" and row in event["rows"]


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sdk", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="rows of each first pull")
    parser.add_argument("--edits", type=int, default=300, help="how many edits are timed (default 300)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the raw figures as JSON")
    options = parser.parse_args(arguments)
    if min(*options.rows, options.edits) < 1:
        parser.error("--rows and --edits must be positive integers")
    return options


if __name__ == "__main__":
    sys.exit(main())
