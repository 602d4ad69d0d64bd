"""docs/openapi.json as a judge: is a request as it says, and is an answer one that it has?"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jsonschema_rs

from .server import ROOT

FILE = ROOT / "docs" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())
FORM = "application/x-www-form-urlencoded"


class Operation(NamedTuple):
    """One operation of the document."""

    method: str
    path: str
    content: dict[str, Any]

    @property
    def name(self) -> str:
        """Return its `operationId`."""
        return str(self.content["operationId"])

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """Return the schemas of its body, which are alternatives."""
        content = self.content.get("requestBody", {}).get("content", {})
        schema = next((media["schema"] for media in content.values()), None)
        return [] if schema is None else [resolved(one) for one in schema.get("oneOf", [schema])]

    @property
    def takes_json(self) -> bool:
        """Return whether its body may be JSON."""
        return "application/json" in self.content.get("requestBody", {}).get("content", {})

    @property
    def most_bytes(self) -> int:
        """Return the limit of its body."""
        found = re.fullmatch(r"At most (\d+) bytes\.", self.content["requestBody"]["description"])
        assert found is not None
        return int(found[1])

    def check_request(self, content_type: str, body: Any) -> None:
        """Raise an error unless the body is one that the document allows."""
        assert ("requestBody" in self.content) == (body is not None), self.name
        if body is not None:
            _validate(self.content["requestBody"]["content"][content_type]["schema"], body, {})

    def check_answer(self, status: int, content_type: str | None, body: Any) -> None:
        """Raise an error unless the document has the answer, and all of its members."""
        response = self.content["responses"].get(str(status))
        assert response is not None, f"{self.name} answered {status}"
        media = response.get("content")
        assert (content_type is None) == (media is None), f"{self.name} answered {status} with {content_type}"
        if media is not None:
            assert content_type in media, f"{self.name} answered {status} with {content_type}"
            if content_type == "application/json":
                _validate(media[content_type]["schema"], body, {"additionalProperties": False})


def operations() -> Iterator[Operation]:
    """Yield every operation."""
    for path, item in DOCUMENT["paths"].items():
        for method, content in item.items():
            yield Operation(method.upper(), path, content)


def operation(method: str, path: str) -> Operation:
    """Return the operation that answers a request."""
    found = _found(method, path)
    assert len(found) == 1, (method, path, found)
    return found[0]


def describes(method: str, path: str) -> bool:
    """Return whether the document has an operation for a request."""
    return bool(_found(method, path))


def _found(method: str, path: str) -> list[Operation]:
    return [one for one in operations() if one.method == method and _pattern(one.path).fullmatch(path)]


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that a reference names, or the schema itself."""
    named = schema.get("$ref")
    return schema if named is None else DOCUMENT["components"]["schemas"][named.rpartition("/")[2]]


def _validate(schema: dict[str, Any], value: Any, more: dict[str, Any]) -> None:
    """Check a value, with more rules for every object."""
    schemas = {name: kind | more for name, kind in DOCUMENT["components"]["schemas"].items()}
    jsonschema_rs.Draft202012Validator(schema | {"components": {"schemas": schemas}}, validate_formats=True).validate(
        value
    )


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)))
