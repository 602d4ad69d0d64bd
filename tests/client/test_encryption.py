"""Only devices of the account can read or write a change, and only in its context."""

import base64
import hashlib
import json
from dataclasses import replace

import nacl.bindings as sodium
import pytest

from synckit_notify.client import encryption
from synckit_notify.client.encryption import (
    Cipher,
    EntryContext,
    Locked,
    Unreadable,
    WrongKey,
    new_cipher,
    newest_key_id,
    unwrap,
    unwrap_with_key,
)
from synckit_notify.client.errors import InvalidEnvelope

FIRST_RELEASE = "AZqsWihaQGduGsrb3AhicnCRW0MPLfTM7UvTZxFsBVt2cjV6MLsgHdrcOx6Hc06qPS1WPA7du0tATqB7ytMhKbA="
FIRST_ENVELOPE = (
    '{"kdf":"argon2id","lanes":1,"memory_kib":65536,"nonce":"ZSuouJ0jjpN/ChMiELvO0zonBA2QNaZW","passes":3,"salt":'
    '"OnlgcSf0UKDVZQuvTnOcR34LWF2FzUbpYYBSBdqYGyg=","version":1,"wrapped":'
    '"/ykRVsLhwm7pCRYulR/0nrpXQShd/0o1pNv+0X/LLv5zaujcF5s+iQ2L9mtOut5Y"}'
)
HERE = EntryContext("notes", "alice", "tasks", "row 1", "INSERT", "2026-11-23T12:00:00Z")


@pytest.fixture(scope="module")
def cipher() -> Cipher:
    return new_cipher()


@pytest.fixture(scope="module")
def envelope(cipher: Cipher) -> str:
    return cipher.wrap("notes", "alice", "correct horse")


def test_the_published_vector_of_xchacha20_poly1305() -> None:
    """draft-irtf-cfrg-xchacha-03, appendix A.3.1."""
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    sealed = bytes.fromhex(
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )
    associated = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    nonce = bytes(range(0x40, 0x58))
    key = bytes(range(0x80, 0xA0))
    assert sodium.crypto_aead_xchacha20poly1305_ietf_encrypt(plain, associated, nonce, key) == sealed
    assert sodium.crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, associated, nonce, key) == plain


@pytest.mark.parametrize("data", [None, True, 0, "", "é\u0000\U0001f600", [1, [2]], {"title": "milk", "n": 1.5}])
def test_what_is_sealed_opens_again(cipher: Cipher, data: object) -> None:
    assert cipher.open(HERE, cipher.seal(HERE, data)) == data


