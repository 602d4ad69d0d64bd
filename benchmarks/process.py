"""This process as the one that loads a server: its core, its descriptors, its signals."""

import argparse
import gc
import os
import resource
import signal

from .server import GENERATOR_CORE


def prepare() -> None:
    """Use the last core only, raise the limit of descriptors, and switch the garbage collector off.

    From now on SIGINT and SIGTERM raise KeyboardInterrupt, so that whatever was started is ended.
    """
    os.sched_setaffinity(0, {GENERATOR_CORE})
    prepare_on_all_cores()


def prepare_on_all_cores() -> None:
    """Do the same, but use any core."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.disable()
    interrupt_on_signals()


def interrupt_on_signals() -> None:
    """Let SIGINT and SIGTERM raise KeyboardInterrupt; a shell starts background jobs with SIGINT ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def check_streams(parser: argparse.ArgumentParser, streams: int, least: int, beside: int) -> None:
    """End the command unless a process here can open `streams` and `beside` more, and at least `least` in all."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1] * 9 // 10 - beside
    if not 3 <= streams <= most or most < least:
        parser.error(f"--streams must be 3 to {most}: every stream takes a file descriptor of this process")
