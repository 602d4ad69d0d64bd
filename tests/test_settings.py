"""Every setting is checked once, at start, and the error names a wrong one."""

import subprocess
import sys
import traceback
from pathlib import Path

import pytest
from flask import Flask

from synckit_notify import Notifier
from synckit_notify.backend import Backend, create_app
from synckit_notify.errors import ConfigurationError
from synckit_notify.setting_names import KNOWN
from synckit_notify.settings import Settings, with_environment

from .support.server import ROOT, clean_environment
from .support.tokens import KEY, make_token

WRONG = [
    ("SYNCKIT_JWT_KEY", None),
    ("SYNCKIT_JWT_KEY", "too short"),
    ("SYNCKIT_JWT_KEY", 12345678901234567890123456789012),
    ("SYNCKIT_JWT_KEYS", "no JSON"),
    ("SYNCKIT_JWT_KEYS", '["a list"]'),
    ("SYNCKIT_JWT_KEYS", {1: KEY}),
    ("SYNCKIT_JWT_KEYS", {"a": 1}),
    ("SYNCKIT_JWT_ALGORITHMS", "none"),
    ("SYNCKIT_JWT_ALGORITHMS", "RS256"),
    ("SYNCKIT_JWT_ALGORITHMS", 256),
    ("SYNCKIT_JWT_ISSUER", ["a"]),
    ("SYNCKIT_URL_PREFIX", "api"),
    ("SYNCKIT_URL_PREFIX", "/api/"),
    ("SYNCKIT_KEEPALIVE_SECONDS", 0),
    ("SYNCKIT_KEEPALIVE_SECONDS", -1),
    ("SYNCKIT_KEEPALIVE_SECONDS", "soon"),
    ("SYNCKIT_KEEPALIVE_SECONDS", "nan"),
    ("SYNCKIT_KEEPALIVE_SECONDS", "inf"),
    ("SYNCKIT_KEEPALIVE_SECONDS", True),
    ("SYNCKIT_MAX_STREAMS", 0),
    ("SYNCKIT_MAX_STREAMS", 1.5),
    ("SYNCKIT_MAX_STREAMS", "many"),
    ("SYNCKIT_MAX_STREAMS_PER_CHANNEL", -1),
    ("SYNCKIT_MAX_STREAM_SECONDS", "0"),
    ("SYNCKIT_BROKER_URL", "carrier-pigeon://"),
    ("SYNCKIT_BROKER_URL", "memory"),
    ("SYNCKIT_BROKER_URL", "redis://:pass/word@localhost"),
    ("SYNCKIT_BROKER_URL", "redis://localhost?no_such_option=1"),
    ("SYNCKIT_BROKER_URL", "redis://localhost?socket_timeout=soon"),
    ("SYNCKIT_BROKER_NAMESPACE", 5),
    ("SYNCKIT_BROKER_NAMESPACE", "a\nb"),
    ("SYNCKIT_SWEEP_SECONDS", "x"),
    ("SYNCKIT_CORS_ORIGINS", 8000),
    ("SYNCKIT_CORS_ORIGINS", ["https://a.example", 8000]),
    ("SYNCKIT_CORS_ORIGINS", "*"),
    ("SYNCKIT_CORS_ORIGINS", "null"),
    ("SYNCKIT_CORS_ORIGINS", "a.example"),
    ("SYNCKIT_CORS_ORIGINS", "https://"),
    ("SYNCKIT_CORS_ORIGINS", "https://a.example/"),
    ("SYNCKIT_CORS_ORIGINS", "https://a.example/app"),
    ("SYNCKIT_CORS_ORIGINS", "https://*.a.example"),
    ("SYNCKIT_CORS_ORIGINS", "https://a.example:"),
    ("SYNCKIT_CORS_ORIGINS", "https://a.example:0443"),
    ("SYNCKIT_CORS_ORIGINS", "https://alice@a.example"),
    ("SYNCKIT_CORS_ORIGINS", "https://bücher.example"),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_named(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match="SYNCKIT_JWT" if "JWT_A" in name else name):
        Settings.read({"SYNCKIT_JWT_KEY": KEY, name: value}, own_tokens=False)


def test_the_defaults_are_those_of_the_documents() -> None:
    settings = Settings.read({"SYNCKIT_JWT_KEY": KEY}, own_tokens=False)
    assert (settings.url_prefix, settings.keepalive_seconds, settings.sweep_seconds) == ("/api/sync", 30.0, 3.0)
    assert (settings.max_streams, settings.max_streams_per_channel, settings.max_stream_seconds) == (None, 100, None)
    assert (settings.broker_url, settings.cors_origins) == (None, frozenset())
    assert (settings.broker_url, settings.broker_namespace) == (None, None)


def test_strings_from_the_environment_are_read_as_numbers() -> None:
    texts = {"SYNCKIT_KEEPALIVE_SECONDS": "12.5", "SYNCKIT_MAX_STREAMS": "7", "SYNCKIT_MAX_STREAM_SECONDS": "600"}
    settings = Settings.read({"SYNCKIT_JWT_KEYS": f'{{"a": "{KEY}"}}', **texts}, own_tokens=False)
    assert (settings.keepalive_seconds, settings.max_streams, settings.max_stream_seconds) == (12.5, 7, 600.0)


ORIGINS = [
    ("", set()),
    ("https://a.example", {"https://a.example"}),
    ("https://a.example, http://b.example:8000 ,\n", {"https://a.example", "http://b.example:8000"}),
    (["https://a.example", "tauri://localhost"], {"https://a.example", "tauri://localhost"}),
    ("HTTPS://A.Example:443 http://a.example:80", {"https://a.example", "http://a.example"}),
    ("http://a.example:443 http://[::1]:8000", {"http://a.example:443", "http://[::1]:8000"}),
]


@pytest.mark.parametrize(("value", "origins"), ORIGINS)
def test_origins_are_kept_as_a_browser_writes_them(value: object, origins: set[str]) -> None:
    settings = Settings.read({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_CORS_ORIGINS": value}, own_tokens=False)
    assert settings.cors_origins == origins


def test_a_wrong_origin_is_shown_among_the_right_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"'https://b\.example/' must be scheme://host"):
        Settings.read({"SYNCKIT_CORS_ORIGINS": "https://a.example https://b.example/"}, own_tokens=True)


def test_a_mounted_notifier_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNCKIT_JWT_KEY", KEY)
    monkeypatch.setenv("SYNCKIT_URL_PREFIX", "/sync\n")
    monkeypatch.setenv("SYNCKIT_MAX_STREAMS_PER_CHANNEL", "1")
    monkeypatch.setenv("SYNCKIT_JWT_ISSUER", "")
    app = Flask(__name__)
    Notifier(app)
    client, headers = app.test_client(), {"Authorization": f"Bearer {make_token()}"}
    with client.get("/sync/subscribe?app_id=notes&device_id=a", headers=headers) as first:
        assert first.status_code == 200
        assert client.get("/sync/subscribe?app_id=notes&device_id=b", headers=headers).status_code == 429


PRECEDENCE = [
    ({}, "60", 60.0),
    ({}, "", 30.0),
    ({}, " 60\r\n", 60.0),
    ({"SYNCKIT_KEEPALIVE_SECONDS": 20}, "60", 20.0),
    ({"SYNCKIT_KEEPALIVE_SECONDS": None}, "60", 30.0),
    ({"SYNCKIT_KEEPALIVE_SECONDS": ""}, "60", 30.0),
    ({"SYNCKIT_KEEPALIVE_SECONDS": 20}, "wrong, and not read", 20.0),
]


@pytest.mark.parametrize(("config", "variable", "seconds"), PRECEDENCE)
def test_a_key_of_the_configuration_takes_precedence_also_if_it_is_empty(
    config: dict[str, object], variable: str, seconds: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SYNCKIT_KEEPALIVE_SECONDS", variable)
    assert Settings.read(with_environment(config), own_tokens=True).keepalive_seconds == seconds
    backend = create_app({"SYNCKIT_JWT_KEY": KEY} | config, instance_path=tmp_path)
    assert backend.extensions["synckit_notify"].settings.keepalive_seconds == seconds


def test_the_included_server_reads_the_environment_and_copies_nothing_into_its_configuration(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SYNCKIT_JWT_KEY", KEY)
    monkeypatch.setenv("SYNCKIT_ENV", "production")
    monkeypatch.setenv("SYNCKIT_PROXIES", "2 ")
    app = create_app({"SYNCKIT_PROXIES": "1"}, instance_path=tmp_path)
    backend: Backend = app.extensions["synckit_backend"]
    assert (backend.settings.is_production, backend.settings.proxies) == (True, 1)
    assert {"SYNCKIT_JWT_KEY", "SYNCKIT_ENV"}.isdisjoint(app.config)


def test_the_settings_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Flask(__name__)
    app.config["SYNCKIT_JWT_KEY"] = KEY
    Notifier(app)
    monkeypatch.setenv("SYNCKIT_URL_PREFIX", "wrong")
    app.config["SYNCKIT_JWT_KEY"] = "another key, of 32 bytes or more than that"
    headers = {"Authorization": f"Bearer {make_token()}"}
    with app.test_client().get("/api/sync/subscribe?app_id=notes", headers=headers) as answer:
        assert answer.status_code == 200


MISSPELT = [
    ("SYNCKIT_KEEPALIVE", "SYNCKIT_KEEPALIVE_SECONDS"),
    ("SYNCKIT_KEEP_ALIVE_SECONDS", "SYNCKIT_KEEPALIVE_SECONDS"),
    ("SYNCKIT_BROKER", "SYNCKIT_BROKER_URL"),
    ("SYNCKIT_BROKERURL", "SYNCKIT_BROKER_URL"),
    ("SYNCKIT_JWTKEY", "SYNCKIT_JWT_KEY"),
    ("SYNCKIT_KEY", "SYNCKIT_JWT_KEY"),
    ("SYNCKIT_JWT_ALGORITHM", "SYNCKIT_JWT_ALGORITHMS"),
    ("SYNCKIT_CORS_ORIGIN", "SYNCKIT_CORS_ORIGINS"),
    ("SYNCKIT_MAX_STREAMS_PER_CHANEL", "SYNCKIT_MAX_STREAMS_PER_CHANNEL"),
    ("SYNCKIT_DB_URL", "SYNCKIT_DATABASE_URL"),
    ("SYNCKIT_WORKER", "SYNCKIT_WORKERS"),
    ("SYNCKIT_PASWORD", "SYNCKIT_PASSWORD"),
]


@pytest.mark.parametrize(("name", "nearest"), MISSPELT)
@pytest.mark.parametrize("place", ["app.config", "the environment"])
def test_a_misspelt_name_is_one_warning_with_the_nearest_name(
    name: str, nearest: str, place: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask(__name__)
    app.config["SYNCKIT_JWT_KEY"] = KEY
    if place == "app.config":
        app.config[name] = "hunter2"
    else:
        monkeypatch.setenv(name, "hunter2")
    Notifier(app)
    expected = f"{name} is not a known setting and is ignored; did you mean {nearest}?"
    assert [record.getMessage() for record in caplog.records] == [expected]


def test_the_included_server_warns_of_a_misspelt_name_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SYNCKIT_DATABSE_URL", "hunter2")
    create_app({"SYNCKIT_JWT_KEY": KEY}, instance_path=tmp_path)
    assert sum("SYNCKIT_DATABSE_URL" in record.getMessage() for record in caplog.records) == 1


OF_KUBERNETES = {
    "SYNCKIT_SERVICE_HOST": "10.0.0.11",
    "SYNCKIT_SERVICE_PORT": "8000",
    "SYNCKIT_SERVICE_PORT_HTTP": "8000",
    "SYNCKIT_PORT": "tcp://10.0.0.11:8000",
    "SYNCKIT_PORT_8000_TCP": "tcp://10.0.0.11:8000",
    "SYNCKIT_PORT_8000_TCP_PROTO": "tcp",
    "SYNCKIT_PORT_8000_TCP_PORT": "8000",
    "SYNCKIT_PORT_8000_TCP_ADDR": "10.0.0.11",
    "SYNCKIT_DB_SERVICE_HOST": "10.0.0.12",
    "SYNCKIT_DB_PORT_5432_TCP": "tcp://10.0.0.12:5432",
}


def test_the_variables_that_kubernetes_sets_for_a_service_cause_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    Settings.read(OF_KUBERNETES | {"SYNCKIT_DB_PASSWORD": "hunter2"}, own_tokens=True)
    assert [record.getMessage().split()[0] for record in caplog.records] == ["SYNCKIT_DB_PASSWORD"]


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_a_known_name_causes_no_warning_whoever_reads_it(name: str, caplog: pytest.LogCaptureFixture) -> None:
    Settings.read({name: ""}, own_tokens=True)
    assert not caplog.records


def test_a_broker_url_of_another_type_is_not_shown() -> None:
    with pytest.raises(ConfigurationError, match="SYNCKIT_BROKER_URL must be a string, not bytes"):
        Settings.read({"SYNCKIT_BROKER_URL": b"redis://:hunter2@localhost"}, own_tokens=True)


SWITCHES = [("", False), ("0", False), ("off", False), ("1", True), ("on\n", True)]


@pytest.mark.parametrize(("value", "shared"), SWITCHES)
def test_gunicorn_conf_reads_the_switch_of_the_metrics_as_the_notifier_does(value: str, shared: bool) -> None:
    code = (
        "import os, runpy, shutil; conf = runpy.run_path('gunicorn.conf.py');"
        "folder = os.environ.get('PROMETHEUS_MULTIPROC_DIR', '');"
        "print(conf['workers'], conf['bind'], bool(folder));"
        "folder and shutil.rmtree(folder)"
    )
    env = clean_environment() | {"SYNCKIT_METRICS": value, "SYNCKIT_WORKERS": "2\n", "SYNCKIT_BIND": ""}
    env.pop("PROMETHEUS_MULTIPROC_DIR", None)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "127.0.0.1:8000", str(shared)]


def test_a_host_that_authenticates_needs_no_key() -> None:
    assert Settings.read({}, own_tokens=True).verifier is None


@pytest.mark.parametrize(
    "url", ["redis://localhost", "rediss://u:p@localhost:6380/1?ssl_cert_reqs=none", "unix:///a.sock"]
)
def test_a_broker_url_is_checked_without_connecting(url: str) -> None:
    assert Settings.read({"SYNCKIT_BROKER_URL": url}, own_tokens=True).broker_url == url


@pytest.mark.parametrize(
    "url", ["redis:/:hunter2@localhost", "redis://:hunt/er2@localhost", "redis://:hunter2@localhost:x"]
)
def test_a_password_in_a_wrong_broker_url_is_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Settings.read({"SYNCKIT_BROKER_URL": url}, own_tokens=True)
    assert "hunt" not in "".join(traceback.format_exception(raised.value))


ODD_KEYS = [
    ({"SYNCKIT_JWT_KEY": f"{KEY}\n"}, "SYNCKIT_JWT_KEY:"),
    ({"SYNCKIT_JWT_KEY": f"{KEY}\r\n".encode()}, "SYNCKIT_JWT_KEY:"),
    ({"SYNCKIT_JWT_KEY": f" {KEY}"}, "SYNCKIT_JWT_KEY:"),
    ({"SYNCKIT_JWT_KEY": f'"{KEY}"'}, "SYNCKIT_JWT_KEY:"),
    ({"SYNCKIT_JWT_KEY": f"'{KEY}"}, "SYNCKIT_JWT_KEY:"),
    ({"SYNCKIT_JWT_KEY": f"\ufeff{KEY}"}, "SYNCKIT_JWT_KEY:"),
    ({"SYNCKIT_JWT_KEYS": {"2026": f"{KEY}\t", "2025": KEY}}, "SYNCKIT_JWT_KEYS, kid '2026':"),
]


@pytest.mark.parametrize(("config", "name"), ODD_KEYS)
def test_a_key_with_quotes_or_space_at_its_ends_is_warned_about_once(
    config: dict, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert Settings.read(config, own_tokens=False).verifier
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith(name)
    assert KEY not in line


def test_the_included_server_warns_about_such_a_key_once(tmp_path, caplog: pytest.LogCaptureFixture) -> None:
    create_app({"SYNCKIT_JWT_KEY": f"{KEY}\n", "SYNCKIT_ENV": "production"}, instance_path=tmp_path)
    assert sum("byte order mark" in record.getMessage() for record in caplog.records) == 1


@pytest.mark.parametrize("key", [KEY, KEY.encode(), b"\x80" * 31 + b" ", "quotes 'inside' of a key, not at its ends"])
def test_a_valid_key_causes_no_warning(key: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    assert Settings.read({"SYNCKIT_JWT_KEY": key}, own_tokens=False).verifier
    assert not caplog.records
