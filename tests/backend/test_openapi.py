"""docs/openapi.json describes every route as the server has it: its bodies, its answers, its errors, its limits."""

import json
import runpy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx2
import jsonschema_rs
import pytest
from flask import Flask
from werkzeug.test import TestResponse

from synckit_notify.backend import create_app
from synckit_notify.backend.oauth.payloads import Grant
from synckit_notify.backend.openapi.routes import ROUTES
from synckit_notify.backend.payloads import PushedChange
from synckit_notify.backend.request_fields import Body

from ..support import openapi, vectors
from ..support.backend import PASSWORD, SQLITE_ONLY, change, close_database
from ..support.openapi import DOCUMENT, FORM, Operation, operations, resolved
from ..support.server import ROOT
from ..support.tokens import KEY

AUTHORIZATION = {
    "response_type": "code",
    "redirect_uri": "http://127.0.0.1/",
    "state": "s",
    "code_challenge": "c" * 43,
    "code_challenge_method": "S256",
}
VALID: dict[str, list[dict[str, Any]]] = {
    "auth": [{"email": "nobody@example.org", "password": PASSWORD, "api_key": "none"}],
    "change_password": [{"old_password": "wrong", "new_password": "new"}],
    "register_device": [{"device_name": "laptop", "platform": "linux"}],
    "push": [{"device_id": "DEVICE", "changes": [change()]}],
    "pull": [{"device_id": "DEVICE", "cursor": 0}],
    "put_keys": [{"envelope": "sealed"}],
    "token": [
        {"grant_type": "refresh_token", "refresh_token": "none", "client_id": "API_KEY"},
        {"grant_type": "authorization_code", "client_id": "API_KEY", "code": "none", "code_verifier": "v" * 43}
        | {"redirect_uri": "http://127.0.0.1/"},
    ],
    "decide": [{"secret": "none", "action": "decline"}],
}
"""For each operation a body that is accepted as one, for each of its alternatives."""


def test_the_file_is_what_its_program_writes(tmp_path: Path) -> None:
    written = tmp_path / "openapi.json"
    runpy.run_path(str(ROOT / "docs" / "openapi.py"))["main"](written)
    assert written.read_text() == openapi.FILE.read_text(), "run: python docs/openapi.py"


@SQLITE_ONLY
def test_the_document_is_served_in_development_with_the_paths_of_this_server(make_app: Callable[..., Flask]) -> None:
    app = make_app(SYNCKIT_URL_PREFIX="/other")
    app.add_url_rule("/own", view_func=lambda: "somebody's own route")
    served = app.test_client().get("/other/openapi.json")
    assert served.status_code == 200
    ours = {path for path in DOCUMENT["paths"] if not path.endswith("/metrics")}
    assert set(served.get_json()["paths"]) == {path.replace("/api/sync", "/other") for path in ours}
    assert make_app(SYNCKIT_ENV="production").test_client().get("/api/sync/openapi.json").status_code == 404


