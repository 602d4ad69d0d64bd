"""The key set of an identity provider: when it is fetched, and what a provider that fails or misbehaves costs."""

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from flask import Flask

from synckit_notify import Notifier
from synckit_notify.errors import InvalidToken, KeysUnavailable
from synckit_notify.provider_keys import download as downloads
from synckit_notify.provider_keys import key_set as key_sets
from synckit_notify.provider_keys.download import MAX_BYTES, DownloadFailed, download
from synckit_notify.provider_keys.key_set import KeyCache, Schedule
from synckit_notify.provider_keys.public_key import Keys
from synckit_notify.settings import Settings
from synckit_notify.tokens import TokenVerifier

from .support.gevent_script import under_gevent
from .support.identity_provider import CLAIMS, PATH, IdentityProvider, SigningKey, config_of
from .support.raw_client import CHANGED, CONNECTED, Listener
from .support.server import free_port, gunicorn
from .support.wait import collect_garbage, wait_until

KEY = SigningKey("first", "ES256")
ES256 = {"SYNCKIT_JWT_ALGORITHMS": "ES256"}


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider(KEY) as started:
        yield started


def verifier_for(provider: IdentityProvider) -> TokenVerifier:
    verifier = Settings.read(config_of(provider, **ES256), own_tokens=False).verifier
    assert verifier is not None
    return verifier


def outcome(verifier: TokenVerifier, token: str) -> int:
    """Return the status that a token gets."""
    try:
        verifier.verify(token, datetime.now(UTC))
    except (InvalidToken, KeysUnavailable) as refusal:
        assert (refusal.retry_after is not None) == isinstance(refusal, KeysUnavailable)
        return refusal.status
    return 200


