"""Which tokens are accepted, and that a bad one only leads to a refusal."""

import base64
import contextlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime

import jwt
import pytest
from flask import Flask, request
from flask_jwt_extended import JWTManager, create_access_token, create_refresh_token

from synckit_notify import Notifier
from synckit_notify.errors import ConfigurationError, InvalidToken
from synckit_notify.signatures import KeyRing, SharedKeys
from synckit_notify.tokens import MAX_TOKEN_LENGTH, Principal, TokenVerifier

from .support.tokens import KEY, make_token
from .support.verification import verified_twice

OTHER_KEY = "another key, which is as long as the first"
PUBLIC_KEY = b"-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n"


def verifier(
    *, keys: KeyRing | None = None, algorithms: tuple[str, ...] = ("HS256",), **options: object
) -> TokenVerifier:
    return TokenVerifier(SharedKeys(keys or {None: KEY.encode()}, algorithms), **options)


def verify(token: str, **options: object) -> Principal:
    return verified_twice(verifier(**options), token)


def raw_token(header: object, claims: object, signature: bytes = b"") -> str:
    def part(value: object) -> str:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    return f"{part(header)}.{part(claims)}.{part(signature)}"


def signed(payload: bytes) -> str:
    """Return a correctly signed token with any bytes as payload."""
    return jwt.PyJWS().encode(payload, KEY.encode(), algorithm="HS256")


def claims_text(exp: str) -> bytes:
    return f'{{"sub": "alice", "app": "notes", "iat": 0, "exp": {exp}}}'.encode()


def test_a_token_may_name_its_session() -> None:
    assert verify(make_token(sid="one")).session == "one"
    assert verify(make_token()).session is None


def test_a_good_token_names_user_app_and_device() -> None:
    principal = verify(make_token(device="laptop"))
    assert (principal.user, principal.app, principal.device) == ("alice", "notes", "laptop")
    assert principal.expires_at is not None
    assert 3590 < (principal.expires_at - datetime.now(UTC)).total_seconds() <= 3600


def test_the_key_claim_is_carried_and_not_interpreted() -> None:
    assert accepts(jwt.encode({"sub": "a", "app": "b", "iat": 1, "exp": time.time() + 9, "key": ["anything"]}, KEY))


NOW = int(time.time())
REFUSED = {
    "empty": "",
    "not a token": "hello",
    "two parts": "a.b",
    "four parts": "a.b.c.d",
    "not base64": "!.!.!",
    "non-ASCII": make_token() + "é",
    "oversized": make_token(pad="x" * MAX_TOKEN_LENGTH),
    "another key": make_token(key=OTHER_KEY),
    "unsigned, alg none": raw_token({"alg": "none"}, {"sub": "alice", "app": "notes", "iat": NOW, "exp": NOW + 60}),
    "alg in capitals": raw_token({"alg": "NONE"}, {"sub": "alice", "app": "notes", "iat": NOW, "exp": NOW + 60}),
    "alg not in the list": make_token(algorithm="HS384", key=KEY * 2),
    "alg a list": raw_token({"alg": ["HS256"]}, {}),
    "alg null": raw_token({"alg": None}, {}),
    "header a list": raw_token([], {}),
    "header nested deeply": raw_token(b"[" * 4000, {}),
    "payload nested deeply": signed(b"[" * 4000),
    "payload a list": signed(b"[]"),
    "payload not JSON": signed(b"\xff\xfe{"),
    "critical extension": make_token(headers={"crit": ["b64"], "b64": False}),
    "other characters in the signature": make_token()[:-8] + "!\t!" + make_token()[-8:],
    "padding without end": make_token() + "===",
    "expired": make_token(life=-1),
    "expires now": make_token(life=0),
    "exp missing": make_token(exp=None),
    "exp a text": make_token(exp="2099"),
    "exp a bool": make_token(exp=True),
    "exp 10**400": signed(claims_text("1" + "0" * 400)),
    "exp with 5000 digits": signed(claims_text("1" + "0" * 5000)),
    "exp Infinity": signed(claims_text("Infinity")),
    "exp NaN": signed(claims_text("NaN")),
    "exp 1e400": signed(claims_text("1e400")),
    "exp negative": signed(claims_text("-1")),
    "exp in the year 10000": signed(claims_text("253402300800")),
    "iat missing": make_token(iat=None),
    "iat a text": make_token(iat=str(NOW)),
    "iat in the future": make_token(iat=NOW + 1000),
    "nbf in the future": make_token(nbf=NOW + 1000),
    "nbf a text": make_token(nbf=str(NOW)),
    "nbf in the year 10000": make_token(nbf=253402300800),
    "sub missing": make_token(user=None),
    "sub a number": make_token(user=7),
    "sub empty": make_token(user=""),
    "sub too long": make_token(user="x" * 129),
    "sub with a NUL": make_token(user="a\0b"),
    "sub a lone surrogate": make_token(user="\ud800"),
    "app missing": make_token(app=None),
    "app a list": make_token(app=["notes"]),
    "device a number": make_token(device=7),
    "device empty": make_token(device=""),
    "session a number": make_token(sid=7),
    "session empty": make_token(sid=""),
}


