"""gunicorn's settings, which the hooks read once in each worker: they read as before, and a change has effect."""

import json
import re
import signal
import socket
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
from gunicorn.config import Config, make_settings

from synckit_notify import gunicorn_hooks

from .support.server import gunicorn
from .support.tokens import KEY
from .support.wait import wait_until

pytestmark = pytest.mark.thorough


def gevent_settings() -> Config:
    settings = Config()
    settings.set("worker_class", "gevent")
    return settings


READABLE = [name for name in make_settings() if name != "logger_class"]
"""All but one whose class gunicorn imports when it is read, statsd's for example."""


@pytest.mark.parametrize("name", READABLE)
def test_every_setting_reads_as_before(name: str) -> None:
    before, after = gevent_settings(), gevent_settings()
    assert gunicorn_hooks._read_settings_once(after)
    assert getattr(after, name) == getattr(before, name)


def test_a_setting_that_is_changed_later_has_effect() -> None:
    settings = gevent_settings()
    assert gunicorn_hooks._read_settings_once(settings)
    settings.set("keepalive", "75")
    assert settings.keepalive == settings.settings["keepalive"].get() == 75
    with pytest.raises(AttributeError, match="no_such_setting"):
        settings.set("no_such_setting", 1)
    with pytest.raises(AttributeError):
        settings.keepalive = 2
    with pytest.raises(AttributeError):
        _ = settings.no_such_setting


def test_reading_a_setting_takes_no_failed_attribute_access(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, missed = gevent_settings(), []
    assert gunicorn_hooks._read_settings_once(settings)
    monkeypatch.setattr(Config, "__getattr__", lambda _, name: missed.append(name))
    for name in settings.settings:
        getattr(settings, name)
    assert missed == []


@pytest.mark.parametrize("part", ["settings", "set", "get"])
def test_a_gunicorn_with_other_settings_keeps_them(part: str) -> None:
    parts = {"settings": {"keepalive": SimpleNamespace(get=lambda: 2)}, "set": lambda *_: None}
    if part == "get":
        parts["settings"] = {"keepalive": 2}
    else:
        del parts[part]
    settings = SimpleNamespace(**parts)
    assert not gunicorn_hooks._read_settings_once(settings)
    assert vars(settings) == parts


CHANGING = """
import json
from synckit_notify import gunicorn_hooks
from synckit_notify.gunicorn_hooks import post_request, pre_request, when_ready
limit_request_fields = {fields}

def post_worker_init(worker):
    gunicorn_hooks.post_worker_init(worker)
    worker.cfg.set("limit_request_field_size", {size})
    names = ("limit_request_fields", "limit_request_field_size", "post_worker_init")
    worker.log.error("read: %s", json.dumps([str(getattr(worker.cfg, name)) for name in names]))
"""


def ask_with(port: int, header: str) -> bytes:
    """Return the status, empty where a worker that stops has reset the connection, as gunicorn 23's gthread may."""
    with suppress(ConnectionError), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(f"GET /api/sync/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: {header}\r\n\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))[9:12]
    return b""


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_on_a_real_server_a_hosts_hook_changes_a_setting_and_a_reload_reads_all_anew(
    tmp_path: Path, worker_class: str
) -> None:
    configuration = tmp_path / "hooks.py"
    configuration.write_text(CHANGING.format(fields=20, size=100))
    env = {"SYNCKIT_JWT_KEY": KEY, "INSTANCE": str(tmp_path / "instance")}
    options = ("--config", str(configuration), "--threads", "4")
    with gunicorn(
        "tests.support.crashing_backend:create_app()", tmp_path, *options, worker_class=worker_class, env=env
    ) as server:

        def read() -> list[list[str]]:
            return [json.loads(found) for found in re.findall(r"read: (.+)", server.log)]

        wait_until(lambda: len(read()) == 1)
        assert read()[0][:2] == ["20", "100"] and "post_worker_init" in read()[0][2]
        assert (ask_with(server.port, "a"), ask_with(server.port, "a" * 200)) == (b"200", b"431")
        configuration.write_text(CHANGING.format(fields=30, size=300))
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(read()) == 2)
        assert read()[1][:2] == ["30", "300"]
        wait_until(lambda: ask_with(server.port, "a" * 200) == b"200")  # by the new worker
        assert not server.tracebacks
