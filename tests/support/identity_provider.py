"""An identity provider on the loopback: signs tokens and serves its key set over HTTP, well or badly."""

import json
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

CURVES = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1}
PATH = "/jwks.json"

Answer = Callable[[BaseHTTPRequestHandler], None]


class SigningKey:
    """A private key with the algorithm that it signs with, and its `kid`."""

    def __init__(self, kid: str | None = "first", algorithm: str = "RS256", *, bits: int = 2048) -> None:
        self.kid, self.algorithm = kid, algorithm
        self.private: Any
        if algorithm == "EdDSA":
            self.private = ed25519.Ed25519PrivateKey.generate()
        elif algorithm in CURVES:
            self.private = ec.generate_private_key(CURVES[algorithm]())
        else:
            self.private = rsa.generate_private_key(65537, bits)

    @property
    def pem(self) -> str:
        public = self.private.public_key()
        text: bytes = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return text.decode()

    def jwk(self, **members: object) -> dict[str, Any]:
        """Return the public key as providers publish it; members given as None are left out."""
        public = get_default_algorithms()[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        public.pop("key_ops", None)
        every = public | {"kid": self.kid, "alg": self.algorithm, "use": "sig"} | members
        return {name: value for name, value in every.items() if value is not None}

    def sign(self, claims: dict[str, Any], *, algorithm: str | None = None, **header: object) -> str:
        """Return a token of these claims, with the times added that they leave out."""
        now = int(time.time())
        every = {"iat": now, "exp": now + 3600} | claims
        headers = {"kid": self.kid} | header
        headers = {name: value for name, value in headers.items() if value is not None}
        payload = json.dumps({name: value for name, value in every.items() if value is not None}).encode()
        return jwt.PyJWS().encode(payload, self.private, algorithm or self.algorithm, headers=headers)


class IdentityProvider:
    """Serves the public keys of `keys` at `url`; the last one signs. `answer` replaces the answer to each request."""

    def __init__(self, *keys: SigningKey, port: int = 0, certificate: tuple[str, str] | None = None) -> None:
        self.keys = list(keys) or [SigningKey()]
        self.key_set: object = None
        self.answer: Answer = lambda handler: self.serve(handler)
        self.released = threading.Event()
        self.requests: list[str] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.requests.append(self.path)
                with suppress(OSError):  # the client may have left
                    provider.answer(self)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._scheme = "http" if certificate is None else "https"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    @property
    def port(self) -> int:
        port: int = self._server.server_address[1]
        return port

    @property
    def url(self) -> str:
        return f"{self._scheme}://localhost:{self.port}{PATH}"

    @property
    def fetches(self) -> int:
        """How many requests came."""
        return len(self.requests)

    def rotate(self, kid: str) -> None:
        """Sign with a new key, and publish the older ones beside it."""
        self.keys.append(SigningKey(kid, self.keys[-1].algorithm))

    def token(self, **claims: object) -> str:
        """Return a token signed with the newest key."""
        return self.keys[-1].sign(CLAIMS | claims)

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer with the key set."""
        keys = {"keys": [key.jwk() for key in self.keys]} if self.key_set is None else self.key_set
        body = json.dumps(keys).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def hang(self, handler: BaseHTTPRequestHandler) -> None:
        """Answer nothing until `released` is set."""
        self.released.wait(60)

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """Send a header that never ends, one byte each 0.2 s."""
        handler.send_response(200)
        handler.flush_headers()
        while not self.released.wait(0.2):
            handler.wfile.write(b"X")

    def flood(self, handler: BaseHTTPRequestHandler) -> None:
        """Send 100 MB."""
        handler.send_response(200)
        handler.end_headers()
        for _ in range(100):
            handler.wfile.write(b" " * 1_000_000)

    def redirect_to(self, url: str) -> Answer:
        """Return an answer that redirects, except a request for PATH with a query, which gets the key set."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            if "?" in handler.path:
                self.serve(handler)
                return
            handler.send_response(302)
            handler.send_header("Location", url)
            handler.end_headers()

        return answer

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def __enter__(self) -> "IdentityProvider":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


ISSUER, AUDIENCE = "https://id.example.org/", "https://api.example.org"
CLAIMS: dict[str, object] = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "app": "notes"}
"""What an accepted token has beside its times."""


def config_of(provider: IdentityProvider, **settings: object) -> dict[str, Any]:
    """Return the settings of a host whose users come from this provider."""
    return {
        "SYNCKIT_JWT_JWKS_URL": provider.url,
        "SYNCKIT_JWT_ISSUER": ISSUER,
        "SYNCKIT_JWT_AUDIENCE": AUDIENCE,
    } | settings
