"""How often gunicorn reads its settings for one request, and what that costs. Needs gunicorn alone.

    python gunicorn_settings.py [--number 2000] [--pairs 15]

It parses one request and makes its WSGI environ, with gunicorn's own functions, once with `Config` as it is and once
with settings that are kept as attributes. Both are measured in turn; the ratio is the median of all pairs.
"""

import argparse
import socket
import statistics
import time
from collections import Counter
from typing import Any

import gunicorn
from gunicorn.config import Config
from gunicorn.http import wsgi
from gunicorn.http.parser import RequestParser

REQUEST = b"GET /api/sync/subscribe?app_id=notes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n"
CLIENT, SERVER = ("127.0.0.1", 40000), ("127.0.0.1", 8000)


class CountingConfig(Config):  # type: ignore[misc]  # gunicorn is untyped
    """Counts the settings that are read by way of `__getattr__`."""

    def __init__(self) -> None:
        super().__init__()
        vars(self)["reads"] = Counter()

    def __getattr__(self, name: str) -> Any:
        if name in self.settings:
            self.reads[name] += 1
        return super().__getattr__(name)


class CachingConfig(Config):  # type: ignore[misc]
    """The proposal: a setting is an attribute, so Python finds it without `__getattr__`."""

    def __init__(self) -> None:
        super().__init__()
        vars(self).update({name: setting.get() for name, setting in self.settings.items()})

    def set(self, name: str, value: Any) -> None:
        super().set(name, value)
        vars(self)[name] = self.settings[name].get()


def serve(cfg: Config, number: int) -> float:
    """Parse so many requests and make their environs; return the processor time of one in microseconds."""
    client, server = socket.socketpair()
    with client, server:
        parser = RequestParser(cfg, server, CLIENT)
        began = time.process_time()
        for _ in range(number):
            client.sendall(REQUEST)
            response, _environ = wsgi.create(next(parser), server, CLIENT, SERVER, cfg)
            response.start_response("204 No Content", [])
            response.close()
            client.recv(65536)
        return (time.process_time() - began) / number * 1e6


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--number", type=int, default=2000, help="requests in one measurement")
    options.add_argument("--pairs", type=int, default=15, help="measurements of each kind")
    chosen = options.parse_args()
    counting = CountingConfig()
    serve(counting, 1)
    pairs = [(serve(Config(), chosen.number), serve(CachingConfig(), chosen.number)) for _ in range(chosen.pairs)]
    ratios = sorted(cached / plain for plain, cached in pairs)
    plain, cached = (statistics.median(kind) for kind in zip(*pairs, strict=True))
    print(f"gunicorn {gunicorn.__version__}")
    print(f"settings read for a request: {counting.reads.total()}, of {len(counting.reads)} names")
    print(f"parse and create, Config as it is: {plain:.1f} us")
    print(f"parse and create, settings as attributes: {cached:.1f} us")
    print(f"ratio: {statistics.median(ratios):.3f} ({ratios[0]:.3f} to {ratios[-1]:.3f})")


if __name__ == "__main__":
    main()
