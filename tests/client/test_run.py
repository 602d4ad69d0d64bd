"""`client.run` and `client.follow` against a real gunicorn: two devices in step, through the faults of the network."""

import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from synckit_notify.client import (
    ChangeEntry,
    NetworkError,
    NotAuthenticated,
    PulledChange,
    RunState,
    ServerError,
    StateError,
)

from ..support.dict_store import DictStore
from ..support.running import Runner
from ..support.service import EMAIL, Service
from ..support.tcp_proxy import Proxy
from ..support.wait import until


def test_an_edit_arrives_on_the_other_device_and_both_stay_in_step(service: Service) -> None:
    laptop, phone = DictStore(), DictStore()
    with Runner(service.client(name="laptop"), laptop) as one, Runner(service.client(name="phone"), phone) as other:
        assert one.settles()
        assert other.settles()
        laptop.edit("tasks", "1", {"title": "Buy milk"})
        assert until(lambda: ("tasks", "1") in phone.rows())
        phone.edit("tasks", "1", {"title": "Buy oat milk"})
        assert until(lambda: laptop.rows().get(("tasks", "1")) == {"title": "Buy oat milk"})
        laptop.edit("tasks", "1", None)
        assert until(lambda: ("tasks", "1") not in phone.rows())
    assert one.error is None
    assert one.states[0] == (RunState.CONNECTING, "")
    assert one.states[-1] == (RunState.CLOSED, "closed by the app")
    assert {RunState.SYNCING, RunState.SENDING, RunState.UP_TO_DATE} <= {state for state, _ in one.states}


def test_edits_made_without_a_network_leave_when_it_is_back(service: Service) -> None:
    with Proxy(service.server.port) as proxy:
        store, client = DictStore(), service.client(proxy.url)
        proxy.mode = "refuse"
        proxy.cut()
        with Runner(client, store) as runner:
            assert until(lambda: runner.state is RunState.WAITING), runner.states
            store.edit("tasks", "offline", 1)
            proxy.mode = "pass"
            assert runner.settles(60), runner.states
    other = DictStore()
    with Runner(service.client(name="other"), other):
        assert until(lambda: other.rows().get(("tasks", "offline")) == 1)


@pytest.mark.parametrize("path", [b"POST /api/sync/push", b"POST /api/sync/pull"])
def test_a_lost_answer_stores_nothing_twice_and_loses_nothing(service: Service, path: bytes) -> None:
    with Proxy(service.server.port) as proxy:
        store, client = DictStore(), service.client(proxy.url)
        with Runner(client, store) as runner:
            assert runner.settles()
            before = client.status().cursor
            proxy.swallow = path
            store.edit("tasks", "once", 1)
            if path.endswith(b"pull"):
                service.client(name="another").push([entry("remote")])
                assert until(lambda: ("tasks", "remote") in store.rows())
            assert until(lambda: proxy.swallowed == 1)
            assert until(lambda: not store.pending(1))
            assert client.status().cursor == before + 1 + path.endswith(b"pull")


def entry(row: str) -> ChangeEntry:
    return ChangeEntry("tasks", "INSERT", row, datetime.now(UTC), {"title": row})


def test_a_restart_of_the_server_is_waited_out(own_service: Callable[..., Service]) -> None:
    service = own_service()
    store = DictStore()
    with Runner(service.client(), store) as runner:
        assert runner.settles()
        port = service.server.port
        service.server.stop()
        store.edit("tasks", "during the deploy", 1)
        assert until(lambda: runner.state is RunState.WAITING), runner.states
        service.server = service.start(port)
        assert until(lambda: not store.pending(1), 60), runner.states
        assert runner.settles(60)


def test_closing_from_another_thread_returns_within_a_tenth_of_a_second(service: Service) -> None:
    with Runner(service.client(), DictStore()) as runner:
        assert runner.settles()
        began = time.monotonic()
        runner.client.close()
        runner.thread.join(5)
        assert time.monotonic() - began < 0.5
    assert runner.states[-1][0] is RunState.CLOSED


def test_a_client_that_is_closed_returns_at_once(service: Service) -> None:
    client = service.client()
    client.close()
    client.run(DictStore())


def test_a_client_runs_once_at_a_time(service: Service) -> None:
    with Runner(service.client(), DictStore()) as runner:
        assert runner.settles()
        with pytest.raises(RuntimeError, match="runs already"):
            runner.client.run(DictStore())


def test_before_a_device_is_registered_it_says_so(service: Service) -> None:
    client = service.client()
    client._state._set(device_id=None)
    with pytest.raises(StateError, match="register_device"):
        client.run(DictStore())


def test_a_log_out_everywhere_ends_it(own_service: Callable[..., Service]) -> None:
    service = own_service(TOKEN_SECONDS="3")
    with Runner(service.client(), DictStore()) as runner:
        assert runner.settles()
        service.runner.invoke(args=["synckit", "user", "logout", EMAIL])
        assert until(lambda: runner.error is not None)
    assert isinstance(runner.error, NotAuthenticated)
    assert runner.states[-1][0] is RunState.NEEDS_AUTH


def test_a_403_ends_it(service: Service) -> None:
    client = service.client()
    client._state._set(app_id="another-app")
    with pytest.raises(ServerError, match="the token is for another app") as refusal:
        client.run(DictStore())
    assert refusal.value.status == 403


def test_follow_applies_the_changes_of_others_and_repeats_a_page_whose_apply_failed(service: Service) -> None:
    laptop, phone = service.client(name="laptop"), service.client(name="phone")
    seen: list[str] = []
    failures = iter([OSError("the disk is full"), KeyError("a mistake")])

    def apply(changes: list[PulledChange]) -> None:
        for failure in failures:
            raise failure
        seen.extend(change.row_id for change in changes)

    with Runner(phone, apply) as runner:
        laptop.push([entry("followed")])
        assert until(lambda: "followed" in seen, 60), runner.states
        reasons = [reason for reason in runner.told(RunState.WAITING) if reason.startswith("apply raised")]
        assert [reason.split(";")[0] for reason in reasons] == [
            "apply raised OSError: the disk is full",
            "apply raised KeyError: 'a mistake'",
        ]
        assert runner.settles(60)
    assert runner.error is None


def test_follow_sends_what_was_pushed_without_a_network(service: Service) -> None:
    with Proxy(service.server.port) as proxy:
        client = service.client(proxy.url, wait=lambda seconds: None)
        proxy.mode = "refuse"
        proxy.cut()
        with pytest.raises(NetworkError):
            client.push([entry("queued")])
        proxy.mode = "pass"
        with Runner(client, lambda changes: None) as runner:
            assert until(lambda: client.pending_changes == 0, 60), runner.states
