"""The unit, the settings and the container file of `deploy/`, tested without systemd and podman."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import synckit_notify

from ..support.backend import start
from ..support.proxies import DEPLOY, shipped
from ..support.raw_client import Listener
from ..support.server import GUNICORN, ROOT, Server
from ..support.tokens import KEY
from ..support.wait import until

pytestmark = pytest.mark.thorough

PACKAGE = Path(synckit_notify.__file__).parent
LISTENING = r"Listening at: http://[\d.]+:(\d+)"


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze") or pytest.skip("needs systemd-analyze")  # seldom there, so not under CI
    programs = {"synckit.service": "gunicorn", "synckit-compact.service": "flask", "synckit-compact.timer": None}
    for name, program in programs.items():
        places = {} if program is None else {f"/opt/synckit/.venv/bin/{program}": sys.executable}
        (tmp_path / name).write_text(shipped(name, places))
    units = [tmp_path / name for name in programs]
    verified = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_compaction_runs_as_the_service_does() -> None:
    """With its user, its settings and its hardening, which are written twice."""
    units = [(DEPLOY / name).read_text().splitlines() for name in ("synckit.service", "synckit-compact.service")]
    service, compaction = ({line for line in unit if "=" in line and not line.startswith("#")} for unit in units)
    own = {"Description", "After", "Type", "ExecStart", "Nice"}
    assert {line.partition("=")[0] for line in compaction - service} == own
    (command,) = [line for line in compaction if line.startswith("ExecStart=")]
    program, *words = command.partition("=")[2].split()
    assert (program, words) == ("/opt/synckit/.venv/bin/flask", ["--app", "wsgi", "synckit", "compact"])


def settings(folder: Path, **places: str) -> dict[str, str]:
    """The shipped settings, with the database in a folder and a free port."""
    text = shipped("synckit.env", places | {"/var/lib/synckit": str(folder), "127.0.0.1:8000": "127.0.0.1:0"})
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))


def test_the_service_starts_with_the_shipped_settings_and_tells_systemd(clone: Path, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        every = settings(tmp_path, **{"JWT_KEY=": f"JWT_KEY={KEY}"}) | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with start(clone, **every) as server:
            assert b"READY=1" in systemd.recv(4096).split(b"\n")
            with Listener(server.port, "/api/sync/live", None) as alive:
                assert alive.status == 200
            assert (tmp_path / "synckit.db").exists()
            assert server.stop(within=30) == 0


def test_the_shipped_settings_are_for_production_and_contain_no_key(tmp_path: Path) -> None:
    shipped_settings = settings(tmp_path)
    assert (shipped_settings["SYNCKIT_ENV"], shipped_settings["SYNCKIT_JWT_KEY"]) == ("production", "")


@pytest.fixture
def image() -> dict[str, list[str]]:
    """The instructions of the container file: what follows each word, comments and line ends left out."""
    text = re.sub(r"^#.*\n", "", (DEPLOY / "Containerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    instructions: dict[str, list[str]] = {}
    for line in filter(None, text.splitlines()):
        word, rest = line.split(maxsplit=1)
        instructions.setdefault(word, []).append(rest)
    return instructions


def test_the_image_runs_without_root_and_contains_no_secret(image: dict[str, list[str]]) -> None:
    (user,) = image["USER"]
    assert int(user) > 0
    assert not re.search(r"KEY|PASSWORD|TOKEN|SECRET", " ".join(image["ENV"] + image["ARG"]))
    copied = {name for line in image["COPY"] for name in line.split()[:-1]}
    assert copied == {"setup.cfg", "pyproject.toml", "README.md", "synckit_notify", "gunicorn.conf.py", "wsgi.py"}


def test_the_copied_files_serve_are_healthy_and_end_on_term(image: dict[str, list[str]], tmp_path: Path) -> None:
    for line in image["COPY"]:
        *names, folder = line.split()
        for name in names:
            copy_into(tmp_path / folder.strip("/"), PACKAGE if name == PACKAGE.name else ROOT / name)
    (tmp_path / "data").mkdir()
    env = dict(word.split("=", 1) for word in " ".join(image["ENV"]).replace("/data", f"{tmp_path}/data").split())
    env |= {"SYNCKIT_BIND": "127.0.0.1:0", "SYNCKIT_JWT_KEY": KEY, "PYTHONPATH": str(tmp_path / "src")}
    (command,), (workdir,) = image["CMD"], image["WORKDIR"]
    program, *options = json.loads(command)
    assert program == "gunicorn"
    with Server([GUNICORN, *options], tmp_path / workdir.strip("/"), LISTENING, env) as server:
        check = image["HEALTHCHECK"][0].partition("CMD ")[2].replace(":8000", f":{server.port}")
        assert until(lambda: healthy(check), 60.0)
        assert server.stop(signal.SIGTERM, within=30) == 0
    assert not healthy(check)
    assert (tmp_path / "data" / "synckit.db").exists()


def copy_into(folder: Path, source: Path) -> None:
    """Copy as COPY does: a file into the folder, and of a folder its contents."""
    folder.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True)
    else:
        shutil.copy(source, folder)


def healthy(check: str) -> bool:
    """Run the health check as the engine does, without a shell."""
    python, *arguments = json.loads(check)
    assert python == "python"
    return subprocess.run([sys.executable, *arguments], capture_output=True).returncode == 0
