"""WSGI servers other than gunicorn and Flask's own, each serving the smallest host.

`start` starts one as a child process of a test, which runs `main`.
"""

import importlib
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .programs import need
from .server import Server, flask_run, gunicorn

App = Any
Serve = Callable[[], object]

HOST = "tests.support.minimal_host:create_app()"
SCRIPTS = Path(sys.executable).parent


def waitress(app: App) -> tuple[int, Serve]:
    from waitress import create_server

    listener = listening()
    return port_of(listener), create_server(app, sockets=[listener]).run


def cheroot(app: App) -> tuple[int, Serve]:
    from cheroot.wsgi import Server as CherootServer

    server = CherootServer(("127.0.0.1", 0), app)
    server.prepare()
    return server.bind_addr[1], server.serve


def a2wsgi(app: App) -> tuple[int, Serve]:
    import uvicorn
    from a2wsgi import WSGIMiddleware

    listener = listening()
    server = uvicorn.Server(uvicorn.Config(WSGIMiddleware(app)))
    return port_of(listener), lambda: server.run(sockets=[listener])


def tornado(app: App, executor: Any = None) -> tuple[int, Serve]:
    from tornado.httpserver import HTTPServer
    from tornado.ioloop import IOLoop
    from tornado.wsgi import WSGIContainer

    listener = listening()
    listener.setblocking(False)
    HTTPServer(WSGIContainer(app, executor=executor)).add_sockets([listener])
    return port_of(listener), IOLoop.current().start


def tornado_with_threads(app: App) -> tuple[int, Serve]:
    from concurrent.futures import ThreadPoolExecutor

    return tornado(app, ThreadPoolExecutor(8))


def pywsgi(app: App) -> tuple[int, Serve]:
    from gevent.pywsgi import WSGIServer

    server = WSGIServer(("127.0.0.1", 0), app)
    server.start()
    return server.server_port, server.serve_forever


def wsgiref(app: App) -> tuple[int, Serve]:
    from wsgiref.simple_server import make_server

    server = make_server("127.0.0.1", 0, app)
    return server.server_port, server.serve_forever


def listening() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def start(name: str, folder: Path, env: dict[str, str]) -> Server:
    """Start a server: one of this file, `flask run`, `uwsgi OPTIONS` or `gunicorn OPTIONS`."""
    program, *options = name.split()
    if program == "gunicorn":
        return gunicorn(HOST, folder, *options, env=env)
    if name == "flask run":
        return flask_run(HOST, folder, env)
    if program == "uwsgi":
        command = [need("pyuwsgi", SCRIPTS), "--http-socket", "127.0.0.1:0", "--die-on-term", *options]
        command += ["--wsgi", "tests.support.minimal_host:create_app()"]
        return Server(command, folder, r"bound to TCP address 127\.0\.0\.1:(\d+)", env)
    patch = "import gevent.monkey; gevent.monkey.patch_all(); " if name == "patched pywsgi" else ""
    function = name.removeprefix("patched ").replace(" ", "_")
    return Server(["-c", f"{patch}import {__name__}; {__name__}.main({function!r})"], folder, r"port (\d+)", env)


def main(name: str) -> None:
    """Serve until the process is ended."""
    module, _, factory = HOST.removesuffix("()").partition(":")
    port, serve = globals()[name](getattr(importlib.import_module(module), factory)())
    print("port", port)
    serve()
