"""A database of an older release with many changes: how long a start takes, and what it costs to find the winners.

    CHANGES=1000000 pytest -s -m thorough tests/backend/test_many_changes.py

prints the figures for a million changes, and takes some minutes.
"""

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import create_engine, text

from synckit_notify.backend import create_app

from ..support.backend import change, settings
from ..support.tokens import make_token

pytestmark = pytest.mark.thorough

CHANGES, ROWS = int(os.environ.get("CHANGES", "50000")), 10_000

MAX_BOOT_SECONDS = 10.0
"""It takes milliseconds; whatever read all changes would take longer on a machine that is busy."""

MAX_PUSH_SECONDS = 10.0
"""A push waits for the lock of one batch."""

NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 3 UNION ALL SELECT i + 1 FROM n WHERE i < :most)",
    "postgresql": "WITH n(i) AS (SELECT generate_series(3, :most))",
}
FILL = """
    INSERT INTO changes
        (app_id, user_id, seq, device_id, table_name, op, row_id, timestamp, data, received_at)
    {numbers}
    SELECT 'notes', 'alice', i, 'laptop', 'tasks', 'UPDATE', 'row ' || (i % :rows), '2023-11-14T22:13:20.123456Z',
        'ciphertext ciphertext ciphertext ciphertext ciphertext ciphertext ciphertext', 1700000000000000 + i
    FROM n
"""


@pytest.fixture
def url(database: dict[str, str], request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of schema version 3 or 4 with many changes of one account."""
    url = request.getfixturevalue("bare") if database else f"sqlite:///{tmp_path}/some.db"
    script = (Path(__file__).parent / "schema_of_version_3.sql").read_text()
    statements = [statement for statement in script.split(";\n") if statement.strip()]
    if request.param == 4:
        statements += ["ALTER TABLE devices ADD COLUMN last_seen_at BIGINT", "UPDATE meta SET schema_version = 4"]
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))  # without the limits of Store
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
        numbers = {"most": CHANGES, "rows": ROWS}
        connection.execute(text(FILL.format(numbers=NUMBERS[connection.dialect.name])), numbers)
        connection.execute(text("UPDATE heads SET seq = :most, changed_at = 1700000001000000"), {"most": CHANGES})
    engine.dispose()
    return url


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


@pytest.mark.parametrize("url", [3, 4], indirect=True)
def test_a_start_does_not_read_them_and_pushes_go_on_while_winners_are_found(url: str) -> None:
    boot, app = timed(lambda: create_app(settings(url)))
    assert boot < MAX_BOOT_SECONDS
    with ThreadPoolExecutor(1) as pool:
        words = ["synckit", "app", "set", "notes", "--log", "rows"]
        setting = pool.submit(timed, lambda: app.test_cli_runner().invoke(args=words))
        waits = []
        while not setting.done():
            waits.append(push(app, len(waits)))
            time.sleep(0.02)
        found, result = setting.result()
    assert result.exit_code == 0, result.output
    assert max(waits) < MAX_PUSH_SECONDS
    first_pull, (rows, pages) = timed(lambda: pull_all(app))
    assert rows == ROWS + 1 + len(waits)  # the row of the script has a name of its own
    assert pages == rows // 500 + 1
    waits.sort()
    print(
        f"\n{url.partition(':')[0]}, {CHANGES} changes: start {boot:.2f} s; winners found in {found:.1f} s, meanwhile "
        f"{len(waits)} pushes of p50 {1000 * waits[len(waits) // 2]:.0f} ms, at most {1000 * waits[-1]:.0f} ms; "
        f"{rows} rows pulled with latest in {pages} pages, {first_pull:.1f} s"
    )
    app.extensions["synckit_backend"].store.dispose()


def push(app: Flask, number: int) -> float:
    """Push a new row, and return how long that took."""
    body = {"device_id": "phone", "changes": [change(f"new {number}")]}
    headers = {"Authorization": f"Bearer {make_token('alice')}"}
    took, response = timed(lambda: app.test_client().post("/api/sync/push", json=body, headers=headers))
    assert response.status_code == 200, response.text
    return took


def pull_all(app: Flask) -> tuple[int, int]:
    """Pull with `latest` from the start, and return the numbers of rows and of pages."""
    headers = {"Authorization": f"Bearer {make_token('alice')}"}
    rows, pages, cursor, has_more = 0, 0, 0, True
    while has_more:
        body = {"device_id": "phone", "cursor": cursor, "latest": True}
        page = app.test_client().post("/api/sync/pull", json=body, headers=headers).get_json()
        rows, pages, cursor, has_more = rows + len(page["changes"]), pages + 1, page["cursor"], page["has_more"]
    return rows, pages
