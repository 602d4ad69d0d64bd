"""What runs in a torture: one broker, two servers on one database, networks, and a client process behind each network.

    with Site(folder, plan) as site:
        site.servers[0].kill() ...     the faults of `chaos`
        site.clock.step(60)            the clock of all servers
        site.messages                  a queue of the devices' messages
        site.new_rows()                the rows that were committed since the last call

Every process has its own process group, and all groups are killed at the end in any case.
"""

import queue
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, exc, text
from sqlalchemy.pool import NullPool

from synckit_notify.backend import create_app
from tests.support.broker_servers import running
from tests.support.clock import Clock
from tests.support.postgresql import PostgreSQL
from tests.support.server import clean_environment

from ..server import ROOT
from .devices import DeviceSettings, Order
from .ledger import Row
from .network import Network
from .processes import APPLICATION, STARTS_WITHIN, Client, Server

SERVERS = 2
WORKERS = 2
KEEPALIVE_SECONDS = 1.0
"""Short, so that the SDK's watchdog notices a dead stream within 2.5 s."""

TOKEN_SECONDS = 120
"""Short, so that tokens are renewed about every minute and a half."""

STORE_EDITS_PER_SECOND = 1.0
"""How often the app of each device with a store writes a transaction."""

PASSWORD = "correct horse battery"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The sizes and rates of a run."""

    seconds: float
    devices: int
    users: int
    networks: int
    pushes_per_second: float
    seed: int
    stores: int = 0
    """How many devices there are besides whose apps keep their rows in a SQLite file; all of one more user."""
    parked: bool = False
    postgresql: bool = True
    """Whether the database is PostgreSQL; else SQLite."""
    broker: str = "redis"

    def residents(self) -> dict[str, tuple[int, int]]:
        """Return (user's number, network) of each device. A user's devices are on different networks."""
        return {f"device-{n}": (n % self.users, n // self.users % self.networks) for n in range(self.devices)}

    def stores_at(self, network: int) -> list[str]:
        """Return the names of the devices with a store on a network."""
        return [f"store-{n}" for n in range(self.stores) if n % self.networks == network]

    def pace(self, user: int) -> float:
        """Return the pushes per second of each device of a user; each user pushes half as often as the last.

        So some changes are followed by none for so long that a lost notice is found.
        """
        devices = sum(owner == user for owner, _ in self.residents().values())
        share = 0.5**user / sum(0.5**n for n in range(self.users))
        return self.pushes_per_second * share / devices


class Site:
    """All processes of a run; a context manager that starts and kills them."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self.messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self.clock = Clock(folder)
        self._plan = plan
        self._postgresql = PostgreSQL("max_connections=100") if plan.postgresql else None
        self._database_url = self._postgresql.url() if self._postgresql else f"sqlite:///{folder}/synckit.db"
        self._engine = create_engine(
            self._database_url.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool
        )
        self._stack = ExitStack()
        self.broker = self._stack.enter_context(running(plan.broker, folder))
        self._last_seqs: dict[str, int] = {}
        self._looked_at = 0.0
        self._env = env = self._environment()
        self.servers = [Server(folder, f"server-{n}", env) for n in range(SERVERS)]
        self.networks: list[Network] = []
        self.clients: list[Client] = []

    def __enter__(self) -> "Site":
        try:
            api_keys, users = self._accounts()
            self._start(api_keys, users)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.clients, *self.servers):
            process.kill()
        for network in self.networks:
            network.close()
        self._stack.close()
        if self._postgresql is not None:
            self._postgresql.__exit__()

    def stores(self) -> dict[str, Path]:
        """Return the app's file of each device with a store."""
        networks = range(self._plan.networks)
        return {name: self.folder / f"{name}.db" for n in networks for name in self._plan.stores_at(n)}

    def lock_database(self) -> Callable[[], None]:
        """Take the lock of the writers, like a backup; return the function that releases it."""
        connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text("BEGIN" if self._postgresql else "BEGIN IMMEDIATE"))
        if self._postgresql:
            connection.execute(text("LOCK TABLE heads IN SHARE MODE"))
        return connection.close

    def stop_database(self) -> Callable[[], None]:
        """Kill PostgreSQL; return the function that starts it again."""
        if self._postgresql is None:
            raise RuntimeError("a SQLite file cannot be stopped")
        self._postgresql.stop()
        return self._postgresql.start

    def log_out(self, chance: random.Random) -> str:
        """End all sessions of a user with the backend's command; return the user's address."""
        email = _email(chance.randrange(self._plan.users + (self._plan.stores > 0)))
        command = [sys.executable, "-m", "flask", "--app", APPLICATION, "synckit", "user", "logout", email]
        env = clean_environment() | {"PYTHONPATH": str(ROOT)} | self._env
        subprocess.run(command, cwd=self.folder, env=env, capture_output=True, check=True, timeout=STARTS_WITHIN)
        return email

    def new_rows(self) -> list[Row]:
        """Return what was committed since the last call, in the order of each user's log; nothing without a database.

        A server's clock may be wrong, so a row's time is limited to the time between both calls.
        """
        query = text(
            "SELECT user_id, seq, row_id, device_id, received_at FROM changes "
            "WHERE user_id = :user AND seq > :seq ORDER BY seq"
        )
        now, rows = time.time(), list[Any]()
        try:
            with self._engine.connect() as connection:
                for user in self.users:
                    rows += connection.execute(query, {"user": user, "seq": self._last_seqs.get(user, 0)}).all()
        except exc.OperationalError:
            return []
        self._last_seqs |= {row.user_id: row.seq for row in rows}
        earliest, self._looked_at = self._looked_at, now
        return [Row(user, seq, row, device, min(max(at / 1e6, earliest), now)) for user, seq, row, device, at in rows]

    def _accounts(self) -> tuple[list[str], list[str]]:
        """Create the database, two apps and the users; return the keys of the apps, and the ids of the users.

        The second app is that of the devices with a store: its log keeps rows. Their user is not among those returned.
        """
        app = create_app(self._env, instance_path=self.folder / "instance")

        def last_word(*words: str) -> str:
            result = app.test_cli_runner().invoke(args=["synckit", *words], catch_exceptions=False)
            if result.exit_code:
                raise RuntimeError(f"flask synckit {words[0]}: {result.output}")
            return str(result.output.split()[-1])

        api_keys = [last_word("app", "add", "torture"), last_word("app", "add", "stores", "--log", "rows")]
        users = [last_word("user", "add", _email(n), "--password", PASSWORD) for n in range(self._plan.users + 1)]
        app.extensions["synckit_backend"].store.dispose()
        return api_keys, users[:-1]

    def _start(self, api_keys: list[str], users: list[str]) -> None:
        self.users = users
        self.devices = {name: (users[user], network) for name, (user, network) in self._plan.residents().items()}
        for server in self.servers:
            server.start()
        for n in range(self._plan.networks):
            self.networks.append(Network([server.port for server in self.servers]))
            self.clients.append(Client(self.folder, f"client-{n}", n, self._order(n, *api_keys), self.messages))
            self.clients[n].start()

    def _order(self, number: int, api_key: str, stores_key: str) -> Order:
        plan, stores_email = self._plan, _email(self._plan.users)
        return Order(
            url=f"http://127.0.0.1:{self.networks[number].port}",
            password=PASSWORD,
            folder=str(self.folder),
            devices=[
                DeviceSettings(name, _email(user), plan.pace(user), api_key)
                for name, (user, network) in plan.residents().items()
                if network == number
            ]
            + [
                DeviceSettings(name, stores_email, STORE_EDITS_PER_SECOND, stores_key, has_store=True)
                for name in plan.stores_at(number)
            ],
            seed=plan.seed,
        )

    def _environment(self) -> dict[str, str]:
        return {
            **self.clock.environment,
            "INSTANCE": str(self.folder / "instance"),
            "SYNCKIT_DATABASE_URL": self._database_url,
            "TOKEN_SECONDS": str(TOKEN_SECONDS),
            "SYNCKIT_JWT_KEY": secrets.token_hex(32),
            "SYNCKIT_ENV": "production",
            "SYNCKIT_WORKERS": str(WORKERS),
            "SYNCKIT_WORKER_CONNECTIONS": "500",
            "SYNCKIT_BROKER_URL": self.broker.url,
            "SYNCKIT_KEEPALIVE_SECONDS": str(KEEPALIVE_SECONDS),
            "SYNCKIT_PARKING": str(int(self._plan.parked)),
        }


def _email(user: int) -> str:
    return f"user-{user}@example.org"
