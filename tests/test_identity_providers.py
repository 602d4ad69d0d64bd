"""Tokens of identity providers: which are accepted, with which keys and settings."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest

from synckit_notify.backend import create_app
from synckit_notify.backend.context import EXTENSION_NAME
from synckit_notify.errors import ConfigurationError, InvalidToken
from synckit_notify.provider_keys.download import check_url
from synckit_notify.provider_keys.public_key import Keys, UnusableKey
from synckit_notify.settings import Settings
from synckit_notify.tokens import Principal

from .support.identity_provider import AUDIENCE, CLAIMS, ISSUER, IdentityProvider, SigningKey, config_of
from .support.tokens import KEY, make_token
from .support.verification import verified_twice

RSA = SigningKey("rsa")
OTHER_RSA = SigningKey("other")
PEM = {"SYNCKIT_JWT_PUBLIC_KEY": RSA.pem, "SYNCKIT_JWT_ISSUER": ISSUER, "SYNCKIT_JWT_AUDIENCE": AUDIENCE}


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider(RSA) as started:
        yield started


Check = Callable[[str], Principal]


def checker(config: dict[str, Any]) -> Check:
    """Return a function that checks a token with these settings, twice."""
    verifier = Settings.read(config, own_tokens=False).verifier
    assert verifier is not None
    return partial(verified_twice, verifier)


def accepts(check: Check, token: str) -> bool:
    try:
        check(token)
    except InvalidToken:
        return False
    return True


# The shapes of tokens

DEFAULT_APP = {"SYNCKIT_JWT_DEFAULT_APP": "notes"}


def settings_for(issuer: str, audience: str, **others: str) -> dict[str, str]:
    return {"SYNCKIT_JWT_ISSUER": issuer, "SYNCKIT_JWT_AUDIENCE": audience} | others


AUTH0 = settings_for("https://tenant.eu.auth0.com/", "https://api.example.org") | DEFAULT_APP
KEYCLOAK = settings_for("https://sso.example.org/realms/main", "sync-api", SYNCKIT_JWT_APP_CLAIM="azp")
COGNITO = settings_for("https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_Ab", "other, 4gt5h6") | DEFAULT_APP
ENTRA = settings_for("https://login.microsoftonline.com/9122040d/v2.0", "6e74172b-be56-4843-9ff4") | DEFAULT_APP
FLASK = settings_for("flask", "sync")

AUTH0_ACCESS = {
    "iss": AUTH0["SYNCKIT_JWT_ISSUER"],
    "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
    "aud": ["https://api.example.org", "https://tenant.eu.auth0.com/userinfo"],
    "azp": "my_client_id",
    "scope": "openid profile email",
}
KEYCLOAK_ACCESS = {
    "iss": KEYCLOAK["SYNCKIT_JWT_ISSUER"],
    "sub": "f1b3a9d2-98a5-4e8e-8c9b-0a8f3c2c8f4e",
    "aud": ["sync-api", "account"],
    "azp": "notes",
    "typ": "Bearer",
    "jti": "onrtac:0f6c",
    "sid": "e9b9ea0c-6d1c-4d1a-9f1e-7a3f2d7c7c11",
    "acr": "1",
    "scope": "email profile",
}
COGNITO_ACCESS = {
    "iss": COGNITO["SYNCKIT_JWT_ISSUER"],
    "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "client_id": "4gt5h6",
    "token_use": "access",
    "auth_time": 1,
    "scope": "aws.cognito.signin.user.admin",
    "username": "alice",
}
ENTRA_ACCESS = {
    "iss": ENTRA["SYNCKIT_JWT_ISSUER"],
    "sub": "HKZpfaHyWadeOouYlitjrI-KffTm222X5rrV3xDqfKQ",
    "aud": ENTRA["SYNCKIT_JWT_AUDIENCE"],
    "azp": "client",
    "azpacr": "0",
    "scp": "access_as_user",
    "oid": "690222be-ff1a-4d56-abd1-7e4f7d38e474",
    "tid": "9122040d",
    "ver": "2.0",
}
FLASK_ACCESS = {"iss": "flask", "sub": "alice", "aud": "sync", "app": "notes", "type": "access", "csrf": "c"}
COGNITO_ID = {"token_use": "id", "aud": "4gt5h6", "client_id": None, "at_hash": "h"}

Shape = tuple[str, dict, dict, dict, bool]
SHAPES: list[Shape] = [
    ("Auth0 access", AUTH0, AUTH0_ACCESS, {}, True),
    ("Auth0 access, RFC 9068", AUTH0, AUTH0_ACCESS | {"client_id": "my_client_id"}, {"typ": "at+jwt"}, True),
    ("Auth0 ID", AUTH0, AUTH0_ACCESS | {"aud": "my_client_id", "nonce": "n", "sid": "s"}, {}, False),
    ("Auth0 access for another API", AUTH0, AUTH0_ACCESS | {"aud": "https://other.example.org"}, {}, False),
    ("Auth0 log-out", AUTH0, AUTH0_ACCESS | {"events": {}}, {"typ": "logout+jwt"}, False),
    ("Keycloak access", KEYCLOAK, KEYCLOAK_ACCESS, {}, True),
    ("Keycloak ID", KEYCLOAK, KEYCLOAK_ACCESS | {"typ": "ID"}, {}, False),
    ("Keycloak ID by its at_hash", KEYCLOAK, KEYCLOAK_ACCESS | {"at_hash": "h"}, {}, False),
    ("Keycloak refresh", KEYCLOAK, KEYCLOAK_ACCESS | {"typ": "Refresh"}, {}, False),
    ("Keycloak offline", KEYCLOAK, KEYCLOAK_ACCESS | {"typ": "Offline"}, {}, False),
    ("Keycloak log-out", KEYCLOAK, KEYCLOAK_ACCESS | {"typ": "Logout"}, {}, False),
    ("Keycloak without azp", KEYCLOAK, KEYCLOAK_ACCESS | {"azp": None}, {}, False),
    ("Cognito access", COGNITO, COGNITO_ACCESS, {}, True),
    ("Cognito access of another client", COGNITO, COGNITO_ACCESS | {"client_id": "x"}, {}, False),
    ("Cognito ID", COGNITO, COGNITO_ACCESS | COGNITO_ID, {}, False),
    ("Cognito, a client_id without token_use", COGNITO, COGNITO_ACCESS | {"token_use": None}, {}, False),
    ("Cognito, another aud beside the client_id", COGNITO, COGNITO_ACCESS | {"aud": "x"}, {}, False),
    ("Entra access", ENTRA, ENTRA_ACCESS, {}, True),
    ("Entra ID", ENTRA, ENTRA_ACCESS | {"aud": "client", "nonce": "n", "scp": None}, {}, False),
    ("Entra ID of a hybrid log-in", ENTRA, ENTRA_ACCESS | {"c_hash": "h", "nonce": "n"}, {}, False),
    ("Entra access of another tenant", ENTRA, ENTRA_ACCESS | {"iss": "https://sts.windows.net/x/"}, {}, False),
    ("Flask-JWT-Extended access", FLASK, FLASK_ACCESS, {}, True),
    ("Flask-JWT-Extended refresh", FLASK, FLASK_ACCESS | {"type": "refresh"}, {}, False),
    ("Flask-JWT-Extended with an ID claim", FLASK, FLASK_ACCESS | {"at_hash": "h"}, {}, False),
    ("a DPoP proof", FLASK, FLASK_ACCESS, {"typ": "dpop+jwt"}, False),
]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape[0])
def test_the_access_tokens_of_providers_are_accepted_and_their_other_tokens_refused(shape: Shape) -> None:
    _, settings, claims, header, accepted = shape
    check, token = checker({"SYNCKIT_JWT_PUBLIC_KEY": RSA.pem} | settings), RSA.sign(claims, **header)
    if accepted:
        assert (check(token).user, check(token).app) == (claims["sub"], "notes")
    else:
        with pytest.raises(InvalidToken):
            check(token)


ENCRYPTED = "eyJhbGciOiJSU0EtT0FFUCJ9.a2V5.aXY.Y2lwaGVydGV4dA.dGFn"
"""Five parts, as the encrypted refresh tokens of Cognito."""


@pytest.mark.parametrize("settings", [AUTH0, COGNITO, ENTRA])
@pytest.mark.parametrize("token", ["v1.MRrtR5Sl8nRmOlVtOpaque", "0.AAAAopaque", ENCRYPTED])
def test_opaque_and_encrypted_refresh_tokens_are_refused(settings: dict, token: str) -> None:
    assert not accepts(checker({"SYNCKIT_JWT_PUBLIC_KEY": RSA.pem} | settings), token)


@pytest.mark.parametrize(
    ("settings", "claims", "app"),
    [
        ({}, {"app": "notes"}, "notes"),
        ({}, {"app": None}, None),
        (DEFAULT_APP, {"app": None}, "notes"),
        (DEFAULT_APP, {"app": "tasks"}, "tasks"),
        (DEFAULT_APP, {"app": 7}, None),
        (DEFAULT_APP, {"app": ""}, None),
        ({"SYNCKIT_JWT_APP_CLAIM": "https://example.org/app"}, {"https://example.org/app": "tasks"}, "tasks"),
        ({"SYNCKIT_JWT_APP_CLAIM": "azp"}, {"azp": None}, None),
        ({"SYNCKIT_JWT_APP_CLAIM": "azp"} | DEFAULT_APP, {"app": "tasks"}, "notes"),
    ],
)
@pytest.mark.parametrize("family", ["public", "shared"])
def test_the_app_comes_from_the_claim_of_the_settings(
    settings: dict, claims: dict, app: str | None, family: str
) -> None:
    keys = {"SYNCKIT_JWT_KEY": KEY} if family == "shared" else {"SYNCKIT_JWT_PUBLIC_KEY": RSA.pem}
    check = checker(PEM | {"SYNCKIT_JWT_PUBLIC_KEY": None} | keys | settings)
    token = make_token(**(CLAIMS | claims)) if family == "shared" else RSA.sign(CLAIMS | claims)
    if app is None:
        assert not accepts(check, token)
    else:
        assert check(token).app == app


# Algorithms and keys

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_each_public_key_algorithm_works_from_pem_and_from_a_key_set(algorithm: str) -> None:
    key = SigningKey("only", algorithm)
    token = key.sign(CLAIMS)
    assert accepts(checker(PEM | {"SYNCKIT_JWT_PUBLIC_KEY": key.pem, "SYNCKIT_JWT_ALGORITHMS": algorithm}), token)
    with IdentityProvider(key) as provider:
        check = checker(config_of(provider, SYNCKIT_JWT_ALGORITHMS=f"RS256,{algorithm}"))
        assert accepts(check, token)
        assert not accepts(check, SigningKey("only", algorithm).sign(CLAIMS))
        assert provider.fetches == 1


def test_a_public_key_in_one_line_with_escaped_line_breaks_is_read() -> None:
    assert accepts(checker(PEM | {"SYNCKIT_JWT_PUBLIC_KEY": RSA.pem.replace("\n", "\\n")}), RSA.sign(CLAIMS))
    assert accepts(checker(PEM | {"SYNCKIT_JWT_PUBLIC_KEY": RSA.pem.encode()}), RSA.sign(CLAIMS))


def hmac_with(secret: str, algorithm: str = "HS256") -> str:
    """Return a token that is signed with a public key as if it were a shared secret."""

    def part(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    now = int(time.time())
    signed = part(json.dumps({"alg": algorithm, "kid": "rsa", "typ": "JWT"}).encode())
    signed += b"." + part(json.dumps(CLAIMS | {"iat": now, "exp": now + 60}).encode())
    hmac = (
        jwt.get_algorithm_by_name(algorithm)
        if hasattr(jwt, "get_algorithm_by_name")
        else jwt.PyJWS().get_algorithm_by_name(algorithm)
    )
    return (signed + b"." + part(hmac.sign(signed, secret.encode()))).decode()


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_never_used_as_a_shared_secret(provider: IdentityProvider, algorithm: str) -> None:
    token = hmac_with(RSA.pem, algorithm)
    for config in (PEM, config_of(provider)):
        assert not accepts(checker(config), token)
        assert not accepts(checker(config), hmac_with(json.dumps(RSA.jwk()), algorithm))
    assert provider.fetches == 0
    for names in (algorithm, f"RS256,{algorithm}"):
        with pytest.raises(ConfigurationError, match=f"{algorithm} does not fit"):
            checker(PEM | {"SYNCKIT_JWT_ALGORITHMS": names})
        with pytest.raises(ConfigurationError, match=f"'{algorithm}' is not supported with public keys"):
            checker(config_of(provider, SYNCKIT_JWT_ALGORITHMS=names))


def test_a_token_signed_with_a_private_key_is_refused_where_a_shared_key_is_set() -> None:
    shared = {"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_JWT_ISSUER": ISSUER}
    assert not accepts(checker(shared), RSA.sign(CLAIMS))
    with pytest.raises(ConfigurationError, match="asymmetric key"):
        checker(shared | {"SYNCKIT_JWT_KEY": RSA.pem})
    with pytest.raises(ConfigurationError, match="RS256 needs a public key"):
        checker(shared | {"SYNCKIT_JWT_ALGORITHMS": "HS256,RS256"})


EC = SigningKey("ec", "ES256")
EC384 = SigningKey("ec384", "ES384")


def unsigned(**header: object) -> str:
    name, claims, _ = RSA.sign(CLAIMS, **header).split(".")
    return f"{name}.{claims}."


MISFITS = {
    "alg none": jwt.PyJWS().encode(json.dumps(CLAIMS).encode(), None, "none", headers={"kid": "rsa"}),
    "no signature": unsigned(),
    "an algorithm that is not in the settings": RSA.sign(CLAIMS, algorithm="RS384"),
    "the key's own alg is another one": SigningKey("pinned").sign(CLAIMS),
    "PS256 with a key for RS256": RSA.sign(CLAIMS, algorithm="PS256"),
    "the kid of an RSA key on a token of an elliptic curve": EC.sign(CLAIMS, kid="rsa"),
    "the kid of an elliptic curve on an RSA token": RSA.sign(CLAIMS, kid="ec"),
    "another key with a known kid": OTHER_RSA.sign(CLAIMS, kid="rsa"),
    "P-384 for ES256": EC384.sign(CLAIMS, kid="ec384"),
    "a key for encryption": RSA.sign(CLAIMS, kid="enc"),
    "a shared key in the key set": make_token(key=KEY, headers={"kid": "oct"}, **CLAIMS),  # type: ignore[arg-type]
    "a key of 1024 bits": RSA.sign(CLAIMS, kid="short"),
    "a private key in the key set": RSA.sign(CLAIMS, kid="private"),
    "no kid, several keys": RSA.sign(CLAIMS, kid=None),
}


@pytest.mark.parametrize("token", MISFITS.values(), ids=MISFITS.keys())
def test_a_key_is_used_only_with_the_algorithms_that_fit_it(token: str) -> None:
    private = json.loads(jwt.get_algorithm_by_name("RS256").to_jwk(OTHER_RSA.private))
    listed = [
        RSA.jwk(),
        OTHER_RSA.jwk(kid="second"),
        EC.jwk(alg=None),
        EC384.jwk(alg="ES256"),
        RSA.jwk(kid="enc", use="enc"),
        RSA.jwk(kid="pinned", alg="RS512"),
        {"kty": "oct", "kid": "oct", "k": base64.urlsafe_b64encode(KEY.encode()).decode()},
        SigningKey("short", bits=1024).jwk(),
        private | {"kid": "private", "alg": "RS256"},
        {"kty": "RSA", "kid": "odd", "n": 7, "e": []},
        {"kty": "RSA", "kid": "list", "alg": ["RS256"], "n": RSA.jwk()["n"], "e": "AQAB"},
        {"kty": ["RSA"]},
        "no object",
    ]
    with IdentityProvider() as provider:
        provider.key_set = {"keys": listed}
        check = checker(config_of(provider, SYNCKIT_JWT_ALGORITHMS="RS256,PS256,ES256"))
        assert accepts(check, RSA.sign(CLAIMS))
        assert accepts(check, EC.sign(CLAIMS))
        assert not accepts(check, token)


def test_a_key_without_alg_serves_every_algorithm_of_its_type_in_the_settings() -> None:
    with IdentityProvider() as provider:
        provider.key_set = {"keys": [RSA.jwk(alg=None, use=None)]}
        check = checker(config_of(provider, SYNCKIT_JWT_ALGORITHMS="RS256,PS384"))
        assert accepts(check, RSA.sign(CLAIMS)) and accepts(check, RSA.sign(CLAIMS, algorithm="PS384"))
        assert not accepts(check, RSA.sign(CLAIMS, algorithm="PS256"))
        assert accepts(check, RSA.sign(CLAIMS, kid=None))


BAD_SETS = [
    b"",
    b"[]",
    b"null",
    b"{}",
    b'{"keys": {}}',
    b'{"keys": []}',
    b"[" * 100_000,
    b"\xff",
    b'{"keys": [{"kty": "oct"}]}',
]


@pytest.mark.parametrize("text", BAD_SETS)
def test_a_text_without_a_usable_key_is_no_key_set(text: bytes) -> None:
    with pytest.raises(UnusableKey):
        Keys.from_json(text)


# The settings

URL = {"SYNCKIT_JWT_JWKS_URL": "https://id.example.org/jwks.json"}
PARTIES = {"SYNCKIT_JWT_ISSUER": ISSUER, "SYNCKIT_JWT_AUDIENCE": AUDIENCE}
WRONG = [
    (URL | PARTIES | {"SYNCKIT_JWT_KEY": KEY}, "SYNCKIT_JWT_JWKS_URL and SYNCKIT_JWT_KEY must not be set together"),
    (PEM | {"SYNCKIT_JWT_KEYS": {"a": KEY}}, "SYNCKIT_JWT_PUBLIC_KEY and SYNCKIT_JWT_KEYS must not"),
    (PEM | URL, "SYNCKIT_JWT_PUBLIC_KEY and SYNCKIT_JWT_JWKS_URL must not be set together"),
    (URL | {"SYNCKIT_JWT_AUDIENCE": "a"}, "SYNCKIT_JWT_ISSUER must be set with SYNCKIT_JWT_JWKS_URL"),
    (URL | {"SYNCKIT_JWT_ISSUER": "a"}, "SYNCKIT_JWT_AUDIENCE must be set with SYNCKIT_JWT_JWKS_URL"),
    (
        URL | {"SYNCKIT_JWT_ISSUER": "a", "SYNCKIT_JWT_APP_CLAIM": "azp"} | DEFAULT_APP,
        "SYNCKIT_JWT_AUDIENCE must be set with SYNCKIT_JWT_DEFAULT_APP",
    ),
    ({"SYNCKIT_JWT_KEY": KEY} | DEFAULT_APP, "SYNCKIT_JWT_AUDIENCE must be set with SYNCKIT_JWT_DEFAULT_APP"),
    ({"SYNCKIT_JWT_KEY": KEY, "SYNCKIT_JWT_AUDIENCE": "a,,b"}, "SYNCKIT_JWT_AUDIENCE must be names"),
    (PEM | {"SYNCKIT_JWT_ALGORITHMS": "ES256"}, "ES256 does not fit SYNCKIT_JWT_PUBLIC_KEY; choose from PS256"),
    (PEM | {"SYNCKIT_JWT_ALGORITHMS": "none"}, "none does not fit SYNCKIT_JWT_PUBLIC_KEY"),
    (PEM | {"SYNCKIT_JWT_PUBLIC_KEY": EC.pem}, "RS256 does not fit SYNCKIT_JWT_PUBLIC_KEY; choose from ES256"),
    (PEM | {"SYNCKIT_JWT_PUBLIC_KEY": "no key"}, "must begin with -----BEGIN PUBLIC KEY-----"),
    (PEM | {"SYNCKIT_JWT_PUBLIC_KEY": 7}, "SYNCKIT_JWT_PUBLIC_KEY must be a string or bytes"),
    (PEM | {"SYNCKIT_JWT_PUBLIC_KEY": SigningKey(bits=1024).pem}, "at least 2048 bits, this one has 1024"),
    *(
        (PARTIES | {"SYNCKIT_JWT_JWKS_URL": url}, "SYNCKIT_JWT_JWKS_URL: ")
        for url in (
            "http://id.example.org/jwks.json",
            "http://localhost.example.org/",
            "file:///etc/passwd",
            "ftp://localhost/",
            "https://",
            "https://user:hunter2@id.example.org/",
            "https://id.example.org/#keys",
            "https://id.example.org:x/",
            "https://id.example.org/a b",
            "https://id.example.org/a\r\nHost: b",
            "https://[::1/",
            "hunter2",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize(("config", "sentence"), WRONG)
def test_settings_that_cannot_be_safe_are_refused_at_start(config: dict, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence.replace("(", r"\(")) as refusal:
        checker(config)
    assert "hunter2" not in str(refusal.value)


def test_an_audience_is_not_needed_where_a_claim_names_the_app(provider: IdentityProvider) -> None:
    check = checker(config_of(provider, SYNCKIT_JWT_AUDIENCE="", SYNCKIT_JWT_APP_CLAIM="azp"))
    assert check(provider.token(aud=None, azp="notes")).app == "notes"


@pytest.mark.parametrize(
    "url", ["http://localhost:8000/a?b=c", "http://127.0.0.1/", "http://[::1]:1/", "https://a.example"]
)
def test_https_and_loopback_urls_are_accepted(url: str) -> None:
    assert check_url(url) == url


INCLUDED = ["SYNCKIT_JWT_PUBLIC_KEY", "SYNCKIT_JWT_JWKS_URL", "SYNCKIT_JWT_APP_CLAIM", "SYNCKIT_JWT_DEFAULT_APP"]


@pytest.mark.parametrize("name", INCLUDED)
def test_the_included_server_refuses_settings_for_tokens_of_others(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"{name} is for your own backend"):
        create_app({name: "x"}, instance_path=tmp_path)


def test_the_included_server_signs_for_the_first_of_several_audiences(tmp_path: Path) -> None:
    app = create_app({"SYNCKIT_JWT_AUDIENCE": "one, two"}, instance_path=tmp_path)
    token = app.extensions[EXTENSION_NAME].settings.signer.sign("notes", "alice")
    assert jwt.decode(token, options={"verify_signature": False})["aud"] == "one"
    answer = app.test_client().get("/api/sync/status", headers={"Authorization": f"Bearer {token}"})
    app.extensions["synckit_backend"].store.dispose()
    assert answer.status_code == 200
