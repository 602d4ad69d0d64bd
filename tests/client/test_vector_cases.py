"""The cases of docs/vectors/cases/; those of the decoder are in tests/test_decoder.py.

The files of encryption and envelopes come from an implementation of their own, tests/support/reference_encryption.py,
which is checked here against published vectors.
"""

import base64
import itertools
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import nacl.bindings as sodium
import pytest
from argon2.low_level import Type, hash_secret_raw

from synckit_notify.backend import request_fields
from synckit_notify.client import encryption, testing
from synckit_notify.client.encryption import Cipher, EntryContext, Locked, Unreadable, WrongKey, unwrap, unwrap_with_key
from synckit_notify.client.errors import InvalidEnvelope
from synckit_notify.client.models import Position, PulledChange
from synckit_notify.client.stores.sqlite_values import from_json, key_of, row_id_of, to_json
from synckit_notify.client.testing import FakeClock, FakeServer

from ..support import reference_encryption as reference
from ..support.cases import FOLDER, each, load
from ..support.markdown import prose
from ..support.store_walk import Pair

Case = dict[str, Any]


@pytest.fixture(scope="module")
def sql() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        yield connection


def value(sql: sqlite3.Connection, expression: str) -> Any:
    return sql.execute(f"SELECT {expression}").fetchone()[0]


def cipher(case: Case) -> Cipher:
    newest, *older = map(bytes.fromhex, case["keys"])
    return Cipher(newest, older)


def opened_envelope(case: Case) -> Cipher:
    account = case["envelope"], case["app"], case["user"]
    return (
        unwrap_with_key(*account, bytes.fromhex(case["key"])) if "key" in case else unwrap(*account, case["passphrase"])
    )


def not_random(monkeypatch: pytest.MonkeyPatch, *values: bytes) -> None:
    """Let the SDK use these values where it uses random ones."""
    left = list(values)
    monkeypatch.setattr(encryption, "random_bytes", lambda length: left.pop(0))


class TestTheReference:
    def test_hchacha20(self) -> None:
        """draft-irtf-cfrg-xchacha-03, section 2.2.1."""
        nonce = bytes.fromhex("000000090000004a0000000031415927")
        subkey = "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
        assert reference.hchacha20(bytes(range(32)), nonce).hex() == subkey

    def test_xchacha20_poly1305(self) -> None:
        """draft-irtf-cfrg-xchacha-03, appendix A.3.1: the tag and the first bytes."""
        plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        plain += b"sunscreen would be it."
        associated = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
        sealed = reference.encrypt(bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x58)), plain, associated)
        assert sealed.hex().startswith("bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb")
        assert sealed[-16:].hex() == "c0875924c1c7987947deafd8780acf49"

    def test_argon2id(self) -> None:
        """`src/test.c` of github.com/P-H-C/phc-winner-argon2, for version 0x13: both libraries have this answer."""
        answer = "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"
        derived = reference.wrapping_key("password", b"somesalt", memory_kib=65536, passes=2, lanes=1)
        assert derived.hex() == answer
        assert hash_secret_raw(b"password", b"somesalt", 2, 65536, 1, 32, Type.ID).hex() == answer

    def test_the_key_id_is_that_of_libsodium(self) -> None:
        hashed = sodium.crypto_generichash_blake2b_salt_personal(
            b"synckit_notify key id", digest_size=8, key=reference.KEY
        )
        assert reference.key_id(reference.KEY) == hashed

    @pytest.mark.thorough
    def test_makes_the_files(self) -> None:
        for file, content in reference.files().items():
            assert file.read_text() == content, f"run python -m {reference.__name__}"


@each("encryption", "data")
def test_a_ciphertext_opens(case: Case) -> None:
    assert cipher(case).open(EntryContext(**case["context"]), case["ciphertext"]) == case["data"]


