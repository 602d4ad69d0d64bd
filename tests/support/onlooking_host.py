"""A host with Sentry and both instrumentations of OpenTelemetry; their reports are written to files.

`ERRORS` and `SPANS` in the environment name the files: one JSON text a line.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sentry_sdk
from flask import Flask
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from . import minimal_host


def write(name: str, value: object) -> None:
    with Path(os.environ[name]).open("a") as file:
        file.write(json.dumps(value) + "\n")


def report_error(event: Any, hint: object) -> None:
    values = event.get("exception", {}).get("values") or [{}]
    write("ERRORS", f"{values[-1].get('type')} {event.get('logentry')}")


class ToFile(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            attributes = span.attributes or {}
            path = attributes.get("http.target") or attributes.get("url.path")
            write("SPANS", [str(path).partition("?")[0], span.status.status_code.name, len(span.events)])
        return SpanExportResult.SUCCESS


def create_app() -> Flask:
    sentry_sdk.init(dsn="http://public@127.0.0.1:9/1", before_send=report_error)
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ToFile()))
    trace.set_tracer_provider(provider)
    app = minimal_host.create_app()

    @app.get("/fault")
    def fault() -> str:
        raise ValueError("so that the onlookers see one")

    FlaskInstrumentor().instrument_app(app)
    app.wsgi_app = OpenTelemetryMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    return app
