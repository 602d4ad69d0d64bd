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


def printed(app: Flask, *words: str) -> str:
    """Run a command that must succeed, and return its stdout: stderr may have lines that other threads log."""
    result = run_apart(app, *words)
    assert result.exit_code == 0, result.stderr or result.output
    return result.stdout.strip()
