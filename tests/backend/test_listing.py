"""The commands that list: pages of a bounded size, and one JSON object per line."""

import json
from collections.abc import Callable
from typing import NamedTuple

import pytest
from flask import Flask

from synckit_notify.backend import Backend, accounts
from synckit_notify.command_output import MAX_ITEMS

from ..support.backend import SQLITE_ONLY, Run, refused
from ..support.command_runner import run_apart

ALICE = "alice@example.org"
NAMES = ["a\x1b[31m", "b", "b", "c", "d"]
TIMES = ("created_at", "last_seen_at")


def add_apps(run: Run, backend: Backend) -> None:
    for name in NAMES:
        run("app", "add", name)
    run("app", "redirect", "c", "https://c.example.org/done")


def add_users(run: Run, backend: Backend) -> None:
    for name in "caebd":
        run("user", "add", f"{name}@example.org", "--password", "secret")
    run("user", "disable", "b@example.org")


def add_devices(run: Run, backend: Backend) -> None:
    run("user", "add", ALICE, "--password", "secret")

    def register(name: str) -> None:
        backend.store.write(
            lambda connection: accounts.register_device(
                connection,
                "notes",
                accounts.find_user(connection, ALICE),
                name=name,
                platform="web",
                installation_id=name * 3,
            )
        )

    for name in (*NAMES[:2], *NAMES[3:], "e"):
        register(name)


class Listing(NamedTuple):
    """A command that lists five items, and the member of an item that `--after` takes."""

    words: tuple[str, ...]
    fill: Callable[[Run, Backend], None]
    key: str
    members: set[str]


LISTINGS = {
    "apps": Listing(("app", "list"), add_apps, "id", {"id", "name", "log", "users", "changes", "addresses"}),
    "users": Listing(("user", "list"), add_users, "email", {"id", "email", "state", "created_at"}),
    "devices": Listing(
        ("devices", "list", ALICE),
        add_devices,
        "id",
        {"id", "app_id", "app", "device_name", "platform", "created_at", "last_seen_at"},
    ),
}


@pytest.fixture(params=LISTINGS)
def listing(request: pytest.FixtureRequest, run: Run, backend: Backend) -> Listing:
    found = LISTINGS[request.param]
    found.fill(run, backend)
    return found


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["columns", "json"])
def test_the_pages_of_a_list_are_the_list(app: Flask, run: Run, listing: Listing, form: tuple[str, ...]) -> None:
    items = [json.loads(line) for line in run(*listing.words, "--json").splitlines()]
    lines = [line for line in run(*listing.words, *form).splitlines() if not line.startswith(" ")]
    assert len(items) == len(lines) == 5
    pages: list[list[str]] = []
    after: tuple[str, ...] = ()
    while len(pages) < 3:
        result = run_apart(app, *listing.words, "--limit", "2", *form, *after)
        pages.append([line for line in result.stdout.splitlines() if not line.startswith(" ")])
        last = items[min(2 * len(pages), 5) - 1][listing.key]
        assert result.stderr == ("" if len(pages) == 3 else f"There are more: use --after {last}\n")
        after = ("--after", last)
    assert pages == [lines[:2], lines[2:4], lines[4:]]
    assert run(*listing.words, *after) == ""


def test_json_has_all_that_the_columns_have(run: Run, listing: Listing) -> None:
    items = [json.loads(line) for line in run(*listing.words, "--json").splitlines()]
    assert all(item.keys() == listing.members for item in items)
    assert all(item[name].endswith("Z") for item in items for name in TIMES if name in item)
    columns = run(*listing.words)
    assert all(item["id"] in columns for item in items)
    assert "\x1b" not in columns


@SQLITE_ONLY
@pytest.mark.parametrize("limit", ["0", "-1", str(MAX_ITEMS + 1), "x"])
def test_a_page_is_bounded(app: Flask, listing: Listing, limit: str) -> None:
    result = run_apart(app, *listing.words, "--limit", limit)
    assert result.exit_code == 2
    assert "--limit" in result.stderr


def test_apps_go_on_after_an_app_that_exists(app: Flask) -> None:
    assert refused(app, "app", "list", "--after", "nobody") == "Error: there is no app with the id nobody\n"


@SQLITE_ONLY
def test_the_doctor_prints_its_findings_as_json(app: Flask) -> None:
    words = ["synckit", "doctor"]
    plain, found = (app.test_cli_runner().invoke(args=[*words, *form]) for form in ((), ("--json",)))
    findings = [json.loads(line) for line in found.stdout.splitlines()]
    assert all(finding.keys() == {"verdict", "what", "advice"} for finding in findings)
    assert len(findings) == sum(not line.startswith(" ") for line in plain.stdout.splitlines())
    assert found.exit_code == plain.exit_code
