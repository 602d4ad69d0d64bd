"""benchmarks.storms reconnects real devices, and marks what misses its aim."""

import contextlib
import math
import re
import socket
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmarks import curve, storms
from benchmarks.storms import AIMS, BACK_99, BACK_ALL, REFUSED, REPEATED, Storm

from ..support.wait import until


def storm(**changes: Any) -> Storm:
    """Return a reload of 100 devices of which each was back after as many tenths of a second as its number."""
    fields: dict[str, Any] = {
        "kind": "generator",
        "name": "reload",
        "devices": 100,
        "hit": 100,
        "back": [n / 10 for n in range(1, 101)],
        "repeated": 0,
        "failures": Counter(),
        "before": 100,
        "changes": [(0.05, -1), (0.15, -1), (0.31, 1)],
        "overflows": 0,
        "fullest": 60,
        "cpu": 0.5,
    }
    return Storm(**{**fields, **changes})


def rows(text: str) -> dict[str, list[str]]:
    """Return the cells of each line of a table by the first one."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return {line[0]: line[1:] for line in lines}


@pytest.mark.thorough
@pytest.mark.parametrize("name", storms.WITHIN)
def test_every_device_is_back_and_is_counted_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(storms, "OUTAGE_SECONDS", 1.0)
    monkeypatch.setitem(storms.WITHIN, name, 300.0)
    found = {}
    for kind in storms.KINDS:
        [found[kind]] = storms.measure(kind, 100, [name])
        assert len(found[kind].back) == found[kind].hit
        assert found[kind].failures["503"] == 0
        assert found[kind].hit == 100 or name == "kill"
        assert found[kind].hit > 0
    for curve_ in (each.curve() for each in found.values()):
        assert curve_[-1][1] == 1.0


def test_the_table_shows_each_aim_beside_its_figure() -> None:
    shown = rows(storms.table({}, [storm(), storm(kind="parked")]))
    assert shown[BACK_99] == ["9.90", "9.90", "≤ 10"]
    assert shown[BACK_ALL] == ["10.00", "10.00", "≤ 20"]
    assert {name for name, cells in shown.items() if cells[-1].startswith("≤")} == set(AIMS)


@pytest.mark.parametrize(
    ("changes", "name", "cell"),
    [
        ({"back": [n / 5 for n in range(1, 101)]}, BACK_99, "**19.80**"),
        ({"back": [n / 10 for n in range(1, 100)]}, BACK_ALL, "**never**"),
        ({"repeated": 2}, REPEATED, "**2.00**"),
        ({"failures": Counter({"503": 1})}, REFUSED, "**1**"),
    ],
)
def test_a_figure_of_a_reload_beyond_its_aim_is_bold(changes: dict[str, Any], name: str, cell: str) -> None:
    missing = storm(**changes)
    assert missing.missed() == {name}
    assert rows(storms.table({}, [missing]))[name][0] == cell
    assert not storm(name="kill", **changes).missed(), "only a reload has aims"


def test_failed_attempts_are_named_below_the_table() -> None:
    text = storms.table({}, [storm(failures=Counter({"503": 1, "ConnectionResetError": 2}))])
    assert text.endswith("Failed attempts: {'generator, reload': {'503': 1, 'ConnectionResetError': 2}}")
    assert rows(text)["other failed attempts"][0] == "2"


@pytest.mark.parametrize(
    ("figures", "status"), [({}, 0), ({"repeated": 2}, 1), ({"name": "kill", "repeated": 2}, 0)], ids=repr
)
def test_the_exit_status_tells_whether_an_aim_is_missed_and_a_reload_has_a_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: dict[str, Any], status: int
) -> None:
    monkeypatch.setattr(storms, "prepare_on_all_cores", lambda: None)
    monkeypatch.setattr(storms, "measure", lambda kind, devices, names: [storm(kind=kind, **figures)])
    picture = tmp_path / "folder" / "storms.svg"
    assert storms.main(["--picture", str(picture)]) == status
    assert picture.exists() == (figures.get("name") != "kill")


def test_the_curve_has_the_share_of_devices_with_a_stream_every_tenth_of_a_second() -> None:
    points = storm().curve()
    assert [share for _, share in points] == [1.0, 0.99, 0.98, 0.98, 0.99]
    assert [at for at, _ in points] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])


def test_the_picture_is_xml_with_one_line_and_one_name_for_each_run(tmp_path: Path) -> None:
    curve.draw({"a & b": [(0.0, 1.0), (0.1, 0.0)], "c": [(0.0, 1.0)]}, "a < b", 12.0, tmp_path / "picture.svg")
    picture = ElementTree.parse(tmp_path / "picture.svg")
    texts = [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"a < b", "a & b", "c", "0%", "100%", "12", "seconds"} <= set(texts)
    lines = [e.get("d") for e in picture.iter("{http://www.w3.org/2000/svg}path") if e.get("fill") == "none"]
    assert [line for line in lines if line and re.search(r"[HV]nan", line)] == []
    assert len(lines) == 2


def test_connections_that_find_a_full_queue_are_counted() -> None:
    before = storms.listen_overflows()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        for _ in range(5):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        assert until(lambda: storms.listen_overflows() > before, 10.0)


def test_a_device_that_stays_away_is_never_back() -> None:
    assert storm(back=[]).figures()["half back, s"] == math.inf
