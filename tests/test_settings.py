"""Every setting is checked once, at start, and the error names a wrong one."""

import traceback

import pytest

from synckit_notify.backend import create_app
from synckit_notify.errors import ConfigurationError
from synckit_notify.settings import Settings

from .support.tokens import KEY

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
    assert (settings.broker_url, settings.cors_origins) == ("memory://", frozenset())
    assert (settings.broker_url, settings.broker_namespace) == ("memory://", "synckit")


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