def lines_about(port: int, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the log lines about the provider at this port; the key sets of other tests may still be refreshed."""
    return [line for line in (record.getMessage() for record in caplog.records) if f":{port}/" in line]


# When


def test_a_first_fetch_that_fails_is_tried_again_after_growing_times() -> None:
    schedule, waits = Schedule(100.0), []
    assert schedule.due_at == 100.0
    for _ in range(8):
        now = schedule.due_at
        schedule.failed(now, has_keys=False)
        waits.append(schedule.due_at - now)
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
    schedule.fetched(1000.0)
    schedule.failed(1300.0, has_keys=True)
    assert schedule.due_at == 1600.0


def test_keys_are_fetched_again_within_five_minutes_and_not_by_all_processes_at_once() -> None:
    schedule, waits = Schedule(0.0), set()
    for _ in range(100):
        schedule.fetched(0.0)
        waits.add(schedule.due_at)
    assert 270 <= min(waits) < max(waits) <= 300


def test_an_unknown_kid_makes_one_fetch_due_in_thirty_seconds() -> None:
    schedule = Schedule(0.0)
    schedule.fetched(0.0)
    assert [schedule.ask(now) for now in (1.0, 1.0, 30.9, 31.0, 60.9, 61.0)] == [True, False, False, True, False, True]
    assert schedule.due_at == 61.0


def test_keys_are_refreshed_in_the_background_without_a_token(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_sets, "REFRESH_SECONDS", 0.05)
    verifier = verifier_for(provider)
    assert outcome(verifier, provider.token()) == 200
    wait_until(lambda: provider.fetches >= 5)
    assert outcome(verifier, provider.token()) == 200


def test_a_key_set_that_nobody_uses_any_more_is_not_fetched_again(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def is_running() -> bool:
        return collect_garbage() and any(thread.name == name for thread in threading.enumerate())

    name = f"synckit-key-set-{provider.port}"
    original = key_sets.Periodic
    monkeypatch.setattr(key_sets, "Periodic", lambda _, *others, **named: original(name, *others, **named))
    monkeypatch.setattr(key_sets, "REFRESH_SECONDS", 0.02)
    verifier = verifier_for(provider)
    assert outcome(verifier, provider.token()) == 200
    assert is_running()
    del verifier
    wait_until(lambda: not is_running())


def test_nothing_is_fetched_before_the_first_token(provider: IdentityProvider) -> None:
    app = Flask("host")
    app.config.update(config_of(provider, **ES256))
    Notifier(app)
    client = app.test_client()
    assert client.get("/api/sync/ready").status_code == 200
    assert client.get("/api/sync/subscribe?app_id=notes").status_code == 401
    assert provider.fetches == 0
    headers = {"Authorization": f"Bearer {provider.token()}"}
    assert client.head("/api/sync/subscribe?app_id=notes", headers=headers).status_code == 200
    assert provider.fetches == 1


def test_keys_that_left_the_key_set_are_forgotten_at_the_next_fetch(provider: IdentityProvider) -> None:
    verifier, old = verifier_for(provider), provider.token()
    assert outcome(verifier, old) == 200
    provider.keys = [SigningKey("second", "ES256")]
    assert outcome(verifier, provider.token()) == 200
    assert outcome(verifier, old) == 401


# A provider that rotates, or that strangers make us ask


@pytest.mark.thorough
def test_ten_thousand_unknown_kids_cause_two_fetches(provider: IdentityProvider) -> None:
    verifier, stranger = verifier_for(provider), SigningKey(algorithm="ES256")
    tokens = [stranger.sign(CLAIMS, kid=f"unknown-{number}") for number in range(10_000)]
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda token: outcome(verifier, token), tokens)) == {401}
    assert outcome(verifier, provider.token()) == 200
    assert provider.fetches <= 2 + (time.monotonic() - began) // 30


def test_no_token_is_refused_while_a_provider_rotates_its_keys_under_load(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_sets, "UNKNOWN_KID_SECONDS", 0.0)
    verifier, seen, done = verifier_for(provider), [], threading.Event()

    def use() -> None:
        while not done.is_set():
            seen.append(outcome(verifier, provider.token()))

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for number in range(10):
        count = len(seen)
        wait_until(lambda count=count: len(seen) > count + 20)
        provider.rotate(f"rotated-{number}")
    done.set()
    for thread in threads:
        thread.join()
    assert set(seen) == {200}
    assert provider.fetches <= 1 + 10 * 7


def test_requests_with_a_new_kid_share_one_fetch_and_wait_for_it(provider: IdentityProvider) -> None:
    verifier = verifier_for(provider)
    assert outcome(verifier, provider.token()) == 200
    provider.rotate("second")
    provider.answer = lambda handler: (provider.released.wait(60), provider.serve(handler))
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(outcome, verifier, provider.token()) for _ in range(8)]
        wait_until(lambda: provider.fetches == 2)
        assert outcome(verifier, KEY.sign(CLAIMS)) == 200
        assert not any(answer.done() for answer in answers)
        provider.released.set()
        assert {answer.result() for answer in answers} == {200}
    assert provider.fetches == 2


# A provider that fails


def test_a_provider_that_is_gone_at_start_is_asked_again_and_not_for_each_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    port = free_port()
    with IdentityProvider(KEY) as elsewhere:
        config = config_of(elsewhere, **ES256) | {"SYNCKIT_JWT_JWKS_URL": f"http://127.0.0.1:{port}{PATH}?a=secret"}
    verifier = Settings.read(config, own_tokens=False).verifier
    assert verifier is not None
    token = KEY.sign(CLAIMS)
    assert {outcome(verifier, token) for _ in range(1000)} == {503}
    assert outcome(verifier, "malformed") == 401
    assert outcome(verifier, f"{token.split('.')[0]}.bm8gSlNPTg.c2lnbmF0dXJl") == 401  # the payload is "no JSON"
    assert outcome(verifier, SigningKey("first", "ES384").sign(CLAIMS)) == 401
    (line,) = lines_about(port, caplog)
    assert f"the key set at http://127.0.0.1:{port}{PATH} cannot be used: ConnectionRefusedError" in line
    assert "until then tokens are answered with 503" in line
    with IdentityProvider(KEY, port=port) as provider:
        wait_until(lambda: outcome(verifier, token) == 200)
        assert provider.fetches == 1


def test_keys_stay_in_use_without_end_while_refreshes_fail(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(key_sets, "REFRESH_SECONDS", 0.02)
    verifier = verifier_for(provider)
    assert outcome(verifier, provider.token()) == 200
    for broken in ({"keys": []}, {}, "text", {"keys": [{"kty": "RSA"}]}):
        provider.key_set, asked = broken, provider.fetches
        wait_until(lambda asked=asked: provider.fetches > asked + 3)
        assert outcome(verifier, provider.token()) == 200
    provider.answer = lambda handler: handler.send_error(500)
    wait_until(lambda asked=provider.fetches: provider.fetches > asked + 3)
    assert outcome(verifier, provider.token()) == 200
    assert outcome(verifier, SigningKey("unknown", "ES256").sign(CLAIMS)) == 401
    (line,) = lines_about(provider.port, caplog)
    assert "the keys fetched before stay in use" in line


def test_a_provider_that_hangs_at_start_delays_only_the_first_requests(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (downloads, key_sets):
        monkeypatch.setattr(module, "MAX_SECONDS", 1.0)
    provider.answer = provider.hang
    verifier = verifier_for(provider)
    with ThreadPoolExecutor(20) as pool:
        assert set(pool.map(lambda _: outcome(verifier, provider.token()), range(20))) == {503}
    assert provider.fetches == 1
    for module in (downloads, key_sets):
        monkeypatch.setattr(module, "MAX_SECONDS", 50.0)
    wait_until(lambda: provider.fetches == 2)
    began = time.monotonic()
    assert {outcome(verifier, provider.token()) for _ in range(100)} == {503}
    assert time.monotonic() - began < 40.0
    provider.answer = provider.serve
    provider.released.set()
    wait_until(lambda: outcome(verifier, provider.token()) == 200)


def test_no_request_waits_longer_than_the_first_for_a_name_resolution_that_hangs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolved, asked = threading.Event(), []

    def resolve(*address: object) -> list[object]:
        asked.append(address)
        resolved.wait(60)
        return []

    monkeypatch.setattr(downloads, "getaddrinfo", resolve)
    monkeypatch.setattr(key_sets, "MAX_SECONDS", 0.5)
    cache = KeyCache("https://id.example.org/")
    with pytest.raises(KeysUnavailable):
        cache.find("first", "ES256")
    monkeypatch.setattr(key_sets, "MAX_SECONDS", 50.0)
    for _ in range(100):
        with pytest.raises(KeysUnavailable):
            cache.find("first", "ES256")
    assert len(asked) == 1
    resolved.set()


@pytest.mark.parametrize("name", ["hang", "drip"])
def test_a_download_takes_five_seconds_at_most(provider: IdentityProvider, name: str) -> None:
    provider.answer = getattr(provider, name)
    began = time.monotonic()
    with pytest.raises(DownloadFailed, match="no complete answer came in 5 s"):
        download(provider.url)
    assert time.monotonic() - began > 4.5
    assert provider.fetches == 1


def test_a_slow_body_ends_at_the_deadline_too(provider: IdentityProvider) -> None:
    def drip_body(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        while not provider.released.wait(0.1):
            handler.wfile.write(b" ")

    provider.answer = drip_body
    times = iter([0.0] + [float(number) / 2 for number in range(100)])
    with pytest.raises(DownloadFailed, match="no complete answer"):
        download(provider.url, clock=lambda: next(times))


def test_a_hundred_megabytes_are_not_read(provider: IdentityProvider) -> None:
    provider.answer = provider.flood
    with pytest.raises(DownloadFailed, match="more than 256 KiB"):
        download(provider.url)
    provider.answer = provider.serve
    provider.key_set = {"keys": [KEY.jwk()], "padding": "x" * (MAX_BYTES - 1000)}
    assert Keys.from_json(download(provider.url)).knows("first")


REDIRECTS = [
    (f"{PATH}?at=another-place", None),
    ("jwks.json?relative", None),
    ("{origin}/elsewhere?at=the-same-origin", None),
    ("http://127.0.0.1:{port}/?", "another origin"),
    ("http://localhost:1/?", "another origin"),
    ("https://localhost:{port}/?", "another origin"),
    ("https://id.example.org/?", "another origin"),
    ("http://id.example.org/?", "must be an https URL"),
    ("file:///etc/passwd", "redirects to a URL that must be"),
    (PATH, "redirects more than 3 times"),
    ("", "redirects more than 3 times"),
]


@pytest.mark.parametrize(("target", "failure"), REDIRECTS)
def test_a_redirect_is_followed_within_its_origin_only(
    provider: IdentityProvider, target: str, failure: str | None
) -> None:
    target = target.format(port=provider.port, origin=f"http://localhost:{provider.port}")
    provider.answer = provider.redirect_to(target)
    if failure is None:
        assert Keys.from_json(download(provider.url)).knows("first")
    else:
        with pytest.raises(DownloadFailed, match=failure):
            download(provider.url)


def test_an_answer_that_is_cut_or_no_http_is_a_failure(provider: IdentityProvider) -> None:
    def cut(handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"keys": []}')

    for answer in (cut, lambda handler: handler.wfile.write(b"no HTTP\r\n\r\n"), lambda handler: None):
        provider.answer = answer
        with pytest.raises(DownloadFailed):
            download(provider.url)


def test_a_chunked_answer_and_no_environment_proxy(provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    def chunked(handler) -> None:
        assert handler.headers["Accept-Encoding"] == "identity"
        handler.protocol_version = "HTTP/1.1"
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for part in (b'{"keys"', b": []}"):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    provider.answer = chunked
    assert download(provider.url) == b'{"keys": []}'


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A certificate for `localhost` and its key."""
    folder = tmp_path_factory.mktemp("certificate")
    files = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-out", files[0], "-keyout", files[1], "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return files


def test_https_with_a_trusted_certificate_only(certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with IdentityProvider(KEY, certificate=certificate) as provider:
        with pytest.raises(DownloadFailed, match="CERTIFICATE_VERIFY_FAILED"):
            download(provider.url)
        monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
        assert Keys.from_json(download(provider.url)).knows("first")
        with pytest.raises(DownloadFailed, match="CERTIFICATE_VERIFY_FAILED"):  # it is not for 127.0.0.1
            download(provider.url.replace("localhost", "127.0.0.1"))
        provider.answer = provider.flood
        with pytest.raises(DownloadFailed, match="more than 256 KiB"):
            download(provider.url)


# Processes and gevent


def test_a_forked_child_fetches_for_itself_even_during_a_fetch_of_its_parent(provider: IdentityProvider) -> None:
    provider.answer = provider.hang
    verifier, token = verifier_for(provider), provider.token()
    first = threading.Thread(target=outcome, args=(verifier, token))
    first.start()
    wait_until(lambda: provider.fetches == 1)
    provider.answer = provider.serve
    if (child := os.fork()) == 0:
        os._exit(0 if outcome(verifier, token) == 200 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert provider.fetches == 2
    provider.released.set()
    first.join()


def test_under_gevent_a_hanging_fetch_does_not_hold_up_the_hub_and_makes_no_second_one(
    certificate: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certificate[0])
    with IdentityProvider(KEY, certificate=certificate) as provider:
        token, config = provider.token(), config_of(provider, **ES256)
        provider.answer = lambda handler: (time.sleep(1.0), provider.serve(handler))
        done = under_gevent(f"""
            import gc, time, gevent
            from datetime import UTC, datetime
            from synckit_notify.settings import Settings
            from tests.support.hub_ticks import tick
            verifier = Settings.read({config!r}, own_tokens=False).verifier
            gaps, hubs = [], lambda: sum(isinstance(each, gevent.hub.Hub) for each in gc.get_objects())
            ticker = gevent.spawn(tick, gaps)
            gevent.sleep(0.05)
            before = len(gaps)
            users = [gevent.spawn(verifier.verify, {token!r}, datetime.now(UTC)) for _ in range(20)]
            gevent.joinall(users)
            print({{user.value.user for user in users}}, len(gaps) > before + 20, hubs())
        """)
        assert done.stdout == "{'alice'} True 1\n", done.stderr
        assert provider.fetches == 1


def test_a_provider_that_hangs_delays_no_open_stream_of_a_gevent_worker(
    provider: IdentityProvider, tmp_path: Path
) -> None:
    env = config_of(provider, **ES256) | {"SYNCKIT_JWT_KEY": ""}
    with gunicorn("tests.support.minimal_host:create_app()", tmp_path, env=env) as server:
        path = "/api/sync/subscribe?app_id=notes&device_id="
        with Listener(server.port, f"{path}phone", provider.token()) as phone, ThreadPoolExecutor(10) as pool:
            assert phone.next_frame() == CONNECTED
            provider.answer = provider.hang
            stranger = SigningKey("unknown", "ES256").sign(CLAIMS)

            def status() -> int:
                with Listener(server.port, f"{path}laptop", stranger) as refused:
                    return refused.status

            waiting = [pool.submit(status) for _ in range(10)]
            wait_until(lambda: provider.fetches == 2)
            heard = 0
            while heard < 20 and not any(each.done() for each in waiting):
                with Listener(server.port, "/push/notes/alice", None, method="POST") as push:
                    assert push.status == 200
                assert phone.next_frame() == CHANGED
                heard += 1
            assert heard > 5  # a blocked worker would answer nothing until the fetch has failed
            with Listener(server.port, f"{path}tablet", provider.token()) as tablet:
                assert tablet.next_frame() == CONNECTED
            assert server.stop() == 0  # although the fetch still hangs
            provider.released.set()


def test_the_cache_of_a_process_that_cannot_start_a_thread_answers_503(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    cache = KeyCache("http://localhost/")
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    with pytest.raises(KeysUnavailable):
        cache.find("first", "ES256")
