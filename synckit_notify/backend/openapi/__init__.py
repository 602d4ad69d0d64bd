"""The API as an OpenAPI 3.1 document: served in development, and kept in docs/openapi.json by `python docs/openapi.py`.

    URL map ─┐
    views: docstring, type of the answer ─┤
    routes.py: the Body, the refusals ────┴──▶ document.py ──▶ GET /api/sync/openapi.json

A Body is what the server checks a request with, and mypy compares what a view returns with the type of its answer. The
tests hold the rest: that each view reads the Body of its route, and that no answer is missing.
"""

from typing import Any

from flask import Blueprint, current_app

from .document import document

__all__ = ["blueprint", "document"]

blueprint = Blueprint("synckit_openapi", __name__)


@blueprint.get("/openapi.json")
def openapi() -> dict[str, Any]:
    """Return this document."""
    return document(current_app)
