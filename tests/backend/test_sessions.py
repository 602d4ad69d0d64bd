"""Sessions: refresh tokens that follow each other, and what ends a family of them."""

import logging
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text

from synckit_notify.backend import Backend, accounts, sessions
from synckit_notify.backend.database import schema
from synckit_notify.backend.sessions import Holder, Refusal, Session

from ..support.backend import SQLITE_ONLY, Caller, Send

Renew = Callable[..., Session | Refusal]
Clock = Callable[[timedelta], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Return a function that moves the server's clock."""
    offset = 0

    def advance(by: timedelta) -> None:
        nonlocal offset
        offset += by // timedelta(microseconds=1)

    monkeypatch.setattr(sessions, "now", lambda: schema.now() + offset)
    return advance


@pytest.fixture
def begin(backend: Backend) -> Callable[..., str]:
    """Begin a session and return its first refresh token."""

    def begin(app: str = "notes", user: str = "alice") -> str:
        return backend.store.write(lambda connection: sessions.begin(connection, app, user)).refresh_token

    return begin


@pytest.fixture
def renew(backend: Backend) -> Renew:
    """Present a refresh token."""
    return lambda token, app="notes": backend.store.write(lambda connection: sessions.renew(connection, app, token))


def successor(renewed: Session | Refusal) -> str:
    assert isinstance(renewed, Session), renewed
    return renewed.refresh_token


def stored(backend: Backend) -> int:
    count = select(func.count()).select_from(schema.sessions)
    return backend.store.read(lambda connection: connection.execute(count).scalar_one())


def test_each_token_is_exchanged_for_another_one(begin: Callable[..., str], renew: Renew) -> None:
    tokens = [begin()]
    for _ in range(5):
        tokens.append(successor(renew(tokens[-1])))
    assert len(set(tokens)) == 6


def test_a_repeat_gets_the_same_successor_until_that_is_used(begin: Callable[..., str], renew: Renew) -> None:
    first = begin()
    second = successor(renew(first))
    assert [successor(renew(first)) for _ in range(3)] == [second] * 3
    third = successor(renew(second))
    assert third != second
    assert successor(renew(second)) == third


def test_a_token_whose_successor_was_used_ends_the_family(begin: Callable[..., str], renew: Renew) -> None:
    first, other = begin(), begin()
    second = successor(renew(first))
    third = successor(renew(second))
    assert renew(first) is Refusal.REUSED
    assert [renew(token) for token in (first, second, third)] == [Refusal.UNKNOWN] * 3
    assert isinstance(renew(other), Session)


def test_a_wrong_secret_ends_the_family_it_names(begin: Callable[..., str], renew: Renew) -> None:
    token = begin()
    assert renew(token[:-1] + ("A" if token[-1] != "A" else "B")) is Refusal.REUSED
    assert renew(token) is Refusal.UNKNOWN


@pytest.mark.parametrize("token", ["", ".", "x", "x.y", "é.💩", "A" * 22 + "." + "A" * 43])
def test_a_made_up_token_is_unknown(begin: Callable[..., str], renew: Renew, token: str) -> None:
    begin()
    assert renew(token) is Refusal.UNKNOWN


def test_a_token_of_another_client_is_refused_and_stays_valid(begin: Callable[..., str], renew: Renew) -> None:
    token = begin("notes")
    assert renew(token, "mail") is Refusal.FOREIGN
    assert isinstance(renew(token, "notes"), Session)


def test_a_session_ends_ninety_days_after_its_last_use(begin: Callable[..., str], renew: Renew, clock: Clock) -> None:
    token = begin()
    for _ in range(3):
        clock(timedelta(days=89))
        token = successor(renew(token))
    clock(timedelta(days=90))
    assert renew(token) is Refusal.UNKNOWN


def test_a_repeat_counts_as_a_use(begin: Callable[..., str], renew: Renew, clock: Clock) -> None:
    first = begin()
    second = successor(renew(first))
    for _ in range(2):
        clock(timedelta(days=60))
        assert successor(renew(first)) == second


def test_a_log_in_deletes_expired_sessions(begin: Callable[..., str], backend: Backend, clock: Clock) -> None:
    for user in ("alice", "bob", "carol"):
        begin("notes", user)
    clock(timedelta(days=91))
    begin("notes", "dave")
    assert stored(backend) == 1


@SQLITE_ONLY
def test_expired_sessions_are_found_by_an_index(backend: Backend) -> None:
    plan = text("EXPLAIN QUERY PLAN DELETE FROM sessions WHERE expires_at <= 1")
    (row,) = backend.store.read(lambda connection: connection.execute(plan).all())
    assert "USING INDEX ix_sessions_expires_at" in row.detail


def test_a_user_has_at_most_fifty_sessions_in_an_app_and_keeps_those_in_use(
    begin: Callable[..., str], renew: Renew, backend: Backend
) -> None:
    tokens = [begin() for _ in range(50)]
    elsewhere = [begin("mail", "alice"), begin("notes", "bob")]
    tokens[0] = successor(renew(tokens[0]))
    newest = begin()
    assert stored(backend) == 52
    assert renew(tokens[1]) is Refusal.UNKNOWN
    assert all(isinstance(renew(token), Session) for token in (tokens[0], tokens[2], newest, elsewhere[1]))
    assert isinstance(renew(elsewhere[0], "mail"), Session)


def test_a_family_is_always_one_row_without_a_token(begin: Callable[..., str], renew: Renew, backend: Backend) -> None:
    tokens = [begin()]
    for _ in range(30):
        tokens.append(successor(renew(tokens[-1])))
    assert stored(backend) == 1
    rows = backend.store.read(lambda connection: str(connection.execute(select(schema.sessions)).all()))
    assert not [part for token in tokens for part in token.split(".") if part in rows]
    assert renew(tokens[0]) is Refusal.REUSED  # the very first one is known for what it is even so


def test_in_any_order_only_the_last_two_tokens_are_valid(begin: Callable[..., str], renew: Renew) -> None:
    """Any sequence of presentations, against a list of the tokens given so far."""
    for seed in range(20):
        chance = random.Random(seed)
        given = [begin()]
        while True:
            index = max(0, len(given) - 1 - chance.choice([0, 0, 0, 1, 1, 1, 2, 3]))
            answer = renew(given[index])
            if index == len(given) - 1:
                given.append(successor(answer))
            elif index == len(given) - 2:
                assert successor(answer) == given[-1]
            else:
                assert answer is Refusal.REUSED
                assert {renew(token) for token in given} == {Refusal.UNKNOWN}
                break


class TestALogOut:
    def log_out(self, backend: Backend) -> set[Holder]:
        user = backend.store.read(lambda connection: accounts.find_user(connection, "alice@example.org"))
        return backend.store.write(lambda connection: sessions.log_out(connection, user))

    def test_ends_every_session_of_this_user_only(
        self, credentials: dict[str, str], backend: Backend, begin: Callable[..., str], renew: Renew
    ) -> None:
        user = backend.store.read(lambda connection: accounts.find_user(connection, credentials["email"]))
        mine = [begin("notes", user), begin("notes", user), begin("mail", user)]
        bobs = begin("notes", "bob")
        assert self.log_out(backend) == {Holder("notes", user, None), Holder("mail", user, None)}
        assert {renew(token) for token in mine} == {Refusal.UNKNOWN}
        assert isinstance(renew(bobs), Session)

    def test_refuses_the_access_tokens_of_a_renewal_too_and_not_those_of_a_new_log_in(
        self, log_in: Callable[..., Any], credentials: dict[str, str], backend: Backend, send: Send
    ) -> None:
        def refresh(token: str) -> tuple[int, Any]:
            body = {"grant_type": "refresh_token", "refresh_token": token, "client_id": credentials["api_key"]}
            return send("POST", "/oauth/token", body, {})

        renewed = refresh(log_in()[1]["refresh_token"])[1]
        before = Caller(send, renewed["access_token"])
        assert before.get("/status")[0] == 200
        self.log_out(backend)
        assert before.get("/status")[0] == 401
        assert refresh(renewed["refresh_token"])[0] == 400
        after = refresh(log_in()[1]["refresh_token"])[1]  # within the second of the log-out
        assert Caller(send, after["access_token"]).get("/status")[0] == 200


def test_no_token_is_logged(
    log_in: Callable[..., Any], credentials: dict[str, str], send: Send, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = [log_in()[1]["refresh_token"]]
    body = {"grant_type": "refresh_token", "client_id": credentials["api_key"]}
    for _ in range(2):
        answer = send("POST", "/oauth/token", body | {"refresh_token": tokens[-1]}, {})[1]
        tokens += [answer["access_token"], answer["refresh_token"]]
    assert send("POST", "/oauth/token", body | {"refresh_token": tokens[0]}, {})[0] == 400
    assert "the session was ended" in caplog.text
    secrets = [*tokens, credentials["api_key"], *(token.split(".")[-1] for token in tokens)]
    assert not [secret for secret in secrets if secret in caplog.text]
