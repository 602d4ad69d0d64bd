"""The reference backend with access tokens that live TOKEN_SECONDS, for a test that cannot wait an hour."""

import os

from flask import Flask

from synckit_notify.backend import access_tokens, api, create_app
from synckit_notify.backend.oauth import routes as oauth


def create() -> Flask:
    seconds = int(os.environ.get("TOKEN_SECONDS", "3600"))
    access_tokens.Signer.sign.__kwdefaults__["seconds"] = seconds
    api.TOKEN_SECONDS = oauth.TOKEN_SECONDS = seconds
    return create_app(instance_path=os.environ["INSTANCE"])
