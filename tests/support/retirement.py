"""A LocalServer that has retired its devices, and what they ask for then.

retired = Retired(server)                   every pull and push is 409, until the log was read from cursor 0 to its end
retired.forget("tasks", "1")                the log has no change of this row any more, not even its deletion
retired.pushed, retired.cursors             the rows of the pushes that were sent on, and the cursors of all pulls
"""

import json
from typing import Any

import httpx2

from synckit_notify.backend.database.schema import changes, devices, winners

from .local_server import LocalServer, Refusal

AWAY = Refusal(
    409, "this device was away for too long: pull again from cursor 0, without an epoch, until has_more is false"
)


class Retired:
    """With `at_push` the devices are retired just before the next push; with `for_ever` no push is ever accepted."""

    def __init__(self, server: LocalServer, *, at_push: bool = False, for_ever: bool = False) -> None:
        self.server, self.at_push, self.for_ever = server, at_push, for_ever
        self.pushed: list[str] = []
        self.cursors: list[int] = []
        server.faults["pull"], server.faults["push"] = [self._pull], [self._push]
        if not at_push:
            self.retire()

    def retire(self) -> None:
        """Retire all devices of the server that are registered now."""
        self.at_push = False
        self._execute(devices.update().values(reread=0))

    def forget(self, table: str, row_id: str) -> None:
        """Drop all changes of a row."""
        self._execute(*(each.delete().where(_row(each, table, row_id)) for each in (changes, winners)))

    def damage(self, table: str, row_id: str, data: str | None) -> None:
        """Give all changes of a row this data."""
        self._execute(changes.update().where(_row(changes, table, row_id)).values(data=data))

    def _execute(self, *statements: Any) -> None:
        for statement in statements:
            self.server.backend.store.write(lambda connection, one=statement: connection.execute(one))  # type: ignore[misc]

    def _pull(self, request: httpx2.Request) -> None:
        self.server.faults["pull"].append(self._pull)
        self.cursors.append(json.loads(request.read())["cursor"])

    def _push(self, request: httpx2.Request) -> httpx2.Response | None:
        self.server.faults["push"].append(self._push)
        if self.at_push:
            self.retire()
        if self.for_ever:
            return AWAY.response()
        answer = self.server.handle_directly(request)
        if answer.status_code == 200:
            self.pushed += [change["row_id"] for change in json.loads(request.read())["changes"]]
        return answer


def _row(table: Any, name: str, row_id: str) -> Any:
    return (table.c.table_name == name) & (table.c.row_id == row_id)
