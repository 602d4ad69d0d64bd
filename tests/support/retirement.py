"""A LocalServer that retires a device, as its backend does for one that was silent for too long.

retired = Retired(server)                   every pull and push is 409, until the log was read from cursor 0 to its end
retired.forget("tasks", "1")                the log has no change of this row any more, not even its deletion
retired.pushed, retired.cursors             the rows of the pushes that were answered, and the cursors of all pulls
"""

import json
from typing import Any

import httpx2

from synckit_notify.backend.database.schema import changes, winners

from .local_server import LocalServer, Refusal

AWAY = Refusal(
    409, "this device was away for too long: pull again from cursor 0, without an epoch, until has_more is false"
)


class Retired:
    """The retirement of the one device that uses a server; with `at_push` it is retired just before its next push."""

    def __init__(self, server: LocalServer, *, at_push: bool = False, for_ever: bool = False) -> None:
        self.server, self.reread, self.at_push, self.for_ever = server, 0, at_push, for_ever
        self.is_retired = not at_push
        self.pushed: list[str] = []
        self.cursors: list[int] = []
        server.faults["pull"], server.faults["push"] = [self._pull], [self._push]

    def retire(self) -> None:
        """Retire the device again."""
        self.is_retired, self.at_push, self.reread = True, False, 0

    def forget(self, table: str, row_id: str) -> None:
        """Drop all changes of a row."""
        self._execute(*(each.delete().where(_row(each, table, row_id)) for each in (changes, winners)))

    def damage(self, table: str, row_id: str, data: str | None) -> None:
        """Give all changes of a row this data."""
        self._execute(changes.update().where(_row(changes, table, row_id)).values(data=data))

    def _execute(self, *statements: Any) -> None:
        for statement in statements:
            self.server.backend.store.write(lambda connection, one=statement: connection.execute(one))  # type: ignore[misc]

    def _pull(self, request: httpx2.Request) -> httpx2.Response:
        self.server.faults["pull"].append(self._pull)
        body = json.loads(request.read())
        self.cursors.append(body["cursor"])
        if self.is_retired and body["cursor"] > self.reread:
            return AWAY.response()
        response = self.server.handle_directly(request)
        if self.is_retired and response.status_code == 200:
            answer: Any = response.json()
            self.reread, self.is_retired = answer["cursor"], answer["has_more"]
        return response

    def _push(self, request: httpx2.Request) -> httpx2.Response:
        self.server.faults["push"].append(self._push)
        if self.at_push:
            self.retire()
        if self.is_retired or self.for_ever:
            return AWAY.response()
        self.pushed += [change["row_id"] for change in json.loads(request.read())["changes"]]
        return self.server.handle_directly(request)


def _row(table: Any, name: str, row_id: str) -> Any:
    return (table.c.table_name == name) & (table.c.row_id == row_id)
