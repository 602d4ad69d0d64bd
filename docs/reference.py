"""Build the API reference from the docstrings: `python docs/reference.py [FOLDER]`, after pip install '.[docs]'.

In: the public modules, whose `__all__` says what is public. Out: HTML in FOLDER, by default build/reference. A warning,
such as an annotation that cannot be resolved, is an error.
"""

import sys
import warnings
from importlib import import_module
from pathlib import Path

import pdoc

PUBLIC_MODULES = (
    "synckit_notify",
    "synckit_notify.client",
    "synckit_notify.gunicorn_hooks",
    "synckit_notify.sse",
    "synckit_notify.testing",
)


def main(folder: Path) -> None:
    """Write the reference."""
    warnings.simplefilter("error")
    for name in PUBLIC_MODULES:
        module = import_module(name)
        for public in getattr(module, "__all__", ()):
            setattr(module, public, getattr(module, public))  # pdoc does not see names that load on first use
    pdoc.render.configure(docformat="markdown", show_source=False)
    pdoc.pdoc(*PUBLIC_MODULES, output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/reference"))
