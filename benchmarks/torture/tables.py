"""The tables of the devices with a store: in the end they must be equal, and have every row that an app committed.

    record(message) ──▶ the rows that the apps committed, and which apps have finished
    complete()      ──▶ whether the files are what they must be; asked again and again, while `run` goes on
    verdict()       ──▶ what is wrong in the end

The files are read here, not by the devices: what counts is what another program sees.
"""

import sqlite3
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

READ_WITHIN = 10.0
"""Seconds that a reader waits for a transaction of the device."""


class Tables:
    """What the apps with a store committed; `devices` maps each device to its app's file."""

    def __init__(self, devices: Mapping[str, Path]) -> None:
        self.devices = devices
        self.committed: set[str] = set()
        self.finished: set[str] = set()
        self.counters: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()

    def record(self, message: Mapping[str, Any]) -> None:
        """Record a message of a device with a store."""
        match message["is"]:
            case "edited":
                self.committed.add(message["row"])
            case "finished":
                self.finished.add(message["device"])
            case "state":
                self.counters[message["state"]] += 1
            case "trouble":
                self.troubles[message["text"]] += 1

    def complete(self) -> bool:
        """Return whether all apps have finished, and their tables are what they must be."""
        return not self.verdict()

    def verdict(self) -> list[str]:
        """Return what is wrong now."""
        unfinished = self.devices.keys() - self.finished
        wrong = [f"the app of {name} has not finished" for name in sorted(unfinished)]
        if unfinished:
            return wrong
        tables = {name: self._rows(file) for name, file in self.devices.items()}
        for name, rows in tables.items():
            lost = sorted(self.committed - rows.keys())
            wrong += [f"{name} lacks {len(lost)} rows that were committed, such as {lost[0]!r}"] if lost else []
        first, *others = tables.items() if tables else [("", dict[str, str]())]
        for name, rows in others:
            differing = sorted(row for row, _ in rows.items() ^ first[1].items())
            if differing:
                wrong.append(f"{name} and {first[0]} differ in {len(set(differing))} rows, such as {differing[0]!r}")
        return wrong

    def summary(self) -> dict[str, Any]:
        """Return the counts of the summary."""
        return {
            "devices with a store": len(self.devices),
            "rows that their apps committed": len(self.committed),
            "states of run": ", ".join(f"{name} {count}" for name, count in sorted(self.counters.items())),
            "troubles of devices with a store": ", ".join(self.troubles) or "none",
        }

    def _rows(self, file: Path) -> dict[str, str]:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=READ_WITHIN)) as app:
            return dict(app.execute("SELECT id, text FROM notes"))