@each("encryption", "nonce")
def test_the_sdk_makes_the_same_ciphertext(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    not_random(monkeypatch, bytes.fromhex(case["nonce"]))
    monkeypatch.setattr(encryption.json_text, "encode", lambda data, separators: case["plain"])
    assert cipher(case).seal(EntryContext(**case["context"]), case["data"]) == case["ciphertext"]


@each("encryption", "refused")
def test_a_ciphertext_is_refused(case: Case) -> None:
    with pytest.raises(Unreadable) as raised:
        cipher(case).open(EntryContext(**case["context"]), case["ciphertext"])
    assert type(raised.value) is {reference.UNREADABLE: Unreadable, reference.LOCKED: Locked}[case["refused"]]


@each("envelopes", "keys")
def test_an_envelope_opens(case: Case) -> None:
    opened = opened_envelope(case)
    assert opened.newest_key.hex() == case["keys"][0]
    assert opened.key_ids == cipher(case).key_ids


@each("envelopes", "wrapping_key")
def test_the_sdk_makes_the_same_envelope(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    public = json.loads(case["envelope"])
    for name, member in (("MEMORY_KIB", "memory_kib"), ("PASSES", "passes"), ("LANES", "lanes")):
        monkeypatch.setattr(encryption, name, public[member])
    assert encryption._wrapping_key(public, case["passphrase"]).hex() == case["wrapping_key"]
    chosen = [base64.b64decode(public[name]) for name in ("salt", "nonce", "older") if name in public]
    not_random(monkeypatch, *chosen[:2], *(each[:24] for each in chosen[2:]))
    assert cipher(case).wrap(case["app"], case["user"], case["passphrase"]) == case["envelope"]


@each("envelopes", "refused")
def test_an_envelope_is_refused(case: Case) -> None:
    with pytest.raises(InvalidEnvelope) as raised:
        opened_envelope(case)
    assert type(raised.value) is {reference.INVALID: InvalidEnvelope, reference.WRONG_KEY: WrongKey}[case["refused"]]


@each("values", "json")
def test_a_value_has_this_json(case: Case, sql: sqlite3.Connection) -> None:
    found = value(sql, case["sql"])
    assert json.dumps(to_json(found)) == json.dumps(case["json"])
    again = from_json(case["json"])
    assert (type(again), again) == (type(found), found)


@each("values", "read", "sql")
def test_the_json_of_another_writer_is_this_value(case: Case, sql: sqlite3.Connection) -> None:
    found = value(sql, case["sql"])
    assert (type(from_json(case["read"])), from_json(case["read"])) == (type(found), found)


@each("values", "refused")
def test_json_that_is_no_value_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="must"):
        from_json(case["read"])


@each("row-ids", "key")
def test_a_key_has_this_row_id(case: Case, sql: sqlite3.Connection) -> None:
    key = tuple(value(sql, expression) for expression in case["key"])
    assert row_id_of(key, case["types"]) == case["row_id"]
    again = key_of(case["row_id"], case["types"])
    assert ([*map(type, again)], again) == ([*map(type, key)], key)


@each("row-ids", "refused")
def test_a_row_id_of_no_key_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match=r"must|surrogates"):
        key_of(case["row_id"], case["types"])


@each("one-order", "order_at")
def test_a_timestamp_has_this_order(case: Case) -> None:
    """As the backend computes it, and as FakeServer answers it."""
    own, received = (request_fields.microseconds(case[name]) for name in ("timestamp", "received_at"))
    assert own is not None
    assert received is not None
    assert request_fields.rfc3339(min(own, received)) == case["order_at"]
    pushed, pulled = push_to_a_fake_server(case["timestamp"], datetime.fromisoformat(case["received_at"]))
    assert (pushed, pulled["order_at"], pulled["received_at"]) == (200, case["order_at"], case["received_at"])


@each("one-order", "timestamp", "refused")
def test_a_timestamp_is_refused(case: Case) -> None:
    assert request_fields.microseconds(case["timestamp"]) is None
    assert push_to_a_fake_server(case["timestamp"], datetime.fromisoformat("2026-01-31T12:00:00Z"))[0] == 422


def push_to_a_fake_server(timestamp: str, now: datetime) -> tuple[int, Any]:
    """Push one change; return the status, and the change as it is pulled."""
    server = FakeServer(clock=FakeClock(now))
    with httpx2.Client(transport=server, base_url=f"{testing.URL}/api/sync") as http:
        login = {"api_key": testing.API_KEY, "email": testing.EMAIL, "password": testing.PASSWORD}
        http.headers["Authorization"] = f"Bearer {http.post('/auth', json=login).json()['token']}"
        device = http.post("/devices", json={"device_name": "Laptop", "platform": "linux"}).json()["id"]
        entry = {"table": "tasks", "op": "INSERT", "row_id": "1", "timestamp": timestamp, "data": "x"}
        pushed = http.post("/push", json={"device_id": device, "changes": [entry]})
        pulled = http.post("/pull", json={"device_id": device, "cursor": 0}).json()
        return pushed.status_code, next(iter(pulled["changes"]), None)


@each("one-order", "ordered")
def test_the_last_in_the_one_order_wins(case: Case, tmp_path: Path) -> None:
    """In whatever order a store gets them."""
    changes = [
        PulledChange(
            "tasks",
            "UPDATE",
            "a",
            datetime.fromisoformat(change["order_at"]),
            {"title": str(number), "done": 0},
            change["seq"],
            change["device_id"],
            datetime.fromisoformat("2026-01-31T12:00:00Z"),
            datetime.fromisoformat(change["order_at"]),
        )
        for number, change in enumerate(case["ordered"])
    ]
    for number, way in enumerate(itertools.permutations(changes)):
        folder = tmp_path / str(number)
        folder.mkdir()
        pair = Pair(folder)
        pair.laptop.store.apply([*way], Position("e1", len(way), is_complete=True))
        assert pair.laptop.rows("tasks") == [("a", str(len(changes) - 1), 0)]
        pair.close()


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.json")), ids=lambda file: file.stem)
def test_a_file_is_described_and_has_only_members_that_are(file: Path) -> None:
    told = prose(FOLDER.parent / "README.md")
    assert f"`cases/{file.name}`" in told
    assert {name for case in load(file.stem) for name in case if f"`{name}`" not in told} == set()
