"""The threads of this package in the process of the tests."""

import threading


def package_threads() -> set[threading.Thread]:
    """Return those that run now; a server of another test may have left some that end a little later."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("synckit-")}
