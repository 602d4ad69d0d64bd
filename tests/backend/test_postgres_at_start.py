"""PostgreSQL when the service starts: an unavailable server does not stop it, a wrong database does."""

import socket
import sys
from collections.abc import Callable

import pytest

from synckit_notify import ConfigurationError
from synckit_notify.backend import create_app

from ..support.backend import readiness, settings
from ..support.postgresql import PostgreSQL

pytestmark = pytest.mark.thorough


@pytest.fixture
def url(postgresql: PostgreSQL) -> str:
    """An empty database."""
    return postgresql.emptied()


class TestAServerThatIsUnavailableAtTheStart:
    """The service starts, and its log has the reason in one line."""

    @pytest.fixture
    def reason(self, caplog: pytest.LogCaptureFixture) -> Callable[[str], str]:
        """Start on a URL; return the log's line."""

        def reason(url: str) -> str:
            app = create_app(settings(url))
            line = [record.message for record in caplog.records if "the service starts without" in record.message][-1]
            assert "secret" not in caplog.text
            assert readiness(app) == (503, False)
            app.extensions["synckit_backend"].store.dispose()
            return line

        return reason

    def test_refuses_the_connection(self, reason: Callable[[str], str]) -> None:
        words = reason("postgresql://somebody:secret@127.0.0.1:1/synckit")
        assert "answers 503 until it is available: the database is unavailable or busy: connection failed" in words
        assert "\n" not in words

    def test_has_no_such_database(self, reason: Callable[[str], str], postgresql: PostgreSQL) -> None:
        assert 'database "nowhere" does not exist' in reason(postgresql.url("nowhere"))
        with postgresql.connect() as connection:
            connection.execute("CREATE ROLE nobody NOLOGIN")
            assert "not permitted to log in" in reason(postgresql.url().replace("synckit", "nobody", 1))
            connection.execute("DROP ROLE nobody")

    def test_has_an_unknown_host_name(self, reason: Callable[[str], str]) -> None:
        assert "failed to resolve host" in reason("postgresql://somebody:secret@nowhere.invalid/synckit")

    def test_has_too_many_clients(self, reason: Callable[[str], str], postgresql: PostgreSQL) -> None:
        with postgresql.connect() as connection:
            connection.execute("CREATE DATABASE narrow CONNECTION LIMIT 0")
            connection.execute("CREATE ROLE somebody LOGIN")
            assert "too many connections" in reason(postgresql.url("narrow").replace("synckit", "somebody", 1))
            connection.execute("DROP ROLE somebody")
            connection.execute("DROP DATABASE narrow")

    def test_does_not_answer(self, reason: Callable[[str], str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            url = f"postgresql://somebody:secret@127.0.0.1:{port}/synckit?connect_timeout=2"
            assert "timeout" in reason(url)

    def test_does_not_allow_us_to_create_tables(
        self, reason: Callable[[str], str], postgresql: PostgreSQL, bare: str
    ) -> None:
        with postgresql.connect() as connection:
            connection.execute("CREATE ROLE somebody LOGIN")
            assert "permission denied for schema public" in reason(bare.replace("synckit", "somebody", 1))
            connection.execute("DROP ROLE somebody")


class TestAServerThatCannotBeUsed:
    """create_app raises one sentence with the reason and without the password."""

    def refusal(self, url: str) -> str:
        with pytest.raises(ConfigurationError) as refusal:
            create_app(settings(url))
        assert "secret" not in str(refusal.value)
        return str(refusal.value)

    @pytest.mark.parametrize("url", ["postgresql://u:secret@h/d?no_such_option=1", "postgresql://u:secret@a..b/d"])
    def test_has_a_url_that_cannot_be_read(self, url: str) -> None:
        assert "SYNCKIT_DATABASE_URL" in self.refusal(url)

    def test_has_another_encoding(self, postgresql: PostgreSQL) -> None:
        with postgresql.connect() as connection:
            connection.execute("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0")
            assert "must be created with ENCODING 'UTF8'" in self.refusal(postgresql.url("latin"))
            connection.execute("DROP DATABASE latin")

    def test_needs_psycopg_which_is_missing(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(sys.modules, "synckit_notify.backend.database.postgres")
        monkeypatch.delattr("synckit_notify.backend.database.postgres")
        monkeypatch.setitem(sys.modules, "psycopg", None)
        assert "install it with: pip install 'synckit-notify[postgres]'" in self.refusal(url)