@pytest.mark.parametrize("token", REFUSED.values(), ids=REFUSED.keys())
def test_a_bad_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidToken) as refusal:
        verify(token)
    assert refusal.value.status == 401
    assert not token or token not in str(refusal.value)


def signed_as_it_is(head: str, payload: str) -> str:
    """Return a correctly signed token of two texts, which need not be in base64."""
    signed_part = f"{head}.{payload}"
    signature = hmac.digest(KEY.encode(), signed_part.encode(), "sha256")
    return f"{signed_part}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


GOOD = claims_text(str(NOW + 3600)).replace(b'"iat": 0', b'"iat": %d' % NOW)
HEAD, PAYLOAD, _ = signed(GOOD).split(".")
ODD = {
    "four parts": signed_as_it_is(HEAD, f"{PAYLOAD[:8]}.{PAYLOAD[8:]}"),
    "an empty part": signed_as_it_is(HEAD, f".{PAYLOAD}"),
    "padded payload": signed_as_it_is(HEAD, PAYLOAD + "=" * (-len(PAYLOAD) % 4)),
    "wrongly padded payload": signed_as_it_is(HEAD, PAYLOAD + "==="),
    "padded header": signed_as_it_is(HEAD + "=" * (-len(HEAD) % 4), PAYLOAD),
    "line break in the payload": signed_as_it_is(HEAD, f"{PAYLOAD[:8]}\n{PAYLOAD[8:]}"),
    "payload in the other alphabet of base64": signed_as_it_is(HEAD, PAYLOAD[:-1] + "+"),
    "payload in UTF-16": signed(GOOD.decode().encode("utf-16")),
    "payload with a byte order mark": signed(b"\xef\xbb\xbf" + GOOD),
    "white space around the payload": signed(b" \n" + GOOD + b"\n"),
    "a claim twice": signed(GOOD.replace(b'"sub"', b'"sub": "bob", "sub"')),
    "a claim nested deeply": signed(GOOD.replace(b'"sub"', b'"x": ' + b"[" * 300 + b"]" * 300 + b', "sub"')),
    "b64 true": make_token(headers={"b64": True}),
    "b64 true and critical": make_token(headers={"crit": ["b64"], "b64": True}),
    "an unknown critical extension": make_token(headers={"crit": ["exp2"], "exp2": 1}),
    "crit empty": make_token(headers={"crit": []}),
    "a kid that is a list": raw_token({"alg": "HS256", "kid": []}, {}),
    "two algorithms": signed_as_it_is(base64.urlsafe_b64encode(b'{"alg":"none","alg":"HS256"}').decode(), PAYLOAD),
    "no algorithm": signed_as_it_is(base64.urlsafe_b64encode(b'{"typ":"JWTxx"}').decode().rstrip("="), PAYLOAD),
}
"""Signed with the right key, in a form that no issuer sends; whether it is accepted may depend on PyJWT's version."""


@pytest.mark.parametrize("token", ODD.values(), ids=ODD.keys())
def test_an_odd_token_has_the_same_outcome_each_time(token: str) -> None:
    with contextlib.suppress(InvalidToken):
        assert verify(token).user == "alice"


@pytest.mark.parametrize(("ahead", "accepted"), [(0, True), (5, True), (10, True), (10.5, False), (11, False)])
@pytest.mark.parametrize("claims", [("iat",), ("nbf",), ("iat", "nbf")])
def test_a_time_up_to_ten_seconds_ahead_is_accepted(claims: tuple[str, ...], ahead: float, accepted: bool) -> None:
    now = datetime.fromtimestamp(NOW, UTC)
    times = {"iat": NOW} | dict.fromkeys(claims, NOW + ahead)
    token = make_token(exp=NOW + 60, **times)
    try:
        verifier().verify(token, now)
    except InvalidToken:
        assert not accepted
    else:
        assert accepted


@pytest.mark.parametrize(("left", "accepted"), [(0, False), (0.001, True), (-0.001, False), (10, True)])
def test_exp_is_exact(left: float, accepted: bool) -> None:
    token = make_token(iat=NOW - 60, exp=NOW + left)
    try:
        verifier().verify(token, datetime.fromtimestamp(NOW, UTC))
    except InvalidToken as refusal:
        assert not accepted and "expired" in str(refusal)
    else:
        assert accepted


OTHER_KINDS = [
    *(
        {name: kind}
        for name in ("type", "token_type", "typ")
        for kind in ("refresh", "Refresh", "ID", "Offline", "logout")
    ),
    *({"token_use": use} for use in ("id", "refresh", "ACCESS ", 1, ["access"])),
    {"at_hash": "x"},
    {"c_hash": None},
    *(
        {"headers": {"typ": typ}}
        for typ in ("dpop+jwt", "DPoP+JWT", "logout+jwt", "secevent+jwt", "application/secevent+jwt")
    ),
]


