"""Every error can be pickled and copied, so it can be raised across a process pool."""

import copy
import inspect
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
from flask import Flask

import synckit_notify.backend
from synckit_notify import errors
from synckit_notify.client import ServerError
from synckit_notify.client import errors as client_errors

assert synckit_notify.backend  # its errors are in the tree of the server


def tree(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


ARGUMENTS = {
    "status": 429,
    "retry_after": 7.0,
    "has_json_error": True,
    "reason": "the disk is full",
    "seq": 7,
    "table": "tasks",
    "row_id": "task-1",
    "device_id": "laptop",
}
"""For constructors that take more than a sentence."""


def make(kind: type[Exception]) -> Exception:
    parameters = inspect.signature(kind.__init__).parameters.values() if hasattr(kind.__init__, "__code__") else ()
    named = {p.name: ARGUMENTS[p.name] for p in parameters if p.kind is p.KEYWORD_ONLY}
    takes_none = [p.name for p in parameters if p.kind is not p.KEYWORD_ONLY] == ["self"]
    error = kind(**named) if takes_none else kind("a sentence", **named)
    error.add_note("a note")
    return error


def pickled(error: Exception) -> Exception:
    copied: Exception = pickle.loads(pickle.dumps(error))
    return copied


EVERY = [*tree(errors.NotifyError), *tree(client_errors.SyncKitError)]


@pytest.mark.parametrize("copied", [pickled, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_a_copied_error_has_the_same_class_and_message(
    kind: type[Exception], copied: Callable[[Exception], Exception]
) -> None:
    error = make(kind)
    again = copied(error)
    assert (type(again), str(again), again.args) == (kind, str(error), error.args)
    assert vars(again) == vars(error)


def refuse() -> None:
    raise ServerError("the server is busy", status=503, retry_after=7.0)


def test_an_error_of_the_sdk_can_be_raised_across_a_process_pool() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        future = pool.submit(refuse)
        with pytest.raises(ServerError, match="the server is busy") as refusal:
            future.result(timeout=60.0)
    assert (refusal.value.status, refusal.value.retry_after) == (503, 7.0)


@pytest.mark.parametrize("kind", [*tree(errors.Refused)], ids=lambda kind: kind.__name__)
def test_a_refusal_answers_with_its_status_its_sentence_in_json_and_its_headers(kind: type[Any]) -> None:
    refusal = make(kind)
    assert isinstance(refusal, errors.Refused)
    with Flask(__name__).test_request_context():
        answer = refusal.get_response()
    assert (answer.status_code, answer.json, answer.mimetype) == (
        refusal.status,
        {"error": str(refusal)},
        "application/json",
    )
    assert refusal.headers.keys() <= set(answer.headers.keys())


@pytest.mark.parametrize("kind", [errors.BadRequest, errors.InvalidToken, errors.Forbidden, errors.HookFailed])
def test_a_refusal_without_a_message_has_a_default_message(kind: type[errors.Refused]) -> None:
    assert str(kind()) == kind.description
    assert str(kind("")) == ""


def test_the_errors_of_server_and_sdk_share_no_class() -> None:
    assert not {*tree(errors.NotifyError)} & {*tree(client_errors.SyncKitError)}
    assert all(issubclass(getattr(synckit_notify, name), errors.NotifyError) for name in ("InvalidToken", "Forbidden"))
