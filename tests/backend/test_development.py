"""The key, the folder and the demo of a fresh clone; and production, which has none of them."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from flask import Flask

from synckit_notify import ConfigurationError
from synckit_notify.backend import Backend, accounts, create_app, development
from synckit_notify.backend.admin import queries

from ..support.tokens import KEY

LOOPBACK = ("127.0.0.1", 8000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An instance folder that does not exist yet."""
    return tmp_path / "deep" / "instance"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_development_keeps_a_random_key_for_its_owner_only(folder: Path) -> None:
    first = create_app(instance_path=folder).config["SYNCKIT_JWT_KEY"]
    assert len(first) == 64
    assert (mode(folder), mode(folder / "jwt.key")) == (0o700, 0o600)
    assert create_app(instance_path=folder).config["SYNCKIT_JWT_KEY"] == first
    assert sorted(path.name for path in folder.iterdir()) == ["jwt.key", "synckit.db"]


def test_processes_that_start_together_share_one_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Path, "exists", lambda path: False)
        keys = {create_app(instance_path=folder).config["SYNCKIT_JWT_KEY"] for _ in range(3)}
    assert len(keys) == 1
    assert mode(folder / "jwt.key") == 0o600


def test_a_configured_key_is_not_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCKIT_JWT_KEY", KEY)
    token = create_app(instance_path=folder).extensions["synckit_backend"].signer.sign("notes", "alice", seconds=60)
    assert jwt.decode(token, KEY, ["HS256"])["sub"] == "alice"
    assert not (folder / "jwt.key").exists()


@pytest.mark.parametrize("key", [None, ""])
def test_production_without_a_key_refuses_and_says_how_to_make_one(folder: Path, key: str | None) -> None:
    with pytest.raises(ConfigurationError, match=r"^SYNCKIT_JWT_KEY is not set.*secrets\.token_hex\(32\)"):
        create_app({"SYNCKIT_ENV": "production", "SYNCKIT_JWT_KEY": key}, instance_path=folder)
    assert not folder.exists()


def test_an_unknown_environment_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="SYNCKIT_ENV: 'prod' must be development or production"):
        create_app({"SYNCKIT_ENV": "prod"}, instance_path=folder)


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot create the folder"):
        create_app(instance_path=tmp_path / "file" / "instance")


@pytest.mark.parametrize(
    ("addresses", "offered"),
    [
        ([LOOPBACK], True),
        ([("127.8.9.10", 80), ("::1", 80, 0, 0)], True),
        (["/run/synckit.sock"], True),
        ([("0.0.0.0", 8000)], False),
        ([("::", 8000, 0, 0)], False),
        ([LOOPBACK, ("192.0.2.7", 8000)], False),
        ([("fe80::1%eth0", 8000, 0, 2)], False),
        ([], False),
    ],
)
def test_a_demo_is_offered_on_the_loopback_only(
    app: Flask, capsys: pytest.CaptureFixture[str], addresses: list[Any], offered: bool
) -> None:
    development.offer_demo(app, addresses)
    assert ("demo@example.org" in capsys.readouterr().out) is offered


def test_a_demo_is_offered_once_and_the_page_comes_first(
    app: Flask, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    development.offer_demo(app, [LOOPBACK])
    page, *commands = [line for line in capsys.readouterr().out.splitlines() if "http://127.0.0.1:8000" in line]
    assert page.endswith(" http://127.0.0.1:8000/")
    assert [Path(line.split()[0]).name for line in commands] == ["curl", "curl", "synckit"]
    development.offer_demo(app, [LOOPBACK])
    assert capsys.readouterr().out == ""
    apps = backend.store.read(lambda connection: queries.list_apps(connection, after="", most=10))
    assert {app.name: app.log for app in apps} == {"Demo": "rows", "Demo page": "history"}


def test_no_demo_is_offered_beside_an_app(app: Flask, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.store.write(lambda connection: accounts.add_app(connection, "notes"))
    development.offer_demo(app, [LOOPBACK])
    assert capsys.readouterr().out == ""


def test_no_demo_is_offered_in_production(make_app: Callable[..., Flask], capsys: pytest.CaptureFixture[str]) -> None:
    development.offer_demo(make_app(SYNCKIT_ENV="production"), [LOOPBACK])
    assert capsys.readouterr().out == ""


def test_a_demo_on_a_unix_socket_says_so(app: Flask, capsys: pytest.CaptureFixture[str]) -> None:
    development.offer_demo(app, ["/run/synckit.sock"])
    printed = capsys.readouterr().out
    assert "--unix-socket '/run/synckit.sock' 'http://localhost/api/sync/push'" in printed
    assert "side by side" not in printed  # no browser opens one
