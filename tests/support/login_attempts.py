"""Log-ins from several addresses, with right and wrong passwords."""

from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from .backend import add_account


class Attempts:
    """Log-ins at one application, from any address."""

    def __init__(self, app: Flask, credentials: dict[str, str] | None = None) -> None:
        self.app = app
        self.credentials = credentials or add_account(app.extensions["synckit_backend"])

    def send(self, path: str, address: str, *, headers: dict[str, str] | None = None, **body: Any) -> TestResponse:
        environ = {"REMOTE_ADDR": address}
        return self.app.test_client().post(path, json=body, headers=headers, environ_overrides=environ)

    def log_in(self, address: str = "192.0.2.1", **fields: str) -> TestResponse:
        return self.send("/api/sync/auth", address, **self.credentials | fields)

    def fail(self, address: str = "192.0.2.1", **fields: str) -> int:
        return self.log_in(address, **{"password": "wrong"} | fields).status_code
