"""Write docs/openapi.json, the OpenAPI document of the included server: `python docs/openapi.py [FILE]`.

In: the routes of the server in development, with every optional one. The tests fail if the file is not up to date.
"""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from synckit_notify.backend import create_app
from synckit_notify.backend.openapi import document

SETTINGS = {"SYNCKIT_ENV": "development", "SYNCKIT_URL_PREFIX": "/api/sync", "SYNCKIT_METRICS": "1"}
FILE = Path(__file__).with_name("openapi.json")


def main(file: Path) -> None:
    """Write the document."""
    with TemporaryDirectory() as folder:
        app = create_app(SETTINGS | {"SYNCKIT_DATABASE_URL": f"sqlite:///{folder}/synckit.db"}, instance_path=folder)
        file.write_text(json.dumps(document(app), indent=2) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FILE)
