"""Counters in memory, whose number is bounded, and in Redis, which may hang or be unavailable."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask

from synckit_notify.backend import counters
from synckit_notify.backend.counters import Counters, Table

from ..support.backend import SQLITE_ONLY, add_account, over_http, start
from ..support.login_attempts import Attempts
from ..support.server import free_port
from ..support.tokens import KEY
from ..support.valkey import Valkey


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


class TestTable:
    def test_it_stays_within_its_bound_and_keeps_the_largest_counters(self) -> None:
        table = Table(most=100)
        for _ in range(5):
            table.incr("full", 60)
        for number in range(1000):
            table.incr(f"attacker {number}", 60)
            assert len(table) <= 100
        assert table.get("full") == 5

    def test_ended_counters_are_dropped_first(self) -> None:
        now = [0.0]
        table = Table(most=10, clock=lambda: now[0])
        for number in range(10):
            table.incr(f"old {number}", 60, 7)
        now[0] = 60.0
        assert (table.get("old 1"), table.incr("old 1", 60)) == (0, 1)
        assert len(table) == 1

    def test_a_counter_ends_its_expiry_after_its_first_count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(counters.time, "time", lambda: 1_000_000.0)
        now = [0.0]
        table = Table(clock=lambda: now[0])
        table.incr("key", 60)
        now[0] = 59.0
        assert (table.incr("key", 60), table.get_expiry("key")) == (2, 1_000_001.0)
        now[0] = 60.0
        assert (table.get("key"), table.get_expiry("key")) == (0, 1_000_000.0)


class TestRedis:
    def test_processes_count_together_in_their_namespace_and_keys_expire(self, valkey: Valkey) -> None:
        one, other = (Counters(redis_url=valkey.url, namespace="ours") for _ in range(2))
        assert [one.incr("key", 60), other.incr("key", 60), one.get("key")] == [1, 2, 2]
        assert Counters(redis_url=valkey.url, namespace="theirs").get("key") == 0
        assert time.time() + 55 < other.get_expiry("key") < time.time() + 65
        with valkey.client() as client:
            ours = [key for key in client.scan_iter() if key.startswith(b"ours:")]
            assert ours == [b"ours:limits:key"]
            assert 0 < client.ttl(ours[0]) <= 60

    def test_an_unreachable_redis_costs_no_time_and_is_logged_once(self, caplog: pytest.LogCaptureFixture) -> None:
        absent = Counters(redis_url=f"redis://:secret@127.0.0.1:{free_port()}", namespace="ours")
        began = time.monotonic()
        assert [absent.incr("key", 60) for _ in range(50)] == list(range(1, 51))
        assert time.monotonic() - began < 2.0
        assert caplog.text.count("Redis does not answer") == 1
        assert "secret" not in caplog.text

    def test_a_hanging_redis_delays_one_log_in_briefly_and_is_asked_again_later(
        self, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(counters, "PAUSE_SECONDS", 0.2)
        found = Counters(redis_url=valkey.url, namespace="hanging")
        assert found.incr("key", 60) == 1
        valkey.pause()
        try:
            began = time.monotonic()
            assert [found.incr("key", 60) for _ in range(3)] == [1, 2, 3]
            assert time.monotonic() - began < 5 * counters.ANSWER_SECONDS
        finally:
            valkey.resume()
        time.sleep(0.25)
        assert found.get("key") >= 1  # also what was sent to it before it hung
        assert "Redis answers again" in caplog.text

    @SQLITE_ONLY
    def test_applications_on_one_redis_count_together(self, valkey: Valkey, make_app: Callable[..., Flask]) -> None:
        settings = {
            "SYNCKIT_LOGIN_LIMIT": "3/minute",
            "SYNCKIT_BROKER_URL": valkey.url,
            "SYNCKIT_BROKER_NAMESPACE": "app",
        }
        one = Attempts(make_app(**settings))
        valkeys_spelling = f"valkey://127.0.0.1:{valkey.port}\n"
        other = Attempts(make_app(**settings | {"SYNCKIT_BROKER_URL": valkeys_spelling}), one.credentials)
        assert [one.fail(), other.fail(), one.fail(), other.fail(), one.fail()] == [401] * 3 + [429] * 2
        with valkey.client() as client:
            assert not any(b"alice" in key for key in client.scan_iter())


@pytest.mark.thorough
@SQLITE_ONLY
def test_two_workers_count_together_and_each_alone_while_redis_hangs(
    clone: Path, valkey: Valkey, make_app: Callable[..., Flask]
) -> None:
    """gunicorn with gevent: 5 may fail in both workers together, 5 in each while Redis hangs, without a long wait."""
    settings = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_ENV": "production", "SYNCKIT_WORKERS": "2"}
    settings |= {"SYNCKIT_DATABASE_URL": f"sqlite:///{clone / 'synckit.db'}", "SYNCKIT_LOGIN_LIMIT": "5/hour"}
    settings |= {"SYNCKIT_BROKER_URL": valkey.url, "SYNCKIT_BROKER_NAMESPACE": "gunicorn"}
    credentials = add_account(make_app(**settings).extensions["synckit_backend"])
    with start(clone, **settings) as server:

        def attempts(email: str, times: int) -> tuple[list[int], float]:
            """Return the statuses of failed log-ins, each on its own connection, and the time of the longest."""
            answers, longest = [], 0.0
            for _ in range(times):
                began = time.monotonic()
                wrong = credentials | {"email": email, "password": "wrong"}
                answers.append(over_http(server.url)("POST", "/auth", wrong, {})[0])
                longest = max(longest, time.monotonic() - began)
            return answers, longest

        assert attempts("alice@example.org", 12)[0] == [401] * 5 + [429] * 7
        valkey.pause()
        try:
            answers, longest = attempts("bob@example.org", 30)
        finally:
            valkey.resume()
        assert set(answers) == {401, 429}
        assert answers[-1] == 429
        assert 5 <= answers.count(401) <= 10
        assert longest < 5.0
        assert not server.tracebacks
