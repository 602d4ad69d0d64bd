"""A right signature is checked once; all else is checked each time, and a key that is taken out has effect at once."""

import sys
import threading
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
from flask import Flask, request

from synckit_notify import Notifier, signatures
from synckit_notify.errors import InvalidToken
from synckit_notify.signatures import MAX_VERIFIED, PublicKeys, SharedKeys, VerifiedTokens
from synckit_notify.tokens import TokenVerifier

from .support.identity_provider import IdentityProvider, SigningKey, config_of
from .support.tokens import KEY, make_token

OTHER_KEY = "another key, which is as long as the first"
ES256 = {"SYNCKIT_JWT_ALGORITHMS": "ES256"}


class Host:
    """An application that accepts tokens with these settings."""

    def __init__(self, **settings: Any) -> None:
        app = Flask("host")
        app.config.update(settings)
        self.notifier = Notifier(app)
        app.add_url_rule("/push", view_func=lambda: self.notifier.authenticate(request).user)
        self._client = app.test_client()

    def status(self, token: str) -> int:
        """Return the status of a request with this token."""
        return self._client.get("/push", headers={"Authorization": f"Bearer {token}"}).status_code


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider(SigningKey("first", "ES256")) as started:
        yield started


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The signatures that are computed, each as the name of its family."""
    done: list[str] = []
    for family in (signatures.HMACAlgorithm, jwt.algorithms.ECAlgorithm):
        original = family.verify

        def verify(self: Any, *parts: Any, original: Any = original, name: str = family.__name__) -> bool:
            done.append(name)
            result: bool = original(self, *parts)
            return result

        monkeypatch.setattr(family, "verify", verify)
    return done


# What is done once


def test_a_shared_key_checks_the_signature_of_a_token_once(checks: list[str]) -> None:
    host, token = Host(SYNCKIT_JWT_KEY=KEY), make_token()
    assert [host.status(token) for _ in range(3)] == [200, 200, 200]
    assert host.status(make_token(device="another")) == 200
    assert checks == ["HMACAlgorithm"] * 2


def test_a_public_key_checks_the_signature_of_a_token_once_also_after_another_fetch_of_the_same_key(
    provider: IdentityProvider, checks: list[str]
) -> None:
    host, token = Host(**config_of(provider, **ES256)), provider.token()
    assert [host.status(token) for _ in range(3)] == [200, 200, 200]
    provider.rotate("second")
    assert host.status(provider.token()) == 200
    assert (provider.fetches, host.status(token)) == (2, 200)
    assert checks == ["ECAlgorithm"] * 2


def test_a_wrong_signature_is_never_remembered(checks: list[str]) -> None:
    host, good = Host(SYNCKIT_JWT_KEY=KEY), make_token()
    assert host.status(good) == 200
    before = len(checks)
    wrong = [make_token(key=OTHER_KEY, device=str(n)) for n in range(50)]
    assert {host.status(token) for token in wrong + wrong} == {401}
    assert len(checks) == before + 100
    assert host.status(good) == 200
    assert len(checks) == before + 100


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_token_that_differs_in_one_character_is_another_token(part: int) -> None:
    host, token = Host(SYNCKIT_JWT_KEY=KEY), make_token()
    assert host.status(token) == 200
    parts = token.split(".")
    parts[part] = ("f" if parts[part][0] == "e" else "e") + parts[part][1:]
    assert host.status(".".join(parts)) == 401


# What is checked each time


def test_a_remembered_token_expires() -> None:
    verifier, now = TokenVerifier(SharedKeys({None: KEY.encode()}, ("HS256",))), datetime.now(UTC)
    token = make_token(life=60)
    for _ in range(2):
        verifier.verify(token, now)
    with pytest.raises(InvalidToken, match="expired"):
        verifier.verify(token, now + timedelta(seconds=61))


def test_a_remembered_token_is_revoked() -> None:
    host, token, revoked = Host(SYNCKIT_JWT_KEY=KEY), make_token(), []
    host.notifier.valid_since(lambda principal: revoked[0] if revoked else None)
    assert [host.status(token) for _ in range(2)] == [200, 200]
    revoked.append(datetime.now(UTC) + timedelta(seconds=1))
    assert host.status(token) == 401


def test_a_remembered_token_is_refused_where_it_has_another_audience() -> None:
    signatures_of_both = SharedKeys({None: KEY.encode()}, ("HS256",))
    accepting, refusing = (TokenVerifier(signatures_of_both, audiences=(name,)) for name in ("notify", "other"))
    token, now = make_token(aud="notify"), datetime.now(UTC)
    for _ in range(2):
        assert accepting.verify(token, now).user == "alice"
        with pytest.raises(InvalidToken, match="audience"):
            refusing.verify(token, now)


def test_nobody_can_change_what_a_remembered_token_says() -> None:
    keys, token = SharedKeys({None: KEY.encode()}, ("HS256",)), make_token()
    for _ in range(3):
        header, claims = keys.open(token)
        assert (header["alg"], claims["sub"]) == ("HS256", "alice")
        claims["sub"] = "mallory"
    with pytest.raises(TypeError):
        header["alg"] = "none"  # type: ignore[index]


def test_a_remembered_token_that_is_read_on_a_deep_stack_is_no_fault_of_the_server() -> None:
    nested: list[Any] = []
    for _ in range(300):
        nested = [nested]
    keys, token = SharedKeys({None: KEY.encode()}, ("HS256",)), make_token(x=nested)
    keys.open(token)

    def opened_at(depth: int) -> str:
        if depth:
            return opened_at(depth - 1)
        try:
            return str(keys.open(token)[1]["sub"])
        except InvalidToken:  # CPython before 3.12 counts the frames and the brackets together
            return "refused"

    assert opened_at(0) == "alice"
    assert opened_at(sys.getrecursionlimit() - 400) in ("alice", "refused")


# Keys


def test_a_shared_key_that_is_taken_out_refuses_its_tokens_at_once() -> None:
    old, new = {"a": KEY, "b": OTHER_KEY}, {"b": OTHER_KEY}
    token, staying = make_token(headers={"kid": "a"}), make_token(key=OTHER_KEY, headers={"kid": "b"})
    host = Host(SYNCKIT_JWT_KEYS=old)
    assert [host.status(each) for each in (token, token, staying)] == [200, 200, 200]
    for ring in (new, {"a": OTHER_KEY}, {"a": KEY[::-1]}):
        assert Host(SYNCKIT_JWT_KEYS=ring).status(token) == 401
    assert Host(SYNCKIT_JWT_KEYS=new).status(staying) == 200
    assert host.status(token) == 200


@pytest.mark.parametrize("kid", ["third", "first"])
def test_a_public_key_that_is_taken_out_or_replaced_refuses_its_tokens_at_once(
    provider: IdentityProvider, kid: str
) -> None:
    host, token = Host(**config_of(provider, **ES256)), provider.token()
    assert [host.status(token) for _ in range(2)] == [200, 200]
    provider.keys = [SigningKey(kid, "ES256"), SigningKey("second", "ES256")]
    assert host.status(provider.token()) == 200, "an unknown kid causes a fetch"
    assert host.status(token) == 401


def test_a_token_that_one_application_remembers_is_refused_by_another_with_another_key() -> None:
    token = make_token()
    hosts = [Host(SYNCKIT_JWT_KEY=KEY), Host(SYNCKIT_JWT_KEY=OTHER_KEY)]
    assert [[host.status(token) for host in hosts] for _ in range(2)] == [[200, 401]] * 2


def test_a_token_is_remembered_with_its_key() -> None:
    verified = VerifiedTokens()
    verified.remember("a token", b"one key")
    assert verified.includes("a token", b"one key")
    assert not verified.includes("a token", b"another")
    assert not verified.includes("a token")


# The table


def remembered(verified: VerifiedTokens, first: int, last: int) -> int:
    """Return how many of the tokens with these numbers are remembered."""
    return sum(verified.includes(f"token {n}") for n in range(first, last))


@pytest.mark.parametrize("max_streams", [1, 1_000, 9_000])
def test_the_table_has_room_for_a_token_of_each_stream(max_streams: int) -> None:
    verified = VerifiedTokens(max_streams)
    for n in range(10 * max_streams):
        verified.remember(f"token {n}")
    assert remembered(verified, 9 * max_streams, 10 * max_streams) >= 0.99 * max_streams


@pytest.mark.parametrize(("max_streams", "capacity"), [(1, 8_192), (9_000, 18_432)])
def test_the_table_forgets_the_oldest(max_streams: int, capacity: int) -> None:
    verified, count = VerifiedTokens(max_streams), 3 * capacity // 2
    for n in range(count):
        verified.remember(f"token {n}")
    assert 0.9 * capacity < remembered(verified, 0, count) <= capacity
    assert remembered(verified, 0, capacity // 4) < 0.25 * capacity // 4
    assert remembered(verified, count - capacity // 2, count) > 0.98 * capacity // 2


@pytest.mark.thorough
def test_the_table_takes_4_mib_at_most() -> None:
    tracemalloc.start()
    try:
        verified = VerifiedTokens()
        for n in range(5 * MAX_VERIFIED // 4):
            verified.remember(f"token {n}")
        now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 3 * 2**20 < now <= peak <= 4 * 2**20


def test_many_threads_use_the_table_at_once() -> None:
    verified, faults = VerifiedTokens(1), []

    def use(thread: int) -> None:
        try:
            for n in range(2_000):
                verified.remember(f"{thread} {n}")
                verified.includes(f"{(thread + 1) % 8} {n}")
                assert not verified.includes(f"never {thread} {n}")
        except BaseException as error:
            faults.append(error)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=use, args=(thread,)) for thread in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert faults == []
    verified.remember("the last")
    assert verified.includes("the last")


def test_the_size_follows_the_stream_limit_of_the_settings() -> None:
    sizes = {}
    for limit in (None, 10_000, 1_000_000):
        app = Flask("host")
        app.config.update(SYNCKIT_JWT_KEY=KEY, SYNCKIT_MAX_STREAMS=limit)
        Notifier(app)
        family: SharedKeys | PublicKeys = app.extensions["synckit_notify"].settings.verifier._signatures
        sizes[limit] = family._verified._bytes_of_part
    assert sizes[10_000] == 20 * 32 < sizes[None] == sizes[1_000_000]
