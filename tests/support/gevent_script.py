"""Code that runs under gevent, in a process of its own."""

import subprocess
import sys
import textwrap

from .server import ROOT


def under_gevent(code: str) -> subprocess.CompletedProcess[str]:
    """Run the code in a new process in which gevent has patched the standard library."""
    patched = "from gevent import monkey; monkey.patch_all()\n" + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", patched], capture_output=True, text=True, cwd=ROOT, timeout=60)
