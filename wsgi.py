"""The WSGI application for gunicorn and `flask --app wsgi`: the included server, with its data in instance/."""

from pathlib import Path

import click

from synckit_notify import ConfigurationError
from synckit_notify.backend import create_app

try:
    app = create_app(instance_path=Path(__file__).parent / "instance")
except ConfigurationError as error:
    if click.get_current_context(silent=True) is None:
        raise
    raise click.ClickException(str(error)) from None  # `flask` then prints one sentence instead of a traceback
