"""Where a host's `gunicorn.conf.py` finds `attach`, as docs/deployment.md says."""

from .wsgi_server import attach as attach
