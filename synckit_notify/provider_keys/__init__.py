"""The public keys of an identity provider: one of the settings, or a key set at a URL (JWKS, RFC 7517).

    PublicKey     a key and the algorithms that fit it; read from PEM or from a key set
    KeySet        the keys at a URL: fetched on first use, cached, refreshed in the background
    download      one GET with a deadline, a limit of size and no redirect to another origin

Needs `cryptography`, which the extra `jwks` installs.
"""

from .download import check_url
from .key_set import KeySet
from .public_key import PublicKey, is_installed

__all__ = ["KeySet", "PublicKey", "check_url", "is_installed"]
