"""What a FakeServer keeps for one user in one app: devices, the envelope of the master key, and the log of changes."""

import json
import uuid
from dataclasses import dataclass, field
from typing import Any

from .clock import rfc3339
from .fields import Fields, Refused, microseconds
from .retirement import Reader

PLATFORMS = ("macos", "windows", "linux", "ios", "android", "web")
OPERATIONS = ("INSERT", "UPDATE", "DELETE")
MAX_CHANGES, PAGE_BYTES, MAX_DATA_BYTES = 500, 2**20, 256 * 1024

Answer = dict[str, Any]


@dataclass
class Account:
    """One user's data in one app; times are in microseconds since 1970."""

    epoch: str
    devices: dict[str, Answer] = field(default_factory=dict)
    installations: dict[str, str] = field(default_factory=dict)
    """The device of each installation id, or of each name for devices without one."""
    envelope: Answer | None = None
    readers: dict[str, Reader] = field(default_factory=dict)
    """How far each device has read."""
    log: list[Answer] = field(default_factory=list)
    head: int = 0
    """The highest `seq` that was ever assigned."""
    dropped_until: int = 0
    """The highest `seq` of a deletion that was dropped."""
    pushes: dict[tuple[str, str], tuple[str, int, int]] = field(default_factory=dict)
    """Digest, cursor and time of each push, by device and `push_id`."""
    last_at: int = 0
    """When the last change was received."""

    def register(self, body: Fields, now: int) -> Answer:
        """Register a device, or update the one with the same installation id or name."""
        name, platform = body.text("device_name", 100), body.choice("platform", PLATFORMS)
        installation = body.optional_text("installation_id", 128)
        identity = f"name {name}" if installation is None else f"id {installation}"
        device_id = self.installations.setdefault(identity, str(uuid.uuid4()))
        device = self.devices.setdefault(device_id, {"id": device_id, "created_at": rfc3339(now)})
        device |= {"device_name": name, "platform": platform, "last_seen_at": rfc3339(now)}
        self.readers.setdefault(device_id, Reader(now)).seen_at = now
        return {key: device[key] for key in ("id", "device_name", "created_at")}

    def list_devices(self, parameters: Fields) -> Answer:
        """Return one page of the devices, ordered by id."""
        limit = parameters.decimal("limit", 1, 200, default=100)
        after = parameters.text("after", 128, shortest=0) if parameters.has("after") else ""
        found = sorted(each for each in self.devices if each > after)
        return {"devices": [self.devices[each] for each in found[:limit]], "has_more": len(found) > limit}

    def delete_device(self, device_id: str) -> None:
        """Forget a device but not what it pushed."""
        if self.devices.pop(device_id, None) is None:
            raise Refused(404, "there is no such device")
        del self.readers[device_id]
        self.installations = {key: value for key, value in self.installations.items() if value != device_id}

    def push(self, body: Fields, now: int) -> tuple[str, Answer]:
        """Append changes; return the device and the answer."""
        pushed = [_change(entry) for entry in body.objects("changes", MAX_CHANGES)]
        device, push_id = body.text("device_id", 128), body.optional_text("push_id", 64)
        self._require(device, now).require_in_step()
        digest = json.dumps([change for change, _ in pushed], sort_keys=True)
        if push_id is not None and (device, push_id) in self.pushes:
            known, cursor, received_at = self.pushes[device, push_id]
            if known != digest:
                raise Refused(409, "push_id: was already used for other changes")
        else:
            received_at = self.last_at = max(now, self.last_at + 1)
            for change, moment in pushed:
                stamps = {"received_at": rfc3339(received_at), "order_at": rfc3339(min(moment, received_at))}
                self.head += 1
                self.log.append({"seq": self.head, "device_id": device} | change | stamps)
            cursor = self.head
            if push_id is not None:
                self.pushes[device, push_id] = digest, cursor, received_at
        return device, {"cursor": cursor, "received_at": rfc3339(received_at), "server_time": rfc3339(now)}

    def pull(self, body: Fields, now: int) -> Answer:
        """Return one page of changes."""
        device, cursor = body.text("device_id", 128), body.integer("cursor", 0)
        limit = body.optional_integer("limit", 1, MAX_CHANGES) or MAX_CHANGES
        tables = body.optional_texts("tables", 100, 128)
        since, until = body.optional_instant("since"), body.optional_instant("until")
        epoch = body.optional_text("epoch", 64)
        latest, confirmed = body.flag("latest"), body.optional_integer("confirmed", 0)
        reader = self._require(device, now)
        is_filtered = (tables, since, until) != (None, None, None)
        reader.require_place(cursor, is_filtered)
        if epoch not in (None, self.epoch) or max(cursor, confirmed or 0) > self.head:
            raise Refused(
                409, "the log was replaced after this cursor was issued: pull again from cursor 0, without an epoch"
            )
        if latest and (since is not None or until is not None):
            raise Refused(422, "latest: must not be combined with since or until")
        reader.begin(cursor, confirmed, is_filtered, self.dropped_until)
        found = [
            change
            for change in self.log
            if change["seq"] > cursor
            and (tables is None or change["table"] in tables)
            and (since is None or _received_at(change) >= since)
            and (until is None or _received_at(change) < until)
        ]
        if latest:
            winners = self._winners()
            found = [change for change in found if change is winners[change["table"], change["row_id"]]]
        page, has_more = _page(found, limit)
        end = page[-1]["seq"] if has_more else self.head
        reader.end(end, has_more)
        answer = {"changes": page, "cursor": end, "has_more": has_more, "epoch": self.epoch}
        return answer | {"server_time": rfc3339(max(self.last_at + 1, now))}

    def status(self) -> Answer:
        """Return the head of the log."""
        return {"change_count": self.head, "cursor": self.head, "epoch": self.epoch, "log": "rows"}

    def compact(self, before: int) -> None:
        """Drop what no device needs any more, as `flask synckit compact` does; what is older than `before` is old."""
        winners = self._winners()
        self.log = [change for change in self.log if change is winners[change["table"], change["row_id"]]]
        counted = [reader for reader in self.readers.values() if reader.is_counted]
        for reader in counted:
            if reader.seen_at < before:
                reader.reread = 0
        kept = min((reader.confirmed or 0 for reader in counted if reader.is_counted), default=self.head)
        old = [each for each in self.log if each["op"] == "DELETE" and each["received_at"] < rfc3339(before)]
        dropped = {change["seq"] for change in old if change["seq"] <= kept}
        self.log = [change for change in self.log if change["seq"] not in dropped]
        self.dropped_until = max(self.dropped_until, *dropped, 0)

    def restored(self, epoch: str) -> None:
        """Begin another life of the log after a restore from a backup."""
        self.epoch = epoch
        for reader in self.readers.values():
            reader.start_again()

    def put_envelope(self, body: Fields) -> Answer:
        """Store the envelope of the master key."""
        envelope = body.text("envelope", 4096, bytes_only=True)
        expected = body.optional_integer("expected_version", 1)
        version = 0 if self.envelope is None else self.envelope["version"]
        if expected is None and version:
            raise Refused(409, "an envelope is stored already: to replace it, send its version as expected_version")
        if expected is not None and expected != version:
            current = self.get_envelope()["version"]
            raise Refused(409, f"expected_version: the stored envelope has version {current}")
        self.envelope = {"envelope": envelope, "version": version + 1}
        return {"version": version + 1}

    def get_envelope(self) -> Answer:
        """Return the envelope of the master key."""
        if self.envelope is None:
            raise Refused(404, "there is no envelope yet")
        return self.envelope

    def _require(self, device_id: str, now: int) -> Reader:
        if device_id not in self.devices:
            raise Refused(404, "there is no such device: register it first")
        self.devices[device_id]["last_seen_at"] = rfc3339(now)
        self.readers[device_id].seen_at = now
        return self.readers[device_id]

    def _winners(self) -> dict[tuple[str, str], Answer]:
        """Return the last change of each row in the one order."""
        ordered = sorted(self.log, key=lambda change: (change["order_at"], change["device_id"], change["seq"]))
        return {(change["table"], change["row_id"]): change for change in ordered}


def _change(entry: Fields) -> tuple[Answer, int]:
    """Return a change as it was sent, and its timestamp in microseconds since 1970."""
    op = entry.choice("op", OPERATIONS)
    data = entry.text("data", MAX_DATA_BYTES, shortest=0, bytes_only=True) if entry.has("data") else None
    if data is None and op != "DELETE":
        raise entry.invalid("data", "is missing; only a DELETE may omit it")
    table, row_id = entry.text("table", 128), entry.text("row_id", 256)
    timestamp, moment = entry.timestamp("timestamp")
    return {"table": table, "op": op, "row_id": row_id, "timestamp": timestamp, "data": data}, moment


def _received_at(change: Answer) -> int:
    moment = microseconds(change["received_at"])
    assert moment is not None
    return moment


def _page(found: list[Answer], limit: int) -> tuple[list[Answer], bool]:
    """Return changes up to the limits of number and size, at least one, and whether there are more."""
    size = 0
    for index, change in enumerate(found):
        size += len((change["data"] or "").encode())
        if index and (index == limit or size > PAGE_BYTES):
            return found[:index], True
    return found, False
