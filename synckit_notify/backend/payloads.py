"""What the requests and the answers of the API hold: a Body for each request, a TypedDict for each answer.

The views read a request through its Body and return its answer; the document of the API is generated from both.
"""

from typing import Annotated, ClassVar, TypedDict

from . import accounts, changelog, keys
from .database.schema import HISTORY, ROWS
from .errors import InvalidField
from .passwords import MAX_PASSWORD_CHARACTERS
from .request_fields import (
    Body,
    Choice,
    Ciphertext,
    Decimal,
    Flag,
    Instant,
    Integer,
    Items,
    Object,
    Optional,
    Schema,
    Text,
    Timestamp,
    optional,
)

MAX_ID_CHARACTERS = 128
MAX_TABLES = 100
DEVICES_LISTED, MAX_DEVICES_LISTED = 100, 200
"""The default and the maximum number of devices in one page."""

MAX_DATA_BYTES = 256 * 1024
MAX_PUSH_BYTES = 8 * 2**20
MAX_PULL_BYTES = 256 * 1024
"""A hundred table names with every character escaped take 150 KiB."""

Time = Annotated[str, Instant()]
"""RFC 3339 in UTC with six digits after the second."""

Platform = Annotated[str, Choice(accounts.PLATFORMS)]
Operation = Annotated[str, Choice(changelog.OPERATIONS)]
LogMode = Annotated[str, Choice((HISTORY, ROWS))]


class LogIn(Body):
    """An account and an app."""

    device_id = optional(Text("Deleting this device ends the session.", longest=MAX_ID_CHARACTERS))
    email = Text(longest=accounts.MAX_EMAIL_CHARACTERS)
    password = Text(longest=MAX_PASSWORD_CHARACTERS)
    api_key = Text("Names the app.", longest=MAX_ID_CHARACTERS)


class LoggedIn(TypedDict):
    """A session: an access token, and a refresh token for `POST /oauth/token`."""

    token: str
    user_id: str
    app_id: str
    expires_in: int
    refresh_token: str


class PasswordChange(Body):
    """The old and the new password."""

    old_password = Text(longest=MAX_PASSWORD_CHARACTERS)
    new_password = Text(longest=MAX_PASSWORD_CHARACTERS)


class Registration(Body):
    """A device: with `installation_id` that id identifies it, without one its name does."""

    device_name = Text(longest=100)
    platform = Choice(accounts.PLATFORMS)
    installation_id = optional(Text(longest=MAX_ID_CHARACTERS))


class Device(TypedDict):
    """A device."""

    id: str
    device_name: str
    created_at: Time


class DevicesQuery(Body):
    """Which page of the list of devices."""

    limit = Optional(Decimal("The number of devices.", least=1, most=MAX_DEVICES_LISTED), DEVICES_LISTED)
    after = Optional(Text("The last id of the page before.", longest=MAX_ID_CHARACTERS, shortest=0), "")


class ListedDevice(Device):
    """A device in the list."""

    platform: Platform
    last_seen_at: Time | None


class Devices(TypedDict):
    """One page of the devices, ordered by id."""

    devices: list[ListedDevice]
    has_more: bool


class PushedChange(Body):
    """A change of one row, as a device sends it. Without `data`, or with null, `op` must be DELETE."""

    op = Choice(changelog.OPERATIONS)
    data = optional(Ciphertext("What the server never reads.", most_bytes=MAX_DATA_BYTES))
    table = Text(longest=128)
    row_id = Text(longest=256)
    timestamp = Timestamp("With a time zone, without leap seconds, with at most 9 digits after the second.")

    conditions: ClassVar[Schema] = {
        "anyOf": [
            {"properties": {"op": {"const": "DELETE"}}},
            {"properties": {"data": {"type": "string"}}, "required": ["data"]},
        ]
    }

    def check(self, path: str) -> None:
        """Check that only a DELETE omits `data`."""
        if self.data is None and self.op != "DELETE":
            raise InvalidField(f"{path}data: is missing; only a DELETE may omit it")


class Push(Body, most_bytes=MAX_PUSH_BYTES):
    """Changes: all are stored, or none is."""

    changes = Items(Object(PushedChange), most=changelog.MAX_CHANGES)
    device_id = Text(longest=MAX_ID_CHARACTERS)
    push_id = optional(Text("Makes a repeated push store nothing; kept for 7 days.", longest=64))


class Pushed(TypedDict):
    """The changes have the numbers up to `cursor`, in the order in which they were sent."""

    cursor: int
    received_at: Time
    server_time: Time


class Pull(Body, most_bytes=MAX_PULL_BYTES):
    """Where to read the log from, and which changes."""

    device_id = Text(longest=MAX_ID_CHARACTERS)
    cursor = Integer("The cursor of the last answer; 0 from the start.", least=0)
    limit = Optional(Integer("The number of changes.", least=1, most=changelog.MAX_CHANGES), changelog.MAX_CHANGES)
    tables = optional(Items(Text(longest=128), "Changes of these tables only.", most=MAX_TABLES))
    since = optional(Instant("Changes received then or later."))
    until = optional(Instant("Changes received before."))
    epoch = optional(Text("The epoch of the last answer: 409 if the log was replaced.", longest=64))
    latest = Optional(Flag("Only the latest change of each row; 422 for an app of the log mode history."), False)
    confirmed = optional(Integer("Up to where all changes are applied, if that is not `cursor`.", least=0))


class PulledChange(TypedDict):
    """A change in the log; `data` is null in a DELETE, and in a change that an administrator removed."""

    seq: int
    device_id: str
    table: str
    op: Operation
    row_id: str
    timestamp: str
    data: str | None
    received_at: Time
    order_at: Time


class Pulled(TypedDict):
    """One page of the log; pull again from `cursor` while `has_more` is true."""

    changes: list[PulledChange]
    cursor: int
    has_more: bool
    server_time: Time
    epoch: str


class Status(TypedDict):
    """The head of the log; `change_count` is the same number as `cursor`."""

    change_count: int
    cursor: int
    epoch: str
    log: LogMode


class NewEnvelope(Body):
    """The envelope of the master key, to create it or to replace one version of it."""

    envelope = Ciphertext("What the server never reads.", most_bytes=keys.MAX_ENVELOPE_BYTES, shortest=1)
    expected_version = optional(Integer("The version to replace; without it an envelope is only created.", least=1))


class EnvelopeVersion(TypedDict):
    """The version of the stored envelope."""

    version: int


class Envelope(EnvelopeVersion):
    """The stored envelope."""

    envelope: str
