"""The reports for other projects in docs/upstream: their scripts run, and show what the reports say."""

import re
import subprocess
import sys

import pytest

from .support.server import ROOT

FOLDER = ROOT / "docs" / "upstream"
RATIO = r"ratio: \d\.\d{3} \(\d+\.\d{3} to \d+\.\d{3}\)\n"
SHOWN = {
    "gunicorn_settings.py": r"gunicorn [\d.]+\n"
    r"settings read for a request: 1\d, of 1\d names\n"
    r"parse and create, Config as it is: \d+\.\d us\n"
    r"parse and create, settings as attributes: \d+\.\d us\n" + RATIO,
    "gevent_sendall.py": r"gevent [\d.]+\n"
    r"sendall as it is: 1 getsockopt\(SO_SNDBUF\), 1 send; \d+\.\d\d us\n"
    r"sendall as proposed: 1 send; \d+\.\d\d us\n" + RATIO,
}


def test_each_report_has_its_script() -> None:
    reports = {path.stem.replace("-", "_") + ".py" for path in FOLDER.glob("*.md")}
    assert reports == SHOWN.keys() == {path.name for path in FOLDER.glob("*.py")}


@pytest.mark.parametrize("script", SHOWN)
def test_the_script_shows_what_the_report_says(script: str) -> None:
    command = [sys.executable, str(FOLDER / script), "--number", "200", "--pairs", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(SHOWN[script], done.stdout), done.stdout
    assert f"python docs/upstream/{script}\n" in (FOLDER / script.replace("_", "-").replace(".py", ".md")).read_text()
