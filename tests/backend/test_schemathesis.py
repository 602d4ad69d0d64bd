"""Generated requests, right and wrong ones, find no answer that docs/openapi.json does not have, and no 5xx."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from flask import Flask

from ..support.openapi import Operation, operations

if TYPE_CHECKING:
    from ..support.generated_requests import Sender

pytestmark = pytest.mark.thorough

SUCCEED = {"register_device", "list_devices", "delete_device", "push", "pull", "status", "get_keys"}
SUCCEED |= {"live", "ready", "openapi", "page", "userinfo"}
"""What must have succeeded at least once, so that the test does not see refusals alone."""


@pytest.fixture(scope="module")
def sender(shared_app: Flask) -> Sender:
    from ..support.generated_requests import Sender

    return Sender(shared_app)


@pytest.mark.parametrize(
    "operation", [one for one in operations() if one.name != "metrics"], ids=lambda operation: operation.name
)
def test_generated_requests_get_documented_answers(operation: Operation, sender: Sender) -> None:
    statuses = sender.run(operation, valid=True)
    if operation.bodies or any(parameter["in"] == "query" for parameter in operation.content["parameters"]):
        statuses += sender.run(operation, valid=False)
    assert operation.name not in SUCCEED or statuses.keys() & {200, 204}, statuses
