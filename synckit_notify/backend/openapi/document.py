"""The OpenAPI 3.1 document of an application, from its URL map, its views and ROUTES.

An answer is described by the TypedDict that a view returns, a request by its Body, and an error by the docstring of its
Refused. So a sentence of this document stands once in the code.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints, is_typeddict

from flask import Flask
from werkzeug.routing import Rule

from ... import __version__
from ...errors import InvalidToken, Refused, TooManyStreams
from ..errors import Busy, InvalidField, MalformedBody, TooManyAttempts
from ..rate_limit import RULES
from ..request_fields import Body, Field, Optional, Schema
from .routes import HTML, ROUTES, Errors, Route

ABOUT = (
    "Synchronizes the changes of a user between devices. docs/protocol.md describes what the operations do, in which "
    "order a client calls them, and the bytes of the event stream. Unknown members of an answer must be ignored. "
    "Lengths are in characters, which are code points. A proxy in front of the server may answer with other statuses."
)

TYPES: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    bool: {"type": "boolean"},
    float: {"type": "number"},
}

ERRORS: dict[str, Schema] = {
    "Error": {
        "type": "object",
        "description": "A sentence for a person; it never has the value of a field.",
        "properties": {"error": {"type": "string"}},
        "required": ["error"],
    },
    "OAuthError": {
        "type": "object",
        "description": "The code and the sentence of RFC 6749, section 5.2.",
        "properties": {"error": {"type": "string"}, "error_description": {"type": "string"}},
        "required": ["error", "error_description"],
    },
}

HEADERS: dict[str, Schema] = {
    "WWW-Authenticate": {"description": "As RFC 6750, section 3 says.", "required": True, "schema": {"type": "string"}},
    "Retry-After": {"description": "In seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}},
    "X-RateLimit-Limit": {"description": "The failed attempts that are allowed.", "schema": {"type": "integer"}},
    "X-RateLimit-Remaining": {"description": "Those that are left.", "schema": {"type": "integer"}},
    "X-RateLimit-Reset": {"description": "When the count begins again, in Unix time.", "schema": {"type": "integer"}},
}
HEADERS_OF = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}
RATE_LIMIT = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")


def document(app: Flask) -> dict[str, Any]:
    """Return the document of the routes of this server; those that somebody added to the application are left out."""
    schemas: dict[str, Schema] = dict(ERRORS)
    paths: dict[str, dict[str, Any]] = {}
    ours = [rule for rule in app.url_map.iter_rules() if rule.endpoint in ROUTES]
    for rule in sorted(ours, key=lambda rule: (rule.rule, sorted(rule.methods or ()))):
        method = next(name for name in ("GET", "PUT", "POST", "DELETE") if name in (rule.methods or ()))
        path = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        paths.setdefault(path, {})[method.lower()] = _operation(app, rule, ROUTES[rule.endpoint], schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "SyncKit", "version": __version__, "description": ABOUT},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "headers": HEADERS,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(app: Flask, rule: Rule, route: Route, schemas: dict[str, Schema]) -> dict[str, Any]:
    view = app.view_functions[rule.endpoint]
    query: Mapping[str, Field[Any]] = {} if route.query is None else route.query.fields
    operation: dict[str, Any] = {
        "operationId": route.name or rule.endpoint.rpartition(".")[2],
        "summary": route.summary or _summary(view),
        "tags": [route.tag],
        "security": [{"bearer": []}] if route.needs_token else [],
        "parameters": [
            *_parameters(route.path, "path"),
            *_parameters(query, "query"),
        ],
        "responses": dict(sorted(_responses(view, rule.endpoint, route, schemas).items())),
    }
    return operation | ({"requestBody": _request_body(route, schemas)} if route.bodies else {})


def _parameters(fields: Mapping[str, Field[Any]], where: str) -> Iterator[dict[str, Any]]:
    for name, declared in fields.items():
        present: Field[Any] = declared.field if isinstance(declared, Optional) else declared  # there is no null here
        about = {"description": declared.about} if declared.about else {}
        default = {} if declared.default is None else {"default": declared.default}
        yield {
            "name": name,
            "in": where,
            "required": declared.is_required,
            "schema": present.schema() | default,
        } | about


def _request_body(route: Route, schemas: dict[str, Schema]) -> dict[str, Any]:
    refs = [_reference(body, body.schema(), schemas) for body in route.bodies]
    schema = refs[0] if len(refs) == 1 else {"oneOf": refs}
    types = ["application/x-www-form-urlencoded"] * route.forms + ["application/json"] * route.json
    return {
        "description": f"At most {route.bodies[0].most_bytes} bytes.",
        "required": True,
        "content": {name: {"schema": schema} for name in types},
    }


def _responses(view: Any, endpoint: str, route: Route, schemas: dict[str, Schema]) -> dict[str, Any]:
    answers = route.answers or {200: get_type_hints(view, include_extras=True)["return"]}
    responses = {status: _answer(status, answer, schemas) for status, answer in answers.items()}
    refused: dict[int, list[str]] = {}
    for kind in _refusals(endpoint, route):
        for status in _statuses(kind, route.errors):
            refused.setdefault(status, []).append(_summary(kind))
    if route.bodies:
        refused[413] = ["The body has too many bytes."]
    for status, sentences in refused.items():
        headers = _headers(HEADERS_OF.get(status, ()))
        responses[status] = {
            "description": " ".join(sentences),
            **headers,
            "content": _error_content(route.errors, status),
        }
    if endpoint in RULES:
        for response in responses.values():
            response["headers"] = response.get("headers", {}) | _headers(RATE_LIMIT)["headers"]
    return {str(status): response for status, response in responses.items()}


def _refusals(endpoint: str, route: Route) -> Iterator[type[Refused]]:
    if route.needs_token:
        yield InvalidToken
    if route.bodies:
        yield from (MalformedBody, InvalidField)
    yield from route.refusals
    if endpoint in RULES:
        yield TooManyAttempts
    if route.needs_database:
        yield Busy


def _headers(names: tuple[str, ...]) -> dict[str, Any]:
    return {"headers": {name: {"$ref": f"#/components/headers/{name}"} for name in names}} if names else {}


def _statuses(kind: type[Refused], errors: Errors) -> tuple[int, ...]:
    if kind is TooManyStreams:
        return 429, 503
    if kind is InvalidField and errors is Errors.OAUTH:
        return (400,)
    return (kind.status,)


def _answer(status: int, answer: Any, schemas: dict[str, Schema]) -> dict[str, Any]:
    if answer is None:
        return {"description": "A redirect." if status // 100 == 3 else "Done."}
    if isinstance(answer, str):
        return {"description": "The answer.", "content": {answer: {"schema": {"type": "string"}}}}
    about = _summary(answer) if is_typeddict(answer) else "The answer."
    return {"description": about, "content": {"application/json": {"schema": _schema_of(answer, schemas)}}}


def _error_content(errors: Errors, status: int) -> dict[str, Any]:
    if errors is Errors.PAGE:
        return {HTML: {"schema": {"type": "string"}}}
    name = "OAuthError" if errors is Errors.OAUTH and status in (400, 401, 429) else "Error"
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _schema_of(kind: Any, schemas: dict[str, Schema]) -> Schema:
    """Return the JSON Schema of the type of an answer."""
    if get_origin(kind) is Annotated:
        declared: Field[Any] = get_args(kind)[1]
        return declared.schema()
    if get_origin(kind) in (UnionType, Union):
        (present,) = (part for part in get_args(kind) if part is not NoneType)
        schema = _schema_of(present, schemas)
        return schema | {"type": [schema["type"], "null"]}
    if get_origin(kind) is list:
        return {"type": "array", "items": _schema_of(get_args(kind)[0], schemas)}
    if not is_typeddict(kind):
        return TYPES.get(kind, {"type": "object"})
    members = get_type_hints(kind, include_extras=True)
    schema = {
        "type": "object",
        "properties": {name: _schema_of(member, schemas) for name, member in members.items()},
        "required": list(members),
    }
    return _reference(kind, schema, schemas)


def _reference(kind: type, schema: Schema, schemas: dict[str, Schema]) -> Schema:
    """Keep the schema of a class under its name, with those of the classes in it; return a reference to it."""
    schemas[kind.__name__] = {"description": inspect.getdoc(kind)} | schema
    for member in kind.fields.values() if issubclass(kind, Body) else ():
        for body in member.bodies():
            _reference(body, body.schema(), schemas)
    return {"$ref": f"#/components/schemas/{kind.__name__}"}


def _summary(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0].replace("\n", " ")
