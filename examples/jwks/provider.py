"""A stand-in for an identity provider, to try the example without an account at one. It checks no password.

    flask --app provider run --port 9000

A real provider does the same three things: it signs access tokens with a private key, names the key by `kid`, and
publishes the public keys. POST /rotate makes a new key; tokens of the older ones stay valid.
"""

import time
import uuid

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from flask import Flask
from jwt.algorithms import RSAAlgorithm

app = Flask(__name__)
keys: dict[str, rsa.RSAPrivateKey] = {}


@app.post("/rotate")
def rotate() -> dict[str, str]:
    """Sign with a new key from now on."""
    kid = uuid.uuid4().hex
    keys[kid] = rsa.generate_private_key(65537, 2048)
    return {"kid": kid}


@app.get("/jwks.json")
def key_set() -> dict[str, object]:
    """Return the public keys (RFC 7517)."""
    public = {kid: RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) for kid, key in keys.items()}
    return {"keys": [jwk | {"kid": kid, "alg": "RS256", "use": "sig"} for kid, jwk in public.items()]}


@app.get("/token/<user>")
def token(user: str) -> str:
    """Return an access token, as the token endpoint of a provider does at the end of a log-in."""
    now, (kid, key) = int(time.time()), list(keys.items())[-1]
    claims = {"iss": "http://127.0.0.1:9000/", "aud": "https://api.example.org", "sub": f"auth0|{user}"}
    return jwt.encode(claims | {"iat": now, "exp": now + 3600}, key, "RS256", headers={"kid": kid})


rotate()