def test_every_route_is_described_and_no_other(tmp_path: Path) -> None:
    app = create_app({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_METRICS": "1"}, instance_path=tmp_path)
    rules = list(app.url_map.iter_rules())
    assert {rule.endpoint for rule in rules} == set(ROUTES)
    served = {
        (method, rule.rule.replace("path:", "").replace("<", "{").replace(">", "}"))
        for rule in rules
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "synckit_notify.subscribe" or method == "GET"  # it answers 405 itself
    }
    assert served == {(one.method, one.path) for one in operations()}


def test_the_names_of_operations_are_unique_and_every_schema_is_valid() -> None:
    names = [one.name for one in operations()]
    assert len(set(names)) == len(names)
    assert all(jsonschema_rs.meta.is_valid(schema) for schema in DOCUMENT["components"]["schemas"].values())


@pytest.mark.parametrize("file", vectors.FILES, ids=lambda file: file.stem)
def test_recorded_exchanges_are_as_the_document_says(file: Path, tmp_path: Path) -> None:
    app = create_app({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_LOGIN_LIMIT": "off"}, instance_path=tmp_path)
    recorded = vectors.load(file)
    login = _account(app, recorded.get("log", "history"))
    with httpx2.Client(transport=httpx2.WSGITransport(app), base_url="http://localhost") as http:
        http.event_hooks["response"] = [_judge]
        vectors.Exchange(http, login, vectors.compact(app.test_cli_runner(), "notes")).run(recorded["steps"])
    close_database(app)


def _account(app: Flask, log: str) -> dict[str, str]:
    run = app.test_cli_runner().invoke
    added = run(args=["synckit", "app", "add", "notes", "--log", log])
    email = "user@example.org"
    run(args=["synckit", "user", "add", email, "--password", PASSWORD])
    return {"api_key": added.output.split()[-1], "email": email, "password": PASSWORD}


def _judge(response: httpx2.Response) -> None:
    request = response.request
    if not openapi.describes(request.method, request.url.path):
        assert response.status_code in (404, 405) or request.method in ("HEAD", "OPTIONS")
        return
    found = openapi.operation(request.method, request.url.path)
    if response.is_success and request.content:
        content_type = request.headers["Content-Type"]
        is_form = content_type == FORM
        found.check_request(
            content_type, dict(httpx2.QueryParams(request.content.decode())) if is_form else json.loads(request.content)
        )
    answered = response.headers.get("Content-Type", "").partition(";")[0] or None
    is_json = answered == "application/json" and response.read()
    found.check_answer(response.status_code, answered, response.json() if is_json else None)


class Caller:
    """Alice with a device; sends what an operation takes."""

    def __init__(self, app: Flask) -> None:
        self._client = app.test_client()
        logged_in = self._client.post("/api/sync/auth", json=app.config["CREDENTIALS"]).get_json()
        self._headers = {"Authorization": f"Bearer {logged_in['token']}"}
        device = {"device_name": "caller", "platform": "linux"}
        registered = self._client.post("/api/sync/devices", json=device, headers=self._headers).get_json()
        self._known = {"DEVICE": registered["id"], "API_KEY": app.config["CREDENTIALS"]["api_key"]}
        self._app = logged_in["app_id"]

    def send(self, operation: Operation, body: Any = None, path: str = "", **query: Any) -> TestResponse:
        """Send a request, with the names of what is known replaced by their values."""
        if isinstance(body, dict):
            body = {name: self._known.get(str(value), value) for name, value in body.items()}
            body = (json.dumps if operation.takes_json else urlencode)(body)
        if operation.name == "subscribe":
            query = {"app_id": self._app} | query
        if operation.path == "/oauth/authorize":
            query = AUTHORIZATION | {"client_id": self._known["API_KEY"]} | query
        return self._client.open(
            operation.path.replace("{device_id}", path),
            method=operation.method,
            query_string=query,
            headers=self._headers,
            content_type="application/json" if operation.takes_json else FORM,
            data=body,
        )


@pytest.fixture(scope="module")
def caller(shared_app: Flask) -> Caller:
    set_log = shared_app.test_cli_runner().invoke(args=["synckit", "app", "set", "notes", "--log", "rows"])
    assert set_log.exit_code == 0, set_log.output  # `latest` is served for such an app alone
    return Caller(shared_app)


def edges(schema: dict[str, Any], example: Any = None) -> Iterator[tuple[Any, bool]]:
    """Yield values at and beyond the limits of a schema, and whether they are accepted; None stands for null.

    `example` is an object, or a list of objects, that is accepted.
    """
    schema = resolved(schema)
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    yield None, "null" in types
    yield {"string": 5, "integer": "x", "boolean": "x", "array": {}, "object": 5}[types[0]], False
    if "enum" in schema:
        yield from ((value, True) for value in schema["enum"])
        yield "other", False
    elif schema.get("format") == "date-time":
        yield "2026-01-31T12:00:00.123456789+01:00", True
        yield from (("yesterday", False), ("2026-01-31T12:00:00", False), ("9" * (schema["maxLength"] + 1), False))
    elif types[0] == "string":
        shortest, longest = schema.get("minLength", 0), schema["maxLength"]
        yield from (("x" * shortest, True), ("x" * longest, True), ("x" * (longest + 1), False), ("a\0b", False))
        if shortest:
            yield "x" * (shortest - 1), False
    elif types[0] == "integer":
        least, most = schema["minimum"], schema["maximum"]
        yield from ((least, True), (most, True), (least - 1, False), (most + 1, False))
    elif types[0] == "boolean":
        yield from ((True, True), (False, True))
    elif types[0] == "array":
        item = "x" if example is None else example[0]
        least, most = schema["minItems"], schema["maxItems"]
        yield from (([item] * least, True), ([item] * most, True), ([item] * (most + 1), False), ([], False))
        yield from (([value], accepted) for value, accepted in edges(schema["items"], item))
    else:
        for name, member in schema["properties"].items():
            if name in schema["required"]:
                yield {key: value for key, value in example.items() if key != name}, False
            yield from (
                (example | {name: value}, accepted)
                for value, accepted in edges(member, example.get(name))
                if not (name == "data" and value is None)  # for a DELETE only: `anyOf` says so
            )


def is_refused(operation: Operation, answer: TestResponse, field: str) -> bool:
    """Return whether a field was refused; then the sentence must begin with its name. Every answer is documented."""
    found = answer.get_json(silent=True)
    operation.check_answer(answer.status_code, answer.mimetype if answer.data else None, found)
    if operation.path == "/oauth/token":
        assert found is not None, answer.text
        refused, sentence = found["error"] in ("invalid_request", "unsupported_grant_type"), found["error_description"]
    elif operation.name == "subscribe":
        refused, sentence = answer.status_code == 400, answer.text.partition("parameter ")[2]
    else:
        refused, sentence = answer.status_code == 422, answer.text if found is None else found.get("error", "")
    assert not refused or (sentence.startswith(field) if answer.is_json else field in sentence), sentence
    return refused


@pytest.mark.parametrize("operation", [one for one in operations() if one.bodies], ids=lambda one: one.name)
def test_a_field_at_its_limits_is_accepted_and_beyond_them_refused(operation: Operation, caller: Caller) -> None:
    for schema, example in zip(operation.bodies, VALID[operation.name], strict=True):
        for name in schema["properties"]:
            if name in schema["required"]:
                absent = {key: value for key, value in example.items() if key != name}
                assert is_refused(operation, caller.send(operation, absent), name), f"without {name}"
            for value, accepted in edges(schema["properties"][name], example.get(name)):
                if operation.takes_json or isinstance(value, str):  # all values of a form are strings
                    refused = is_refused(operation, caller.send(operation, example | {name: value}), name)
                    assert refused is not accepted, (name, str(value)[:100])


@pytest.mark.parametrize("operation", [one for one in operations() if one.bodies], ids=lambda one: one.name)
def test_a_body_at_its_limit_is_read_and_beyond_it_answered_with_413(operation: Operation, caller: Caller) -> None:
    for length, status in ((operation.most_bytes, 400), (operation.most_bytes + 1, 413)):
        answer = caller.send(operation, b"=" * length)
        operation.check_answer(answer.status_code, answer.mimetype, answer.get_json(silent=True))
        assert answer.status_code == (status if operation.takes_json or status == 413 else 422)


PARAMETERS = [(one, parameter) for one in operations() for parameter in one.content["parameters"]]


@pytest.mark.parametrize(
    ("operation", "parameter"),
    [pair for pair in PARAMETERS if pair[0].name != "static"],
    ids=lambda part: part.name if isinstance(part, Operation) else part["name"],
)
def test_a_parameter_at_its_limits_is_accepted_and_beyond_them_refused(
    operation: Operation, parameter: dict[str, Any], caller: Caller
) -> None:
    is_text = parameter["schema"]["type"] == "string"
    for value, accepted in edges(parameter["schema"]):
        if value is None or (value == "" and parameter["in"] == "path") or (is_text and not isinstance(value, str)):
            continue
        where = {"path": value} if parameter["in"] == "path" else {parameter["name"]: value}
        body = VALID[operation.name][0] if operation.bodies else None
        answer = caller.send(operation, body, **where)
        answer.close()
        assert is_refused(operation, answer, "id" if where.get("path") else parameter["name"]) is not accepted, value


def test_each_view_reads_the_bodies_of_its_route(shared_app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    read: set[type[Body]] = set()
    init = Body.__init__

    def note(body: Body, *values: Any) -> None:
        read.add(type(body))
        init(body, *values)

    monkeypatch.setattr(Body, "__init__", note)
    routes = {route.name or endpoint.rpartition(".")[2]: route for endpoint, route in ROUTES.items()}
    for operation in operations():
        route = routes[operation.name]
        if route.path or operation.name == "subscribe":
            continue
        caller = Caller(shared_app)
        read.clear()
        for body in VALID.get(operation.name, [None]):
            caller.send(operation, body)
        query = set() if route.query is None else {route.query}
        assert read - {Grant, PushedChange} == {*route.bodies, *query}, operation.name