@pytest.mark.parametrize("data", [float("nan"), float("inf"), object(), {1, 2}, b"bytes"])
def test_data_that_is_not_json_is_refused(cipher: Cipher, data: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        cipher.seal(HERE, data)


def test_the_same_data_never_looks_the_same(cipher: Cipher) -> None:
    assert len({cipher.seal(HERE, "same") for _ in range(100)}) == 100


def test_every_altered_byte_of_a_ciphertext_is_refused(cipher: Cipher) -> None:
    text = cipher.seal(HERE, {"title": "milk"})
    for position in range(len(text)):
        for other in "A", "z", "=", "\n", "é":
            if text[position] != other:
                with pytest.raises(Unreadable):
                    cipher.open(HERE, text[:position] + other + text[position + 1 :])


@pytest.mark.parametrize("cut", [0, 1, 12, 43, 44, 60, -1, -4])
def test_a_shortened_ciphertext_is_refused(cipher: Cipher, cut: int) -> None:
    with pytest.raises(Unreadable):
        cipher.open(HERE, cipher.seal(HERE, "x")[:cut])


@pytest.mark.parametrize("field", ["app", "user", "table", "row_id", "op", "timestamp"])
def test_a_ciphertext_can_only_be_decrypted_in_its_context(cipher: Cipher, field: str) -> None:
    with pytest.raises(Unreadable):
        cipher.open(replace(HERE, **{field: "elsewhere"}), cipher.seal(HERE, "x"))


def test_two_contexts_never_have_the_same_encoding(cipher: Cipher) -> None:
    text = cipher.seal(replace(HERE, table="ab", row_id="c"), "x")
    with pytest.raises(Unreadable):
        cipher.open(replace(HERE, table="a", row_id="bc"), text)


@pytest.mark.parametrize("forged", [None, "", "AAAA", "no base64!", "null"])
def test_a_deletion_that_nobody_encrypted_is_refused(cipher: Cipher, forged: str | None) -> None:
    with pytest.raises(Unreadable):
        cipher.open(replace(HERE, op="DELETE"), forged)


def test_the_key_of_another_account_decrypts_nothing(cipher: Cipher) -> None:
    with pytest.raises(Locked):
        new_cipher().open(HERE, cipher.seal(HERE, "x"))


def test_a_ciphertext_says_which_key_it_needs(cipher: Cipher) -> None:
    """The key id is readable and authenticated, so a readable change cannot be made to look locked."""
    raw = base64.b64decode(cipher.seal(HERE, "x"))
    assert {raw[1:9].hex()} == cipher.key_ids
    assert cipher.key_ids.isdisjoint(new_cipher().key_ids)


def test_a_ciphertext_of_the_first_release_still_opens() -> None:
    """Encrypted before release 0.1.0 with this key; a change of the format needs a new version byte."""
    text = FIRST_RELEASE
    assert Cipher(bytes(range(32))).open(HERE, text) == {"title": "milk"}


@pytest.mark.parametrize("plain", [b"{", b"NaN", b'"\\ud800"', b'"\xff"', b"[" * 101 + b"]" * 101, b"9" * 5000, b""])
def test_sealed_data_that_is_not_json_is_unreadable(
    cipher: Cipher, plain: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device of the account encrypted it, so only its content is invalid."""

    class Sealed(str):
        def encode(self, *_: str) -> bytes:
            return plain

    monkeypatch.setattr(encryption.json_text, "encode", lambda data, separators: Sealed())
    text = cipher.seal(HERE, None)
    with pytest.raises(Unreadable, match="its data") as raised:
        cipher.open(HERE, text)
    assert not isinstance(raised.value, Locked)


def test_the_passphrase_opens_the_envelope(cipher: Cipher, envelope: str) -> None:
    assert unwrap(envelope, "notes", "alice", "correct horse").open(HERE, cipher.seal(HERE, "x")) == "x"
    assert len(envelope) < 4096


def test_accents_may_be_encoded_differently_in_a_passphrase(cipher: Cipher) -> None:
    envelope = cipher.wrap("notes", "alice", "caf\u00e9")
    assert unwrap(envelope, "notes", "alice", "cafe\u0301")


@pytest.mark.parametrize(
    ("app", "user", "passphrase"),
    [
        ("notes", "alice", "wrong horse"),
        ("notes", "alice", ""),
        ("notes", "alice", "\ud800"),
        ("tasks", "alice", "correct horse"),
        ("notes", "bob", "correct horse"),
    ],
)
def test_nothing_but_the_passphrase_opens_the_envelope(envelope: str, app: str, user: str, passphrase: str) -> None:
    with pytest.raises(InvalidEnvelope):
        unwrap(envelope, app, user, passphrase)


def test_every_altered_byte_of_an_envelope_is_refused(envelope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cheap key derivation is used, which still depends on every input."""

    def cheap(secret: bytes, salt: bytes, **cost: object) -> bytes:
        return hashlib.blake2b(repr((secret, salt, cost)).encode(), digest_size=32).digest()

    monkeypatch.setattr(encryption, "hash_secret_raw", cheap)
    cheap_envelope = new_cipher().wrap("notes", "alice", "correct horse")
    assert unwrap(cheap_envelope, "notes", "alice", "correct horse")
    for position in range(len(cheap_envelope)):
        for other in "A", "9", " ", '"', "é":
            if cheap_envelope[position] != other:
                altered = cheap_envelope[:position] + other + cheap_envelope[position + 1 :]
                with pytest.raises(InvalidEnvelope):
                    unwrap(altered, "notes", "alice", "correct horse")


class TestSeveralKeys:
    @pytest.fixture(autouse=True)
    def _quick(self, quick_passphrases: None) -> None:
        """Derive keys with a fast hash."""

    def test_a_rotated_cipher_reads_old_and_new_and_encrypts_with_the_new_key(self, cipher: Cipher) -> None:
        rotated = cipher.rotated()
        assert rotated.key_ids == cipher.key_ids | {rotated.newest_id}
        assert rotated.open(HERE, cipher.seal(HERE, "old")) == "old"
        with pytest.raises(Locked):
            cipher.open(HERE, rotated.seal(HERE, "new"))

    def test_the_key_id_of_a_ciphertext_cannot_be_exchanged(self, cipher: Cipher) -> None:
        rotated = cipher.rotated()
        raw = base64.b64decode(rotated.seal(HERE, "x"))
        for key_id in map(bytes.fromhex, rotated.key_ids - {rotated.newest_id}):
            with pytest.raises(Unreadable) as raised:
                rotated.open(HERE, base64.b64encode(raw[:1] + key_id + raw[9:]).decode())
            assert not isinstance(raised.value, Locked)

    def test_the_passphrase_or_the_newest_key_opens_all_keys_of_an_envelope(self, cipher: Cipher) -> None:
        rotated = cipher.rotated().rotated()
        envelope = rotated.wrap("notes", "alice", "second")
        for opened in (
            unwrap(envelope, "notes", "alice", "second"),
            unwrap_with_key(envelope, "notes", "alice", rotated.newest_key),
        ):
            assert (opened.key_ids, opened.newest_id) == (rotated.key_ids, rotated.newest_id)
        assert newest_key_id(envelope) == rotated.newest_id

    def test_an_older_key_opens_nothing(self, cipher: Cipher) -> None:
        envelope = cipher.rotated().wrap("notes", "alice", "second")
        for key in cipher.newest_key, new_cipher().newest_key:
            with pytest.raises(WrongKey):
                unwrap_with_key(envelope, "notes", "alice", key)

    @pytest.mark.parametrize(("app", "user"), [("tasks", "alice"), ("notes", "bob")])
    def test_the_older_keys_belong_to_the_account(self, cipher: Cipher, app: str, user: str) -> None:
        rotated = cipher.rotated()
        with pytest.raises(InvalidEnvelope):
            unwrap_with_key(rotated.wrap("notes", "alice", "second"), app, user, rotated.newest_key)

    def test_every_altered_byte_of_the_older_keys_is_refused(self, cipher: Cipher) -> None:
        rotated = cipher.rotated()
        envelope = rotated.wrap("notes", "alice", "second")
        older = json.loads(envelope)["older"]
        start = envelope.index(older)
        for position in range(start, start + len(older), 7):
            altered = envelope[:position] + ("A" if envelope[position] != "A" else "B") + envelope[position + 1 :]
            with pytest.raises(InvalidEnvelope):
                unwrap_with_key(altered, "notes", "alice", rotated.newest_key)


def test_an_envelope_from_before_keys_could_be_rotated_still_opens() -> None:
    opened = unwrap(FIRST_ENVELOPE, "notes", "alice", "correct horse")
    assert opened.newest_key == bytes(range(32))
    assert unwrap_with_key(FIRST_ENVELOPE, "notes", "alice", bytes(range(32))).key_ids == opened.key_ids
    assert newest_key_id(FIRST_ENVELOPE) is None


WRONG_ENVELOPES = {
    "no JSON": lambda e: "hello",
    "a list": lambda e: "[]",
    "empty": lambda e: "{}",
    "nested deeply": lambda e: "[" * 4000,
    "too long": lambda e: json.dumps({"pad": "x" * 5000}),
    "another version": lambda e: e.replace('"version":1', '"version":2'),
    "another derivation": lambda e: e.replace("argon2id", "argon2d"),
    "more memory than a phone has": lambda e: e.replace('"memory_kib":65536', '"memory_kib":999999999'),
    "weaker memory": lambda e: e.replace('"memory_kib":65536', '"memory_kib":8'),
    "weaker passes": lambda e: e.replace('"passes":3', '"passes":1'),
    "passes without end": lambda e: e.replace('"passes":3', '"passes":1000000'),
    "a bool as number": lambda e: e.replace('"lanes":1', '"lanes":true'),
    "white space": lambda e: e.replace(":", ": "),
}


@pytest.mark.parametrize("damage", WRONG_ENVELOPES)
def test_an_envelope_of_another_format_is_refused_before_the_key_is_derived(
    envelope: str, damage: str, monkeypatch
) -> None:
    monkeypatch.setattr(encryption, "hash_secret_raw", None)  # it must not come that far
    with pytest.raises(InvalidEnvelope):
        unwrap(WRONG_ENVELOPES[damage](envelope), "notes", "alice", "correct horse")


def test_neither_key_nor_passphrase_is_in_a_repr(cipher: Cipher, envelope: str) -> None:
    assert "Cipher object" in repr(cipher)
    assert "correct horse" not in envelope
