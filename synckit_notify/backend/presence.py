"""Who is connected, in whichever process: asked in the database, answered by each process at its next sweep.

    ask ──▶ a question ── seen at the sweep ──▶ answer, one row per process ── heard ──▶ forget, question and answers

What all processes have in common is the database, with memory:// as with Redis, and while streams are open each reads
it every few seconds anyway (`changed_channels`). So a question costs one more look, and nothing is written unless
somebody asks. Why not otherwise: a table of who is present, kept up to date by each process, is a write every few
seconds for ever, behind SQLite's one lock; Redis knows nothing of memory://; and `/ready` is answered by whichever
worker happens to accept. A process without streams does not sweep, and has nothing to tell. One that hangs is missing.
"""

import json
import logging
import os
import secrets
import socket
from collections import Counter
from dataclasses import dataclass

from sqlalchemy import Connection, and_, delete, exists, select

from .database.schema import now, roll_calls
from .database.store import Store, upsert

LIFE_MICROSECONDS = 10 * 60 * 1_000_000
"""A question whose command was killed is answered no longer, and gone with the next one."""

MAX_REQUESTS = 3
"""That a process answers in one sweep."""

MAX_REPORTED = 10_000
"""Streams that one process tells of, 1 MB; it counts the others."""

Stream = tuple[str, str, str | None]
"""App, user, device."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Present:
    """What the processes have answered."""

    processes: dict[str, int]
    """How many streams each has."""
    streams: Counter[Stream]


def ask(connection: Connection) -> str:
    """Ask all processes; return the question's id."""
    connection.execute(delete(roll_calls).where(roll_calls.c.asked_at < now() - LIFE_MICROSECONDS))
    question = secrets.token_hex(8)
    connection.execute(roll_calls.insert().values(id=question, process="", asked_at=now(), told=""))
    return question


def unanswered(connection: Connection) -> list[str]:
    """Return the questions that this process has not answered."""
    others = roll_calls.alias()
    mine = exists().where(others.c.id == roll_calls.c.id, others.c.process == _process())
    fresh = and_(roll_calls.c.process == "", roll_calls.c.asked_at >= now() - LIFE_MICROSECONDS, ~mine)
    return list(connection.execute(select(roll_calls.c.id).where(fresh).limit(MAX_REQUESTS)).scalars())


def answer(store: Store, questions: list[str], streams: list[Stream]) -> None:
    """Tell who is connected here; never raises: whoever asks has to do without, the sweep goes on."""
    told = json.dumps({"streams": len(streams), "some": streams[:MAX_REPORTED]})

    def write(connection: Connection) -> None:
        still = roll_calls.select().where(roll_calls.c.id.in_(questions), roll_calls.c.process == "")
        for question in connection.execute(still).all():
            row = {"id": question.id, "process": _process(), "asked_at": question.asked_at, "told": told}
            connection.execute(upsert(connection, roll_calls).values(row).on_conflict_do_nothing())

    try:
        store.write(write)
    except Exception as error:
        log.warning("could not tell who is connected here: %s", type(error).__name__)


def heard(connection: Connection, question: str) -> Present:
    """Return what was answered so far."""
    present = Present({}, Counter())
    answers = select(roll_calls).where(roll_calls.c.id == question, roll_calls.c.process != "")
    for row in connection.execute(answers):
        told = json.loads(row.told)
        present.processes[row.process] = told["streams"]
        present.streams.update(tuple(stream) for stream in told["some"])
    return present


def forget(connection: Connection, question: str) -> None:
    """Take the question back, with its answers."""
    connection.execute(delete(roll_calls).where(roll_calls.c.id == question))


def _process() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
