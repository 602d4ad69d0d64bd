"""A dictionary in, checked values out: what the fields of each request must be. No I/O.

    bytes ──▶ request_parsing: a dictionary ──▶ a Body, whose class declares each field with its type and its bounds

A field that is missing, of another type or out of bounds raises InvalidField (422), whose sentence names the field and
never quotes its value. The document of the API is generated from the same declarations (`openapi/`), so it says what is
checked. `rfc3339` formats the times of answers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from .database.schema import as_datetime
from .errors import InvalidField
from .request_limits import MAX_SMALL_BODY_BYTES
from .timestamps import microseconds

MAX_INTEGER = 2**63 - 1
"""The largest integer that SQLite and PostgreSQL can store."""

MAX_TIMESTAMP_CHARACTERS = 64

MAX_DIGITS = 20
"""Of an integer in a query string."""

NO_NUL = r"^[^\u0000]*$"

Schema = dict[str, Any]
T = TypeVar("T")
D = TypeVar("D")
B = TypeVar("B", bound="Body")


def check_text(value: str, where: str, longest: int, shortest: int = 1) -> str:
    """Return a string that every database and client can store; raises InvalidField. Lengths are in characters."""
    if len(value) < shortest:
        raise InvalidField(f"{where}: must not be empty")
    if len(value) > longest:
        raise InvalidField(f"{where}: must have at most {longest} characters")
    if "\0" in value or not _is_unicode(value):
        raise InvalidField(f"{where}: must not contain NUL or lone surrogates")
    return value


def rfc3339(moment: int) -> str:
    """Return stored microseconds as RFC 3339 in UTC, with all six digits, so that strings sort as their times do."""
    return as_datetime(moment).isoformat(timespec="microseconds").replace("+00:00", "Z")


class Field(Generic[T]):
    """One field of a Body; `about` is for the document of the API."""

    kind: type = str
    kind_name = "a string"
    default: Any = None
    """What a field that is missing or null has, unless it is required."""
    is_required = True

    def __init__(self, about: str = "") -> None:
        self.about = about

    def __set_name__(self, body: type, name: str) -> None:
        self.name = name

    def __get__(self, body: "Body", kind: type) -> T:
        value: T = body.values[self.name]
        return value

    def read(self, value: Any, where: str) -> T:
        """Return the checked value of this field; raises InvalidField, whose sentence begins with `where`."""
        if value is None:
            raise InvalidField(f"{where}: is missing")
        if not isinstance(value, self.kind) or (isinstance(value, bool) and self.kind is not bool):
            raise InvalidField(f"{where}: must be {self.kind_name}")  # in Python a bool is an int
        return self.check(value, where)

    def check(self, value: Any, where: str) -> T:
        """Return a value of the right type in its final form; raises InvalidField if it is out of bounds."""
        raise NotImplementedError

    def schema(self) -> Schema:
        """Return the JSON Schema of the values that are accepted."""
        raise NotImplementedError

    def bodies(self) -> "list[type[Body]]":
        """Return the classes of the objects in this field, to which its schema refers."""
        return []


class Optional(Field[T | D], Generic[T, D]):
    """A field that may be missing or null."""

    is_required = False

    def __init__(self, field: Field[T], default: D) -> None:
        super().__init__(field.about)
        self.field, self.default = field, default

    def read(self, value: Any, where: str) -> T | D:
        """Return the checked value, or the default."""
        return self.default if value is None else self.field.read(value, where)

    def schema(self) -> Schema:
        """Return a schema that allows null too."""
        found = self.field.schema()
        default = {} if self.default is None else {"default": self.default}
        return found | {"type": [found["type"], "null"]} | default


def optional(field: Field[T]) -> Optional[T, None]:
    """Return the same field, which is None if it is missing or null."""
    return Optional(field, None)


class Text(Field[str]):
    """A string; its length is in characters."""

    def __init__(self, about: str = "", *, longest: int, shortest: int = 1) -> None:
        super().__init__(about)
        self.longest, self.shortest = longest, shortest

    def check(self, value: str, where: str) -> str:
        """Check the length, and that every database and client can store it."""
        return check_text(value, where, self.longest, self.shortest)

    def schema(self) -> Schema:
        """Return the bounds of the length; lone surrogates are no characters in JSON Schema."""
        shortest = {"minLength": self.shortest} if self.shortest else {}
        return {"type": "string"} | shortest | {"maxLength": self.longest, "pattern": NO_NUL}


class Ciphertext(Text):
    """An opaque string; its length is in bytes of UTF-8."""

    def __init__(self, about: str = "", *, most_bytes: int, shortest: int = 0) -> None:
        super().__init__(f"{about}At most {most_bytes} bytes in UTF-8.", longest=most_bytes, shortest=shortest)

    def check(self, value: str, where: str) -> str:
        """Check the length in bytes too."""
        if len(super().check(value, where).encode()) > self.longest:
            raise InvalidField(f"{where}: must have at most {self.longest} bytes")
        return value


class Choice(Field[str]):
    """One of a few strings."""

    def __init__(self, options: Sequence[str], about: str = "") -> None:
        super().__init__(about)
        self.options = options

    def check(self, value: str, where: str) -> str:
        """Check that it is one of the options."""
        if value not in self.options:
            raise InvalidField(f"{where}: must be one of {', '.join(self.options)}")
        return value

    def schema(self) -> Schema:
        """Return the options."""
        return {"type": "string", "enum": list(self.options)}


class Integer(Field[int]):
    """An integer."""

    kind: type = int
    kind_name = "an integer"

    def __init__(self, about: str = "", *, least: int, most: int = MAX_INTEGER) -> None:
        super().__init__(about)
        self.least, self.most = least, most

    def check(self, value: int, where: str) -> int:
        """Check the bounds."""
        if not self.least <= value <= self.most:
            raise InvalidField(f"{where}: must be from {self.least} to {self.most}")
        return value

    def schema(self) -> Schema:
        """Return the bounds."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}


