"""Commands in this process, with their two outputs apart."""

import inspect

from click.testing import CliRunner, Result
from flask import Flask


def run_apart(app: Flask, *words: str) -> Result:
    """Run a command of the application; `stdout` and `stderr` of the result have what each got.

    Before click 8.2 both are mixed unless the runner is told otherwise.
    """
    is_old = "mix_stderr" in inspect.signature(CliRunner).parameters
    runner = app.test_cli_runner(mix_stderr=False) if is_old else app.test_cli_runner()
    return runner.invoke(args=["synckit", *words])
