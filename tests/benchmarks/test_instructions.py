"""`benchmarks.instructions` counts the same for the same code, shows what got slower, and says what is missing."""

import re
import shutil
from pathlib import Path

import pytest

from benchmarks import instructions

from ..support.programs import need
from ..support.server import ROOT

FAST = {"connect": 1000, "event": 100, "keepalive": 100, "push": 500, "return": 900}


@pytest.fixture
def everything_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)


def count_as(monkeypatch: pytest.MonkeyPatch, this: dict[str, int], against: dict[str, int]) -> None:
    counts = {"this": this, "against": against}
    monkeypatch.setattr(instructions, "measure", lambda tree, kind: counts[tree.name])


@pytest.mark.usefixtures("everything_is_installed")
@pytest.mark.parametrize(("push", "status"), [(510, 0), (511, 1), (400, 0)])
def test_an_operation_that_takes_2_percent_more_than_before_is_an_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], push: int, status: int
) -> None:
    count_as(monkeypatch, FAST | {"push": push}, FAST)
    assert instructions.main(["--streams", "parked", "--against", str(ROOT)]) == status
    shown = capsys.readouterr().out
    assert f"| parked, push | {push} | 500 | {push / 500:.3f} |" in shown
    assert "| parked, connect | 1,000 | 1,000 | 1.000 |" in shown


@pytest.mark.usefixtures("everything_is_installed")
def test_without_another_version_there_is_one_column(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    count_as(monkeypatch, FAST, FAST)
    assert instructions.main([]) == 0
    assert "| generator, push | 500 |\n" in capsys.readouterr().out


@pytest.mark.usefixtures("everything_is_installed")
def test_what_is_no_checkout_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert instructions.main(["--against", str(tmp_path)]) == 2
    assert "--against must be a commit or the folder of a checkout" in capsys.readouterr().err


def test_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "valgrind" else name)
    with pytest.raises(SystemExit):
        instructions.main([])
    assert "apt-get install valgrind" in capsys.readouterr().err


@pytest.mark.thorough
def test_the_same_code_takes_the_same_instructions(capsys: pytest.CaptureFixture[str]) -> None:
    need("valgrind")
    need("cc")
    same = ["--streams", "parked", "--against", str(ROOT), "--tolerance", "2"]
    assert instructions.main(same) == 0
    rows = re.findall(r"^\| parked, (\w+) \| ([\d,]+) \| [\d,]+ \| (\S+) \|$", capsys.readouterr().out, re.MULTILINE)
    counts = {name: int(count.replace(",", "")) for name, count, _ in rows}
    assert 1_000 < counts["event"] < counts["keepalive"] < counts["push"] < counts["return"] < counts["connect"]
    assert all(0.98 < float(ratio) < 1.02 for *_, ratio in rows)