class Decimal(Integer):
    """An integer that is sent as a string, as in a query string."""

    kind, kind_name = str, "a string"

    def check(self, value: Any, where: str) -> int:
        """Check that it consists of digits, and the bounds."""
        text = check_text(value, where, MAX_DIGITS)
        if not (text.isascii() and text.isdecimal() and self.least <= int(text) <= self.most):
            raise InvalidField(f"{where}: must be an integer from {self.least} to {self.most}")
        return int(text)


class Flag(Field[bool]):
    """A boolean."""

    kind, kind_name = bool, "true or false"

    def check(self, value: bool, where: str) -> bool:
        """Return it."""
        return value

    def schema(self) -> Schema:
        """Return the type."""
        return {"type": "boolean"}


class Items(Field[list[T]]):
    """A list of one or more values of one kind."""

    kind, kind_name = list, "a list"

    def __init__(self, item: Field[T], about: str = "", *, most: int) -> None:
        super().__init__(about)
        self.item, self.most = item, most

    def check(self, value: list[Any], where: str) -> list[T]:
        """Check the number of items, then each item."""
        if not 1 <= len(value) <= self.most:
            raise InvalidField(f"{where}: must have 1 to {self.most} entries")
        return [self.item.read(item, f"{where}[{index}]") for index, item in enumerate(value)]

    def schema(self) -> Schema:
        """Return the number of items and the schema of each."""
        return {"type": "array", "minItems": 1, "maxItems": self.most, "items": self.item.schema()}

    def bodies(self) -> "list[type[Body]]":
        """Return those of the items."""
        return self.item.bodies()


class Object(Field[B]):
    """An object within a body."""

    kind, kind_name = dict, "an object"

    def __init__(self, body: type[B], about: str = "") -> None:
        super().__init__(about)
        self.body = body

    def check(self, value: dict[str, Any], where: str) -> B:
        """Check its fields."""
        return self.body(value, f"{where}.")

    def schema(self) -> Schema:
        """Return a reference to the schema of the class."""
        return {"$ref": f"#/components/schemas/{self.body.__name__}"}

    def bodies(self) -> "list[type[Body]]":
        """Return the class."""
        return [self.body]


class Instant(Field[int]):
    """An RFC 3339 timestamp, as stored microseconds, rounded up."""

    def check(self, value: str, where: str) -> int:
        """Check that every client can represent the time."""
        moment = microseconds(check_text(value, where, MAX_TIMESTAMP_CHARACTERS))
        if moment is None:
            raise InvalidField(
                f"{where}: must be RFC 3339 with a time zone, without leap seconds and with at most 9 digits "
                "of a second, like 2026-01-31T12:00:00Z"
            )
        return moment

    def schema(self) -> Schema:
        """Return the format."""
        return {"type": "string", "format": "date-time", "maxLength": MAX_TIMESTAMP_CHARACTERS}


class Timestamp(Field[tuple[str, int]]):
    """An RFC 3339 timestamp as it was sent, and as stored microseconds, rounded up."""

    def check(self, value: str, where: str) -> tuple[str, int]:
        """Check that every client can represent the time."""
        return value, Instant().check(value, where)

    def schema(self) -> Schema:
        """Return the format."""
        return Instant().schema()


class Body:
    """The fields of one request: of its JSON object, its form or its query string. Other members are ignored.

    A subclass declares each field as a class attribute, in the order in which they are checked. `most_bytes` is the
    limit of the whole body, beyond which a request is answered with 413.
    """

    fields: ClassVar[dict[str, Field[Any]]] = {}
    most_bytes: ClassVar[int] = MAX_SMALL_BODY_BYTES
    conditions: ClassVar[Schema] = {}
    """What `check` checks, as JSON Schema."""

    def __init_subclass__(cls, most_bytes: int | None = None) -> None:
        cls.fields = cls.fields | {name: field for name, field in vars(cls).items() if isinstance(field, Field)}
        cls.most_bytes = most_bytes or cls.most_bytes

    def __init__(self, values: Mapping[str, Any], path: str = "") -> None:
        """Check every field; raises InvalidField. `path` is where the object is in the body."""
        self.values = {name: field.read(values.get(name), path + name) for name, field in self.fields.items()}
        self.check(path)

    def check(self, path: str) -> None:
        """Check what depends on several fields; raises InvalidField."""

    @classmethod
    def schema(cls) -> Schema:
        """Return the JSON Schema of the bodies that are accepted."""
        about = {name: {"description": field.about} if field.about else {} for name, field in cls.fields.items()}
        return {
            "type": "object",
            "properties": {name: field.schema() | about[name] for name, field in cls.fields.items()},
            "required": [name for name, field in cls.fields.items() if field.is_required],
        } | cls.conditions


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
