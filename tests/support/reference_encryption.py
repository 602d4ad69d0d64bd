"""The encryption of docs/vectors/README.md a second time, and the maker of the cases that show it.

    python -m tests.support.reference_encryption     writes encryption.json and envelopes.json in docs/vectors/cases/

It shares no code with the SDK: HChaCha20 is written out by its draft, the rest is OpenSSL through `cryptography`, where
the SDK uses libsodium and argon2-cffi. Random values are derived from the name of their case, so the files are the same
in every run.
"""

import base64
import hashlib
import json
import struct
import unicodedata
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from .server import ROOT

FOLDER = ROOT / "docs" / "vectors" / "cases"
UNREADABLE, LOCKED, WRONG_KEY, INVALID = "unreadable", "locked", "wrong key", "invalid"

KEY, OLDER, OLDEST, FOREIGN = (bytes(range(start, start + 32)) for start in (0, 32, 64, 96))
HERE = {
    "app": "notes",
    "user": "alice",
    "table": "tasks",
    "row_id": "row 1",
    "op": "INSERT",
    "timestamp": "2026-11-23T12:00:00Z",
}
COST = {"memory_kib": 65536, "passes": 3, "lanes": 1}

FIRST_CIPHERTEXT = "AZqsWihaQGduGsrb3AhicnCRW0MPLfTM7UvTZxFsBVt2cjV6MLsgHdrcOx6Hc06qPS1WPA7du0tATqB7ytMhKbA="
FIRST_ENVELOPE = (
    '{"kdf":"argon2id","lanes":1,"memory_kib":65536,"nonce":"ZSuouJ0jjpN/ChMiELvO0zonBA2QNaZW","passes":3,"salt":'
    '"OnlgcSf0UKDVZQuvTnOcR34LWF2FzUbpYYBSBdqYGyg=","version":1,"wrapped":'
    '"/ykRVsLhwm7pCRYulR/0nrpXQShd/0o1pNv+0X/LLv5zaujcF5s+iQ2L9mtOut5Y"}'
)
"""What the release before 0.1.0 has written, with KEY and the passphrase "correct horse"."""