@pytest.mark.parametrize("claims", OTHER_KINDS, ids=str)
def test_a_token_that_is_not_for_access_is_refused(claims: dict) -> None:
    every = {"sub": "alice", "app": "notes", "iat": NOW, "exp": NOW + 3600} | claims
    token = jwt.encode(every, KEY, headers=every.pop("headers", None))
    with pytest.raises(InvalidToken, match="send the access token"):
        verify(token)


@pytest.mark.parametrize(
    "claims",
    [
        {"type": "access"},
        {"typ": "Bearer"},
        {"token_type": "Bearer"},
        {"type": 7},
        {"token_use": "access"},
        {"token_use": "Access"},
        {"token_use": None},
        {"headers": {"typ": "at+jwt"}},
        {"headers": {"typ": "JWT"}},
    ],
    ids=str,
)
def test_a_token_may_declare_that_it_is_an_access_token(claims: dict) -> None:
    every = {"sub": "alice", "app": "notes", "iat": NOW, "exp": NOW + 3600} | claims
    assert accepts(jwt.encode(every, KEY, headers=every.pop("headers", None)))


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"iss": "sync"}, True),
        ({"iss": "other"}, False),
        ({"iss": ["sync"]}, False),
        ({}, False),
    ],
)
def test_the_issuer_is_checked_when_configured(claims: dict, accepted: bool) -> None:
    assert accepts(make_token(**claims), issuer="sync") is accepted


@pytest.mark.parametrize(
    ("claims", "accepted"),
    [
        ({"aud": "notify"}, True),
        ({"aud": ["web", "notify"]}, True),
        ({"aud": "web"}, False),
        ({"aud": {"notify": 1}}, False),
        ({}, False),
    ],
)
def test_the_audience_is_checked_when_configured(claims: dict, accepted: bool) -> None:
    assert accepts(make_token(**claims), audiences=("notify",)) is accepted


@pytest.mark.parametrize(
    ("kid", "key", "accepted"),
    [
        ("new", OTHER_KEY, True),
        ("old", KEY, True),
        ("old", OTHER_KEY, False),
        ("gone", KEY, False),
        (None, KEY, False),
    ],
)
def test_several_keys_are_distinguished_by_kid(kid: str | None, key: str, accepted: bool) -> None:
    keys = {"new": OTHER_KEY.encode(), "old": KEY.encode()}
    assert accepts(make_token(key=key, headers={"kid": kid} if kid else None), keys=keys) is accepted


def test_a_kid_of_a_wrong_type_is_refused() -> None:
    assert not accepts(raw_token({"alg": "HS256", "kid": ["new"]}, {}), keys={"new": KEY.encode(), None: KEY.encode()})


def test_a_token_without_kid_uses_the_plain_key_beside_the_listed_ones() -> None:
    assert accepts(make_token(), keys={"new": OTHER_KEY.encode(), None: KEY.encode()})


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_algorithms_of_the_configuration_are_accepted(algorithm: str) -> None:
    token = make_token(algorithm=algorithm, key=KEY * 2)
    assert accepts(token, keys={None: KEY.encode() * 2}, algorithms=(algorithm,))


@pytest.mark.parametrize(
    ("keys", "algorithms", "sentence"),
    [
        ({None: b"short"}, ("HS256",), "at least 32 bytes"),
        ({"a": KEY.encode(), "b": b"short"}, ("HS256",), "at least 32 bytes"),
        ({None: KEY.encode()}, ("HS512",), "at least 64 bytes"),
        ({None: KEY.encode()}, ("none",), "'none' is not supported"),
        ({None: KEY.encode()}, ("RS256",), "RS256 needs a public key"),
        ({None: KEY.encode()}, ("ES256K",), "'ES256K' is not supported"),
        ({None: PUBLIC_KEY}, ("HS256",), "asymmetric key"),
    ],
)
def test_keys_that_cannot_work_are_refused_at_start(keys: dict, algorithms: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence) as refusal:
        SharedKeys(keys, algorithms)
    assert "SYNCKIT_JWT" in str(refusal.value)
    assert all(key.decode() not in str(refusal.value) for key in keys.values())


@pytest.mark.parametrize(("make", "status"), [(create_access_token, 200), (create_refresh_token, 401)])
def test_access_tokens_of_flask_jwt_extended_are_accepted_and_refresh_tokens_are_not(
    make: Callable[..., str], status: int
) -> None:
    app = Flask("host")
    app.config.update(SYNCKIT_JWT_KEY=KEY, JWT_SECRET_KEY=KEY)
    JWTManager(app)
    notifier = Notifier(app)
    app.add_url_rule("/push", view_func=lambda: notifier.authenticate(request).user)
    with app.app_context():
        token = make("alice", additional_claims={"app": "notes"})
    answer = app.test_client().get("/push", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == status


def accepts(token: str, **options: object) -> bool:
    try:
        verify(token, **options)
    except InvalidToken:
        return False
    return True
