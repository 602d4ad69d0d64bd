"""Messages as bytes: what one process writes and another reads.

    {"v":1,"by":"5f0c…","is":"notice","app":"notes","user":"alice","origin_device":"laptop","changed_at":1790000000.5}

`by` names the sending process, so that it knows its own when they come back. Whatever is not exactly such a message,
a newer version included, is a ValueError: it may come from anybody who can reach the broker.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple

from .base import Disconnect, Gap, Message, Notice, Question, Report

VERSION = 1
MAX_ID_LENGTH = 128  # as everywhere: nobody can subscribe with a longer one
MAX_MESSAGE_BYTES = 7900
"""What PostgreSQL can carry, with a margin; three ids of characters that take twelve bytes each in JSON are 4.6 KB."""

MAX_QUESTION_LENGTH = 32
MAX_APPS_BYTES = 4096
"""Bytes that the apps of a Report may take; the rest of it is below 2 KB."""


class Probe(NamedTuple):
    """Has no content: its sender checks whether it comes back."""


Content = Message | Probe

_KINDS: dict[str, type[Notice | Disconnect | Gap | Question | Report | Probe]] = {
    "notice": Notice,
    "disconnect": Disconnect,
    "gap": Gap,
    "question": Question,
    "report": Report,
    "probe": Probe,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def encode(sender: str, content: Content) -> bytes:
    """Return the bytes of a valid message."""
    fields = {name: value for name, value in content._asdict().items() if value is not None}
    head = {"v": VERSION, "by": sender, "is": _NAMES[type(content)]}
    return json.dumps(head | fields, separators=(",", ":")).encode()


def decode(data: bytes) -> tuple[str, Content]:
    """Return the sender and the content; raises ValueError for anything that `encode` would not produce."""
    if len(data) > MAX_MESSAGE_BYTES:
        raise ValueError(f"{len(data)} bytes")
    try:
        fields = json.loads(data)
        version, sender, kind = fields.pop("v"), fields.pop("by"), fields.pop("is")
        content = _KINDS[kind](**fields)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it is not a message of synckit_notify") from error
    if type(version) is not int or version != VERSION:
        raise ValueError("it has another version")
    if not is_id(sender) or not is_sound(content):
        raise ValueError("a field has a wrong type")
    return sender, content


def is_sound(content: Content) -> bool:
    """Return whether other processes will accept a message."""
    match content:
        case Notice(app, user, origin, changed_at, previous_at):
            times = _is_time(changed_at) and _is_time(previous_at)
            return times and is_id(app) and is_id(user) and (origin is None or is_id(origin))
        case Disconnect(app, user, device):
            return is_id(app) and is_id(user) and (device is None or is_id(device))
        case Question(question):
            return _is_short_id(question)
        case Report():
            return _is_sound_report(content)
    return True


def is_id(value: object) -> bool:
    """Return whether a value can be the id of an app, a user, a device or a process."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH


def apps_that_fit(apps: Mapping[str, int]) -> dict[str, int]:
    """Return the apps with the most streams, as many as one Report can hold."""
    left = MAX_APPS_BYTES
    fitting: dict[str, int] = {}
    for app, streams in sorted(apps.items(), key=lambda item: -item[1]):
        left -= len(json.dumps({app: streams}))
        if is_id(app) and left >= 0:
            fitting[app] = streams
    return fitting


def _is_sound_report(report: Report) -> bool:
    names = (report.host, report.node)
    counts = (report.pid, report.streams, report.parked)
    return (
        _is_short_id(report.question)
        and all(map(is_id, names))
        and isinstance(report.server, str)
        and len(report.server) <= MAX_ID_LENGTH
        and all(map(_is_count, counts))
        and isinstance(report.apps, dict)
        and all(is_id(app) and _is_count(streams) for app, streams in report.apps.items())
    )


def _is_short_id(value: object) -> bool:
    """Return whether a value can be the id of a question, which every answer repeats."""
    return is_id(value) and isinstance(value, str) and value.isascii() and len(value) <= MAX_QUESTION_LENGTH


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_time(value: object) -> bool:
    if value is None:
        return True
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12
