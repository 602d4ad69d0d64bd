"""Failed attempts are limited by address and by account, and the answers do not tell which accounts exist."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from synckit_notify import ConfigurationError
from synckit_notify.backend import accounts, passwords, rate_limit
from synckit_notify.backend.database import store as database_store

from ..support.backend import PASSWORD, SQLITE_ONLY
from ..support.login_attempts import Attempts
from ..support.tokens import make_token
from ..support.visitor import Visitor

pytestmark = SQLITE_ONLY

LIMIT = "3/minute; 100/hour"
SENTENCE = "too many failed attempts: wait for a while, then try again"


@pytest.fixture
def attempts(make_app: Callable[..., Flask]) -> Attempts:
    return Attempts(make_app(SYNCKIT_LOGIN_LIMIT=LIMIT))


def test_one_address_that_tries_many_accounts_is_refused(attempts: Attempts) -> None:
    assert [attempts.fail(email=f"{name}@example.org") for name in range(4)] == [401] * 3 + [429]
    assert attempts.log_in().status_code == 429
    assert attempts.log_in("192.0.2.2").status_code == 200


def test_one_account_tried_from_many_addresses_is_refused_in_any_spelling(attempts: Attempts) -> None:
    spellings = ["alice@example.org", "ALICE@example.org", " Alice@Example.org ", "alice@example.org"]
    answers = [attempts.fail(f"192.0.2.{host}", email=email) for host, email in enumerate(spellings)]
    assert answers == [401] * 3 + [429]
    assert attempts.log_in("192.0.2.9").status_code == 429


def test_successful_log_ins_and_a_few_typing_errors_are_not_limited(attempts: Attempts) -> None:
    assert {attempts.log_in().status_code for _ in range(8)} == {200}
    assert [attempts.fail() for _ in range(2)] == [401] * 2
    assert {attempts.log_in().status_code for _ in range(8)} == {200}


def test_headers_and_body_of_a_refusal(attempts: Attempts) -> None:
    began = time.time()
    left = [attempts.log_in(password="wrong").headers["X-RateLimit-Remaining"] for _ in range(3)]
    answer = attempts.log_in()
    assert left == ["2", "1", "0"]
    assert (answer.status_code, answer.get_json()) == (429, {"error": SENTENCE})
    assert answer.headers["X-RateLimit-Limit"] == "3"
    assert answer.headers["X-RateLimit-Remaining"] == "0"
    assert 0 < int(answer.headers["Retry-After"]) <= 61
    assert began + 59 <= int(answer.headers["X-RateLimit-Reset"]) <= time.time() + 61


def test_a_log_in_succeeds_after_retry_after(make_app: Callable[..., Flask]) -> None:
    attempts = Attempts(make_app(SYNCKIT_LOGIN_LIMIT="3/second"))
    while attempts.fail() == 401:
        pass
    time.sleep(int(attempts.log_in().headers["Retry-After"]))
    assert attempts.log_in().status_code == 200


def test_only_limited_routes_have_the_headers(attempts: Attempts) -> None:
    good = attempts.log_in()
    assert (good.headers["X-RateLimit-Remaining"], "Retry-After" in good.headers) == ("3", False)
    told = attempts.app.test_client().get("/api/sync/status", headers={"Authorization": f"Bearer {make_token()}"})
    assert (told.status_code, "X-RateLimit-Limit" in told.headers) == (200, False)


def test_unknown_and_known_accounts_get_the_same_answers(attempts: Attempts) -> None:
    def story(email: str, network: str) -> list[tuple[int, bytes, str]]:
        answers = [attempts.log_in(f"{network}.{n}", email=email, password="wrong") for n in range(5)]
        return [(answer.status_code, answer.data, answer.headers["X-RateLimit-Remaining"]) for answer in answers]

    assert story("alice@example.org", "192.0.2") == story("nobody@example.org", "198.51.100")


def test_a_refusal_hashes_no_password_for_any_account(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[object] = []
    for email in ("alice@example.org", "nobody@example.org"):
        for host in range(3):
            attempts.fail(f"192.0.2.{host}", email=email)
    monkeypatch.setattr("synckit_notify.backend.passwords._verify", lambda *words: hashed.append(words))
    for email in ("alice@example.org", "nobody@example.org"):
        assert attempts.fail("198.51.100.1", email=email) == 429
    assert hashed == []


def test_concurrent_attempts_cannot_exceed_the_limit(attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def slowly(password_hash: str, password: str) -> bool:
        checked.append(password)
        time.sleep(0.02)
        return False

    monkeypatch.setattr("synckit_notify.backend.passwords._verify", slowly)
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda host: attempts.fail(f"192.0.2.{host}"), range(20)))
    assert set(answers) == {401, 429}
    assert answers.count(401) == len(checked) <= 3 + 2 * 2  # two hash at once, and each is counted when it is answered


class TestSuccessfulLogInsOfOneAccount:
    """They are not limited, but each takes 0.1 s of processor time."""

    @pytest.fixture
    def checking(self, attempts: Attempts, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
        """Return a function that sends log-ins of Alice at once, and returns once one of them is being checked."""
        inside, go_on = threading.Semaphore(0), threading.Event()
        genuine = passwords._verify

        def slowly(password_hash: str, password: str) -> bool:
            if password == PASSWORD:
                inside.release()
                go_on.wait(60)
            return genuine(password_hash, password)

        monkeypatch.setattr(passwords, "_verify", slowly)
        quick = passwords.hash_password("quick")
        store = attempts.app.extensions["synckit_backend"].store
        store.write(lambda connection: accounts.add_user(connection, "bob@example.org", quick) and None)
        with ThreadPoolExecutor(40) as pool:
            answers: list[Future[TestResponse]] = []

            def send(many: int, **headers: str) -> None:
                answers.extend(
                    pool.submit(attempts.send, "/api/sync/auth", "192.0.2.1", headers=headers, **attempts.credentials)
                    for _ in range(many)
                )
                assert inside.acquire(timeout=60)
                assert not inside.acquire(timeout=0.1), "one at a time"

            yield send
            go_on.set()
            assert {answer.result().status_code for answer in answers} == {200}

    def bob(self, attempts: Attempts, address: str) -> int:
        return attempts.log_in(address, email="bob@example.org", password="quick").status_code

    def test_do_not_delay_other_accounts(self, attempts: Attempts, checking: Callable[..., None]) -> None:
        checking(40)
        assert self.bob(attempts, "192.0.2.2") == 200

    def test_delay_log_ins_of_the_same_address_unless_it_may_be_a_proxy(
        self, attempts: Attempts, checking: Callable[..., None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(database_store, "QUEUE_SECONDS", 0.3)
        checking(1)
        assert self.bob(attempts, "192.0.2.1") == 503
        body = attempts.credentials | {"email": "bob@example.org", "password": "quick"}
        forwarded = {"X-Forwarded-For": "203.0.113.7"}
        assert attempts.send("/api/sync/auth", "192.0.2.1", headers=forwarded, **body).status_code == 200


def test_the_page_shares_the_counters_of_the_log_in_and_answers_with_a_page(attempts: Attempts) -> None:
    person = Visitor(attempts.app, attempts.credentials["api_key"])
    page = person.visit()
    wrong = {"email": "alice@example.org", "password": "wrong"}
    assert [person.press(page, "log_in", **wrong).status_code for _ in range(3)] == [403] * 3
    answer = person.press(page, "log_in", email="alice@example.org", password=PASSWORD)
    assert (answer.status_code, answer.mimetype) == (429, "text/html")
    assert SENTENCE in answer.text
    assert "Please wait" in answer.text
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert int(answer.headers["Retry-After"]) > 0
    assert attempts.log_in().status_code == 429
    assert person.press(person.visit(), "decline").status_code == 429  # any button, from this address


def test_failed_buttons_of_a_page_count_for_their_address_alone(attempts: Attempts) -> None:
    secret = {"secret": "nobody's", "action": "allow"}
    answers = [Visitor(attempts.app, attempts.credentials["api_key"]).post(secret).status_code for _ in range(4)]
    assert answers == [403] * 3 + [429]
    elsewhere = attempts.app.test_client()
    query = Visitor(attempts.app, attempts.credentials["api_key"]).asked
    answer = elsewhere.post(
        "/oauth/authorize", query_string=query, data=secret, environ_overrides={"REMOTE_ADDR": "192.0.2.7"}
    )
    assert answer.status_code == 403


def test_guesses_of_the_old_password_are_limited(attempts: Attempts) -> None:
    def change(address: str, old: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        passwords = {"old_password": old, "new_password": "new"}
        return attempts.send("/api/sync/password", address, headers=headers, **passwords).status_code

    token = attempts.log_in().get_json()["token"]
    assert [change(f"192.0.2.{host}", "wrong") for host in range(4)] == [403] * 3 + [429]
    assert change("192.0.2.9", PASSWORD) == 429


def test_grants_have_ten_times_the_limit_by_address_and_an_rfc_6749_answer(attempts: Attempts) -> None:
    def renew(address: str, token: str) -> TestResponse:
        grant = {"grant_type": "refresh_token", "refresh_token": token, "client_id": attempts.credentials["api_key"]}
        return attempts.send("/oauth/token", address, **grant)

    token = attempts.log_in().get_json()["refresh_token"]
    assert {renew("192.0.2.1", "none").get_json()["error"] for _ in range(30)} == {"invalid_grant"}
    answer = renew("192.0.2.1", token)
    told = {"error": "temporarily_unavailable", "error_description": SENTENCE}
    assert (answer.status_code, answer.get_json()) == (429, told)
    assert int(answer.headers["Retry-After"]) > 0
    assert renew("192.0.2.2", token).status_code == 200  # no other device of this app is held up
    assert attempts.log_in().status_code == 200


def test_the_page_of_an_unknown_app_is_limited_too(attempts: Attempts) -> None:
    person = Visitor(attempts.app, "nobody's key")
    assert [person.visit().status_code for _ in range(31)] == [400] * 30 + [429]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("", "192.0.2.2", False),
    ],
)
def test_ipv6_addresses_count_by_their_64_bit_network(attempts: Attempts, one: str, other: str, same: bool) -> None:
    for name in range(3):
        attempts.fail(one, email=f"{name}@example.org")
    assert attempts.fail(other) == (429 if same else 401)


def test_a_forged_address_is_ignored_and_logged_once(attempts: Attempts, caplog: pytest.LogCaptureFixture) -> None:
    answers = [
        attempts.send(
            "/api/sync/auth",
            "192.0.2.1",
            headers={"X-Forwarded-For": f"203.0.113.{name}"},
            **attempts.credentials | {"email": f"{name}@example.org"},
        ).status_code
        for name in range(4)
    ]
    assert answers == [401] * 3 + [429]
    assert caplog.text.count("SYNCKIT_PROXIES") == 1


def test_behind_a_proxy_only_the_address_it_sets_counts(make_app: Callable[..., Flask]) -> None:
    attempts = Attempts(make_app(SYNCKIT_LOGIN_LIMIT=LIMIT, SYNCKIT_PROXIES="1"))

    def fail(claimed: str) -> int:
        headers = {"X-Forwarded-For": claimed}
        wrong = attempts.credentials | {"email": f"{claimed}@example.org"}
        return attempts.send("/api/sync/auth", "127.0.0.1", headers=headers, **wrong).status_code

    assert [fail(f"203.0.113.{lie}, 192.0.2.1") for lie in range(4)] == [401] * 3 + [429]
    assert fail("192.0.2.2") == 401


def test_the_limit_can_be_switched_off(make_app: Callable[..., Flask]) -> None:
    attempts = Attempts(make_app(SYNCKIT_LOGIN_LIMIT="off"))
    assert {attempts.fail() for _ in range(20)} == {401}
    assert "X-RateLimit-Limit" not in attempts.log_in().headers


@pytest.mark.parametrize(
    "settings", [{"SYNCKIT_LOGIN_LIMIT": "a lot"}, {"SYNCKIT_PROXIES": "-1"}, {"SYNCKIT_PROXIES": "two"}]
)
def test_a_wrong_setting_is_named(make_app: Callable[..., Flask], settings: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        make_app(**settings)


def test_two_applications_in_one_process_count_apart(make_app: Callable[..., Flask]) -> None:
    one = Attempts(make_app(SYNCKIT_LOGIN_LIMIT=LIMIT))
    other = Attempts(make_app(SYNCKIT_LOGIN_LIMIT=LIMIT), one.credentials)
    assert [one.fail() for _ in range(4)] == [401] * 3 + [429]
    assert other.fail() == 401


def test_nothing_is_opened_before_the_first_count(make_app: Callable[..., Flask]) -> None:
    app = make_app(SYNCKIT_BROKER_URL="redis://127.0.0.1:1")
    assert app.extensions[rate_limit.EXTENSION_NAME]._counters.made() is None
