"""What gunicorn and `flask --app wsgi` load: the reference backend, with its data in the clone's instance folder."""

from pathlib import Path

from synckit_notify.backend import create_app

app = create_app(instance_path=Path(__file__).parent / "instance")
