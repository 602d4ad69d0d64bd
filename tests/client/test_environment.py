"""Invalid proxy and certificate variables: SDK and commands print one sentence that names the variable."""

import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from synckit_notify.cli import main
from synckit_notify.client import NetworkError, SyncKitClient

VARIABLES = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"]
MUST = "must be the URL of a proxy, such as http://proxy.example.org:3128. Correct or unset it."
SOCKS = "names a SOCKS proxy, which requires the package socksio: pip install socksio"
BROKEN = [
    ("ALL_PROXY", "socks5://127.0.0.1:1080", "ALL_PROXY names a SOCKS proxy, which requires the package socksio"),
    (
        "all_proxy",
        "socks5h://u:s3cret@127.0.0.1:1080",
        "all_proxy names a SOCKS proxy, which requires the package socksio",
    ),
    ("HTTPS_PROXY", "ftp://proxy", f"HTTPS_PROXY {MUST}"),
    ("HTTP_PROXY", "http://u:s3cret@proxy:port", f"HTTP_PROXY {MUST}"),
    ("HTTP_PROXY", "http://", f"HTTP_PROXY {MUST}"),
    ("http_proxy", "not a proxy", f"http_proxy {MUST}"),
    (
        "SSL_CERT_FILE",
        "/no/such/file.pem",
        "SSL_CERT_FILE=/no/such/file.pem cannot be used: No such file",
    ),
    ("SSL_CERT_FILE", "/", "SSL_CERT_FILE=/ cannot be used: Is a directory."),
    ("SSL_CERT_FILE", __file__, f"SSL_CERT_FILE={__file__} cannot be used: NO_CERTIFICATE_OR_CRL_FOUND."),
]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setitem(sys.modules, "socksio", None)  # as where it is not installed


@pytest.mark.parametrize(("name", "value", "sentence"), BROKEN)
def test_an_error_names_the_variable_to_correct(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name) as raised:
        SyncKitClient("https://server", api_key="key", state=tmp_path / "app.state")
    assert str(raised.value).startswith(sentence)
    assert "s3cret" not in str(raised.value)


def test_an_installed_socks_package_that_cannot_be_loaded_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "socksio.py").write_text("import a_package_that_it_needs")
    monkeypatch.delitem(sys.modules, "socksio")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(ImportError, match="a_package_that_it_needs"):
        SyncKitClient("https://server", api_key="key", state=tmp_path / "app.state")


@pytest.mark.parametrize(("name", "value", "sentence"), [BROKEN[0], BROKEN[3], BROKEN[6]])
@pytest.mark.parametrize(
    "command",
    [
        ["listen", "--url", "https://server", "--api-key", "k", "--email", "e", "--password", "p"],
        ["demo", "--url", "https://server", "--api-key", "k", "--email", "e", "--password", "p"],
        ["doctor", "https://server", "--token", "a.b.c", "--app", "notes"],
        ["doctor", "https://server", "--token", "a.b.c", "--app", "notes", "--json"],
    ],
    ids=["listen", "demo", "doctor", "doctor-json"],
)
def test_a_command_prints_that_error_on_one_line(
    monkeypatch: pytest.MonkeyPatch, command: list[str], name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 1
    (line,) = [line for line in done.output.splitlines() if line.startswith("Error: ")]
    assert line.startswith(f"Error: {sentence}")
    assert "Traceback" not in done.output


def test_no_proxy_star_disables_an_invalid_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "ftp://proxy")
    monkeypatch.setenv("NO_PROXY", "*")
    SyncKitClient("https://server", api_key="key").close()


@pytest.fixture
def strict_proxy() -> Iterator[int]:
    """The port of a proxy that requires a password."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.recv(65536)
            client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            client.close()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def test_a_proxy_that_refuses_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch, strict_proxy: int) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://u:s3cret@127.0.0.1:{strict_proxy}")
    client = SyncKitClient("https://server.example.org", api_key="key")
    with client, pytest.raises(NetworkError) as raised:
        client.authenticate("a@b.c", "password")
    assert str(raised.value) == (
        f"no answer from the server: 407 Proxy Authentication Required (through the proxy 127.0.0.1:{strict_proxy})"
    )


def test_a_proxy_that_refuses_the_connection_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{port}")
    client = SyncKitClient("https://server.example.org", api_key="key")
    with client, pytest.raises(NetworkError, match=rf"refused \(through the proxy http://127.0.0.1:{port}\)"):
        client.authenticate("a@b.c", "password")
