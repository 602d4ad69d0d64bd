"""Run as a program: child processes that publish one notice each through a Notifier, and end at once.

    python -m tests.support.short_lived_processes URL METHOD CHILDREN

METHOD is fork, forkserver, spawn, pool, executor, os._exit, flush or billiard.
"""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor

from flask import Flask

from synckit_notify import Notifier


def job(url: str, number: int, flush: bool = False) -> None:
    """Publish one notice, as a task does after its commit."""
    app = Flask("host")
    app.config.update(SYNCKIT_JWT_KEY="an example key of 32 bytes, or more", SYNCKIT_BROKER_URL=url)
    notifier = Notifier(app)
    notifier.publish("notes", number)
    if flush and not notifier.flush(20.0):
        raise RuntimeError("the broker did not take the notice")


def run(url: str, method: str, children: int) -> None:
    """Start the children and wait for all."""
    jobs = [(url, number) for number in range(children)]
    if method in ("os._exit", "flush"):
        for each in jobs:
            if os.fork() == 0:
                job(*each, flush=method == "flush")
                os._exit(0)
        for _ in jobs:
            os.wait()
    elif method == "pool":
        with multiprocessing.get_context("spawn").Pool(2, maxtasksperchild=1) as pool:
            pool.starmap(job, jobs, chunksize=1)
            pool.close()
            pool.join()
    elif method == "executor":
        with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as executor:
            list(executor.map(job, *zip(*jobs, strict=True)))
    else:
        context = __import__("billiard") if method == "billiard" else multiprocessing.get_context(method)
        started = [context.Process(target=job, args=each) for each in jobs]
        for child in started:
            child.start()
        for child in started:
            child.join()
            if child.exitcode:
                raise RuntimeError(f"a child ended with {child.exitcode}")


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2], int(sys.argv[3]))