Case = dict[str, Any]


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """Return the key that XChaCha20 derives from the first 16 bytes of its nonce (draft-irtf-cfrg-xchacha-03, 2.2)."""
    state = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *struct.unpack("<8I", key), *struct.unpack("<4I", nonce)]

    def turn(a: int, b: int, c: int, d: int) -> None:
        for one, other, third, left in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            state[one] = (state[one] + state[other]) & 0xFFFFFFFF
            mixed = state[third] ^ state[one]
            state[third] = (mixed << left | mixed >> (32 - left)) & 0xFFFFFFFF

    for _ in range(10):
        for column in range(4):
            turn(column, column + 4, column + 8, column + 12)
        for column in range(4):
            turn(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


def encrypt(key: bytes, nonce: bytes, plain: bytes, associated: bytes) -> bytes:
    """Encrypt with XChaCha20-Poly1305."""
    inner = ChaCha20Poly1305(hchacha20(key, nonce[:16]))
    return inner.encrypt(bytes(4) + nonce[16:], plain, associated)


def key_id(key: bytes) -> bytes:
    """Return the eight bytes by which a ciphertext names its key."""
    return hashlib.blake2b(b"synckit_notify key id", key=key, digest_size=8).digest()


def seal(key: bytes, nonce: bytes, context: dict[str, str], plain: bytes, *, version: int = 1) -> bytes:
    """Return the bytes of a ciphertext."""
    header = bytes([version]) + key_id(key)
    names = ("app", "user", "table", "row_id", "op", "timestamp")
    parts = [b"synckit_notify entry", header, *(context[name].encode() for name in names)]
    associated = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return header + nonce + encrypt(key, nonce, plain, associated)


def wrapping_key(passphrase: str, salt: bytes, *, memory_kib: int, passes: int, lanes: int) -> bytes:
    """Return the key that a passphrase gives."""
    secret = unicodedata.normalize("NFC", passphrase).encode()
    return Argon2id(salt=salt, length=32, iterations=passes, lanes=lanes, memory_cost=memory_kib).derive(secret)


def wrap(keys: list[bytes], app: str, user: str, passphrase: str, name: str, cost: dict[str, int]) -> str:
    """Return the envelope of these keys, the newest first."""
    salt, nonce = chosen(32, name, "salt"), chosen(24, name, "nonce")
    public = {"version": 1, "kdf": "argon2id", **cost, "salt": to_base64(salt), "nonce": to_base64(nonce)}
    public["key_id"] = key_id(keys[0]).hex()
    if keys[1:]:
        label = canonical({"app": app, "user": user, "label": "synckit_notify older keys"}).encode()
        inner = chosen(24, name, "nonce of the older keys")
        public["older"] = to_base64(inner + encrypt(keys[0], inner, b"".join(keys[1:]), label))
    associated = canonical({"app": app, "user": user, "envelope": public}).encode()
    wrapped = encrypt(wrapping_key(passphrase, salt, **cost), nonce, keys[0], associated)
    return canonical({**public, "wrapped": to_base64(wrapped)})


def chosen(length: int, *words: str) -> bytes:
    """Return bytes that take the place of random ones."""
    return hashlib.blake2b("/".join(words).encode(), digest_size=length).digest()


def canonical(value: object) -> str:
    """Return the one JSON text of a value: sorted members, no white space, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def to_base64(raw: bytes) -> str:
    """Return base64 with padding."""
    return base64.b64encode(raw).decode()


def sealed_cases() -> list[Case]:
    """Return ciphertexts that open, and what is in them."""
    contents: dict[str, tuple[str, dict[str, str]]] = {
        "an object": ('{"title":"milk"}', {}),
        "null": ("null", {"op": "DELETE"}),
        "an empty object": ("{}", {}),
        "numbers": ("[0,-1,1.5,9007199254740992]", {}),
        "text outside ASCII": ('"é\\u0000😀"', {}),
        "JSON with white space and escapes": ('{ "title" : "m\\u0069lk" }', {}),
        "a context outside ASCII": ('"x"', {"app": "nötes", "user": "álice", "table": "aufgaben…", "row_id": "😀"}),
        "an empty row id": ('"x"', {"row_id": ""}),
        "a timestamp is used as it was sent": ('"x"', {"timestamp": "2026-11-23t13:00:00.123456789+01:00"}),
        "a hundred levels of nesting": ("[" * 100 + "]" * 100, {}),
    }
    found = []
    for name, (plain, elsewhere) in contents.items():
        context, nonce = HERE | elsewhere, chosen(24, name)
        text = to_base64(seal(KEY, nonce, context, plain.encode()))
        case = {"about": name, "keys": [KEY.hex()], "context": context, "nonce": nonce.hex(), "plain": plain}
        found.append({**case, "ciphertext": text, "data": json.loads(plain)})
    nonce = chosen(24, "an older key")
    old = to_base64(seal(OLDER, nonce, HERE, b'"old"'))
    keys = [key.hex() for key in (KEY, OLDER, OLDEST)]
    found.append({"about": "an older key", "keys": keys, "context": HERE, "ciphertext": old, "data": "old"})
    first = {"about": "of the first release", "keys": [KEY.hex()], "context": HERE, "ciphertext": FIRST_CIPHERTEXT}
    return [*found, {**first, "data": {"title": "milk"}}]


def refused_ciphertexts() -> list[Case]:
    """Return what a client must not open."""
    nonce = chosen(24, "refused")
    raw = seal(KEY, nonce, HERE, b'"x"')
    text = to_base64(raw)
    altered: dict[str, str | None] = {
        "no ciphertext": None,
        "empty": "",
        "not base64": "no base64!",
        "base64 with white space": f"{text[:40]}\n{text[40:]}",
        "base64 without padding": text.removesuffix("=="),
        "base64 with other unused bits": f"{text[:-3]}{chr(ord(text[-3]) + 1)}==",
        "shorter than the header, the nonce and the tag": to_base64(raw[:48]),
        "another version": to_base64(seal(KEY, nonce, HERE, b'"x"', version=2)),
        "an altered nonce": to_base64(flipped(raw, 9)),
        "an altered ciphertext": to_base64(flipped(raw, 33)),
        "an altered tag": to_base64(flipped(raw, len(raw) - 1)),
        "cut off": to_base64(raw[:-1]),
        "bytes after the tag": to_base64(raw + b"\0"),
        "not JSON": to_base64(seal(KEY, nonce, HERE, b"{")),
        "NaN": to_base64(seal(KEY, nonce, HERE, b"NaN")),
        "not UTF-8": to_base64(seal(KEY, nonce, HERE, b'"\xff"')),
        "a lone surrogate": to_base64(seal(KEY, nonce, HERE, b'"\\ud800"')),
        "a hundred and one levels of nesting": to_base64(seal(KEY, nonce, HERE, b"[" * 101 + b"]" * 101)),
        "the id of another key that the client has": to_base64(raw[:1] + key_id(OLDER) + raw[9:]),
    }
    keys = [KEY.hex(), OLDER.hex()]
    found = [refused(name, UNREADABLE, keys, HERE, text) for name, text in altered.items()]
    for part in HERE:
        found.append(refused(f"at another address: {part}", UNREADABLE, keys, HERE | {part: "elsewhere"}, text))
    moved = HERE | {"table": "tasksr", "row_id": "ow 1"}
    found.append(refused("a character moved from the row id to the table", UNREADABLE, keys, moved, text))
    return [*found, refused("an unknown key id", LOCKED, [FOREIGN.hex()], HERE, text)]


def refused(about: str, how: str, keys: list[str], context: dict[str, str], text: str | None) -> Case:
    """Return a case of a ciphertext that must be refused."""
    return {"about": about, "keys": keys, "context": context, "ciphertext": text, "refused": how}


def flipped(raw: bytes, position: int) -> bytes:
    """Return bytes with one bit of one byte changed."""
    return raw[:position] + bytes([raw[position] ^ 1]) + raw[position + 1 :]


def envelope_cases() -> list[Case]:
    """Return envelopes with what opens them, or how they are refused."""
    rotated = [KEY, OLDER, OLDEST]
    kinds: dict[str, tuple[list[bytes], str, str, str, dict[str, int]]] = {
        "one key": ([KEY], "notes", "alice", "correct horse", COST),
        "after two rotations": (rotated, "notes", "alice", "correct horse", COST),
        "a passphrase with an accent": ([KEY], "notes", "alice", "caf\u00e9", COST),
        "the same accent as two characters": ([KEY], "notes", "alice", "cafe\u0301", COST),
        "names outside ASCII": (rotated, "nötes", "álice 😀", "correct horse", COST),
        "a costlier derivation": ([KEY], "notes", "alice", "x", {"memory_kib": 131072, "passes": 4, "lanes": 2}),
    }
    found: list[Case] = []
    for name, (keys, app, user, passphrase, cost) in kinds.items():
        text = wrap(keys, app, user, passphrase, name, cost)
        derived = wrapping_key(passphrase, chosen(32, name, "salt"), **cost).hex()
        case = {"about": name, "app": app, "user": user, "passphrase": passphrase, "wrapping_key": derived}
        found.append({**case, "envelope": text, "keys": [key.hex() for key in keys]})
    account = {"app": "notes", "user": "alice"}
    plain, several = found[0]["envelope"], found[1]["envelope"]
    with_key = account | {"key": KEY.hex()}
    opened = {"keys": [key.hex() for key in rotated]}
    first = {"passphrase": "correct horse", "envelope": FIRST_ENVELOPE, "keys": [KEY.hex()]}
    return [
        *found,
        {"about": "of the first release, without a key id", **account, **first},
        {"about": "the newest key instead of the passphrase", **with_key, "envelope": several, **opened},
        *[{**account, **case} for case in refused_envelopes(plain, several)],
    ]


def refused_envelopes(plain: str, several: str) -> list[Case]:
    """Return what a client must not open, without the account that they belong to."""
    right, members = {"passphrase": "correct horse"}, json.loads(plain)

    def altered(name: str) -> str:
        return canonical(members | {name: to_base64(flipped(base64.b64decode(members[name]), 0))})

    other_id = canonical(members | {"key_id": key_id(OLDER).hex()})
    older = json.loads(several)
    older["older"] = to_base64(flipped(base64.b64decode(older["older"]), 30))
    damaged = {
        "not JSON": "hello",
        "a list": "[]",
        "no members": "{}",
        "another version": canonical(members | {"version": 2}),
        "another derivation": canonical(members | {"kdf": "argon2d"}),
        "less memory than allowed": canonical(members | {"memory_kib": 65535}),
        "more memory than allowed": canonical(members | {"memory_kib": 262145}),
        "fewer passes than allowed": canonical(members | {"passes": 2}),
        "more passes than allowed": canonical(members | {"passes": 11}),
        "more lanes than allowed": canonical(members | {"lanes": 5}),
        "a boolean as a number": canonical(members | {"lanes": True}),
        "white space": plain.replace(":", ": "),
        "members in another order": json.dumps(dict(reversed(members.items())), separators=(",", ":")),
        "too long": canonical(members | {"x": "x" * 4096}),
        "not base64": canonical(members | {"salt": "!"}),
    }
    guesses = {"an altered salt": "salt", "an altered nonce": "nonce", "an altered wrapped key": "wrapped"}
    return [
        *[{"about": name, **right, "envelope": text, "refused": INVALID} for name, text in damaged.items()],
        *[{"about": name, **right, "envelope": altered(part), "refused": WRONG_KEY} for name, part in guesses.items()],
        {"about": "another key id", **right, "envelope": other_id, "refused": WRONG_KEY},
        {"about": "another passphrase", "passphrase": "wrong horse", "envelope": plain, "refused": WRONG_KEY},
        {"about": "an empty passphrase", "passphrase": "", "envelope": plain, "refused": INVALID},
        {"about": "of another app", "app": "tasks", **right, "envelope": plain, "refused": WRONG_KEY},
        {"about": "of another user", "user": "bob", **right, "envelope": plain, "refused": WRONG_KEY},
        {"about": "an older key", "key": OLDER.hex(), "envelope": several, "refused": WRONG_KEY},
        {"about": "altered older keys", "key": KEY.hex(), "envelope": canonical(older), "refused": INVALID},
    ]


ABOUT = {
    "encryption": "The encryption of the data of a change: key, context, nonce and plain text to ciphertext.",
    "envelopes": "The envelope of the master keys: passphrase to wrapping key, envelope to keys.",
}


def files() -> dict[Path, str]:
    """Return the files with their content."""
    cases = {"encryption": [*sealed_cases(), *refused_ciphertexts()], "envelopes": envelope_cases()}
    return {
        FOLDER / f"{name}.json": json.dumps({"about": ABOUT[name], "cases": found}, indent=2, ensure_ascii=False) + "\n"
        for name, found in cases.items()
    }


if __name__ == "__main__":
    for file, content in files().items():
        file.write_text(content)
