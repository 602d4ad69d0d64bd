"""The check of a token in tests: twice, since a token that was accepted takes a shorter way the second time."""

from datetime import UTC, datetime

import pytest

from synckit_notify.errors import InvalidToken
from synckit_notify.tokens import Principal, TokenVerifier


def verified_twice(verifier: TokenVerifier, token: str) -> Principal:
    """Return the Principal of a token; both checks must have the same outcome."""
    try:
        principal = verifier.verify(token, datetime.now(UTC))
    except InvalidToken as refusal:
        with pytest.raises(InvalidToken) as second:
            verifier.verify(token, datetime.now(UTC))
        assert str(second.value) == str(refusal)
        raise
    assert verifier.verify(token, datetime.now(UTC)) == principal
    return principal
