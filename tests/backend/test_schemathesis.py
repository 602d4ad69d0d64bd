"""Generated requests, right and wrong ones, find no answer that docs/openapi.json does not have, and no 5xx."""

from collections import Counter
from itertools import count

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from synckit_notify.backend import Backend

from ..support.openapi import Operation, operations

pytestmark = pytest.mark.thorough

CHECKS = [
    not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
EXAMPLES = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
SUCCEED = {"register_device", "list_devices", "delete_device", "push", "pull", "status", "get_keys"}
SUCCEED |= {"live", "ready", "openapi", "page", "userinfo"}
"""What must have succeeded at least once, so that the test does not see refusals alone."""


class Sender:
    """Sends the requests that schemathesis makes; every other one names an app, a device and a cursor that exist.

    No stream is opened, which would last for a minute: the app of a generated request is never that of the token.
    """

    def __init__(self, app: Flask) -> None:
        backend: Backend = app.extensions["synckit_backend"]
        self._schema = schemathesis.openapi.from_wsgi("/api/sync/openapi.json", app)
        self._schema.config.generation.update(with_security_parameters=False)  # the token below is always sent
        self._client = app.test_client()
        credentials = app.config["CREDENTIALS"]
        logged_in = self._client.post("/api/sync/auth", json=credentials).get_json()
        # Of no session, so that no log-out ends it.
        token = backend.signer.sign(logged_in["app_id"], logged_in["user_id"])
        self._headers = {"Authorization": f"Bearer {token}"}
        self._known = {
            "api_key": credentials["api_key"],
            "client_id": credentials["api_key"],
            "device_id": self._register("tester"),
            "cursor": 0,
            "redirect_uri": "http://127.0.0.1/",
        }
        self._client.put("/api/sync/keys", json={"envelope": "sealed"}, headers=self._headers)

    def run(self, operation: Operation, mode: GenerationMode) -> Counter[int]:
        """Send generated requests; return how often each status was answered."""
        found = self._schema[operation.path][operation.method]
        statuses: Counter[int] = Counter()
        numbers = count()

        @EXAMPLES
        @given(found.as_strategy(generation_mode=mode))
        def send(case: schemathesis.Case) -> None:
            number = next(numbers)
            if number % 2:
                self._name_what_is_known(operation, case)
            response = case.call(headers=self._headers)
            statuses[response.status_code] += 1
            case.validate_response(response, checks=CHECKS)

        send()
        return statuses

    def _name_what_is_known(self, operation: Operation, case: schemathesis.Case) -> None:
        if operation.name == "delete_device":
            case.path_parameters = {"device_id": self._register("another")}
        for place in (case.body, case.query):
            if isinstance(place, dict):
                place.update({name: value for name, value in self._known.items() if name in place})
        if operation.name == "pull" and isinstance(case.body, dict):
            case.body.pop("epoch", None)

    def _register(self, name: str) -> str:
        device = {"device_name": name, "platform": "linux"}
        registered = self._client.post("/api/sync/devices", json=device, headers=self._headers)
        return str(registered.get_json()["id"])


@pytest.fixture(scope="module")
def sender(shared_app: Flask) -> Sender:
    return Sender(shared_app)


@pytest.mark.parametrize(
    "operation", [one for one in operations() if one.name != "metrics"], ids=lambda operation: operation.name
)
def test_generated_requests_get_documented_answers(operation: Operation, sender: Sender) -> None:
    statuses = sender.run(operation, GenerationMode.POSITIVE)
    if operation.bodies or any(parameter["in"] == "query" for parameter in operation.content["parameters"]):
        statuses += sender.run(operation, GenerationMode.NEGATIVE)
    assert operation.name not in SUCCEED or statuses.keys() & {200, 204}, statuses
