"""Apache with mod_wsgi, serving a small host in a daemon process of fifteen threads."""

import importlib.util
import os
import shutil
import socket
from pathlib import Path

from ..conftest import need
from .server import Server
from .tokens import KEY

MODULES = Path("/usr/lib/apache2/modules")

HOST = f"""\
from flask import Flask
from synckit_notify import Notifier

application = Flask("host")
application.config["SYNCKIT_JWT_KEY"] = {KEY!r}
notifier = Notifier(application)


@application.post("/push/notes/alice")
def push():
    notifier.publish("notes", "alice")
    return "announced"
"""
IMPORTED = ("flask", "werkzeug", "jinja2", "markupsafe", "click", "itsdangerous", "blinker", "jwt", "synckit_notify")

CONFIGURATION = """\
ServerRoot {folder}
ServerName localhost
PidFile {folder}/pid
Mutex file:{folder}
Listen 127.0.0.1:{port}
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule wsgi_module {modules}/mod_wsgi.so
{user}
ErrorLog /dev/stderr
WSGIPassAuthorization On
WSGISocketPrefix {folder}/wsgi
WSGIDaemonProcess host threads=15 python-path={folder}
WSGIScriptAlias / {folder}/host.wsgi process-group=host application-group=%{{GLOBAL}}
<Directory {folder}>
    Require all granted
</Directory>
"""


def apache(folder: Path) -> Server:
    """Start Apache in a folder that becomes readable for all.

    The daemon process is never root, so it gets a copy of what it imports.
    """
    program = need("apache2", Path("/usr/sbin"))
    if not (MODULES / "mod_wsgi.so").exists():
        need("mod_wsgi")
    for name in IMPORTED:
        spec = importlib.util.find_spec(name)
        assert spec is not None
        shutil.copytree(Path(str(spec.origin)).parent, folder / name)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    user = "User www-data\nGroup www-data" if os.geteuid() == 0 else ""
    configuration = CONFIGURATION.format(folder=folder, port=port, modules=MODULES, user=user)
    (folder / "httpd.conf").write_text(configuration)
    (folder / "host.wsgi").write_text(HOST)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755)
    words = ["apache2", "-f", f"{folder}/httpd.conf", "-DFOREGROUND"]
    run = f"import os; print('port', {port}, flush=True); os.execv({program!r}, {words!r})"
    return Server(["-c", run], folder, r"port (\d+)[\s\S]*resuming normal operations")
