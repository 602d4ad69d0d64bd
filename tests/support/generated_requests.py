"""Requests that schemathesis generates from the document of the API; imported on use, since that takes seconds."""

from collections import Counter
from itertools import count

import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi import checks

from synckit_notify.backend import Backend

from .openapi import Operation

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

    def run(self, operation: Operation, *, valid: bool) -> Counter[int]:
        """Send requests that are as the document says, or are not; return how often each status was answered."""
        mode = GenerationMode.POSITIVE if valid else GenerationMode.NEGATIVE
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
