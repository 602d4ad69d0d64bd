"""The live page in a real browser: what is written on one device comes to the other, whatever happens in between."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..support.backend import start
from ..support.browser import ENTER, TAB, Browser
from ..support.contrast import CONTRASTS, READABLE
from ..support.server import Server

CONNECTED = """
return [...document.querySelectorAll(".state")].every(element => element.dataset.state === "connected")
"""


WITHIN_A_MILLISECOND = """
return (async () => {
    const { Notes, makeKey } = await import("/static/notes.js"), sent = [];
    const notes = new Notes({ key: await makeKey(), onChange() {}, onPushed() {} });
    const push = async (changes) => ({ cursor: sent.push(...changes) });
    notes.device = { running: true, deviceId: "laptop", push };
    const given = (when) => (when.length ? when : [1e12]); // the clock stands still
    window.Date = class extends Date {
        constructor(...when) { super(...given(when)); }
        static now() { return 1e12; }
    };
    notes.write("1", { text: "a" });
    if (notes.waiting.size !== 1) return "nothing waits";
    while (notes.waiting.size) await new Promise((resolve) => setTimeout(resolve));
    notes.write("1", { text: "ab" });
    await notes.apply([{ ...sent[0], seq: 1, device_id: "laptop" }]);
    return notes.rows.get("1").text;
})()
"""


BLANKED = """
return (async () => {
    const { Notes, makeKey } = await import("/static/notes.js");
    const notes = new Notes({ key: await makeKey(), onChange() {}, onPushed() {} });
    notes.device = { deviceId: "laptop" };
    const change = { table: "notes", row_id: "1", timestamp: "2026-01-31T12:00:00Z", device_id: "phone", data: null };
    await notes.apply([{ ...change, seq: 1, op: "UPDATE" }]);
    return [notes.foreign.size, notes.rows.size];
})()
"""


@pytest.fixture
def server(clone: Path) -> Iterator[Server]:
    """A clone at its first start."""
    with start(clone, SYNCKIT_KEEPALIVE_SECONDS="1") as server:
        yield server


@pytest.fixture
def page(chromium: Browser, server: Server) -> Iterator[Browser]:
    """The page with both devices connected; at the end nothing has broken its policy."""
    chromium.look(width=1200)
    chromium.go(f"{server.url}/")
    assert chromium.until(lambda: bool(chromium.run(CONNECTED)))
    yield chromium
    assert [line for line in chromium.console() if "Security Policy" in line or "Uncaught" in line] == []


def notes(page: Browser, device: str) -> list[str]:
    """What a device shows, the newest first."""
    shown: list[str] = page.run(
        f"return [...document.querySelectorAll('#{device} .notes span')].map(e => e.textContent)"
    )
    return shown


def write(page: Browser, device: str, *texts: str) -> None:
    for text in texts:
        page.type(f"#{device}-note", text + ENTER)


def both_show(page: Browser, *expected: str, within: float = 10.0) -> bool:
    """Whether both devices come to show these notes and no others."""
    return page.until(lambda: notes(page, "laptop") == notes(page, "phone") == list(expected), within)


def connected_again(page: Browser) -> bool:
    return page.until(lambda: bool(page.run(CONNECTED)), 20)


@pytest.mark.thorough
def test_what_is_written_on_one_device_is_shown_on_the_other_and_a_cut_connection_loses_nothing(page: Browser) -> None:
    page.type("#laptop-note", "bre")
    assert page.until(lambda: notes(page, "phone") == ["bre"])  # as it is typed
    page.type("#laptop-note", "ad" + ENTER)
    assert both_show(page, "bread")
    assert page.until(lambda: page.text("#phone .shown").endswith(" ms"))
    assert "event: changed" in page.text("#phone .log")
    assert "event: changed" not in page.text("#laptop .log")

    page.tap("#phone .cut")
    assert page.text("#phone .state") == "cut by you"
    write(page, "phone", "written in a tunnel")
    write(page, "laptop", "written at home")
    assert notes(page, "phone") == ["written in a tunnel", "bread"]
    page.tap("#phone .cut")
    assert both_show(page, "written at home", "written in a tunnel", "bread")
    assert page.text("#phone .late") == "1 note pulled after connecting"

    seen = page.run("return document.querySelector('.rows').textContent")
    assert "INSERT notes/" in seen
    assert "bread" not in seen
    assert page.console() == []


@pytest.mark.thorough
def test_notes_are_ticked_and_deleted_on_either_device_and_there_again_after_a_reload(page: Browser) -> None:
    write(page, "laptop", "bread", "milk")
    assert both_show(page, "milk", "bread")
    page.tap("#phone .notes li:first-child input")
    page.tap("#laptop .notes li:last-child button")
    assert both_show(page, "milk")
    assert page.until(lambda: bool(page.run("return document.querySelector('#laptop .notes input').checked")))
    page.go(page.url)
    assert both_show(page, "milk")
    assert page.run("return document.querySelector('#phone .notes input').checked")


@pytest.mark.thorough
def test_the_echo_of_a_change_does_not_undo_one_of_the_same_millisecond(page: Browser) -> None:
    assert page.run(WITHIN_A_MILLISECOND) == "ab"


@pytest.mark.thorough
def test_a_note_that_is_emptied_while_it_is_written_is_gone_everywhere(page: Browser) -> None:
    page.type("#laptop-note", "no")
    assert both_show(page, "no")
    page.type("#laptop-note", "\ue003\ue003")  # backspace
    assert both_show(page)


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["reload", "crash"])
def test_both_devices_survive_the_end_of_the_worker_and_bring_what_was_written_meanwhile(
    page: Browser, server: Server, how: str
) -> None:
    write(page, "laptop", "before")
    assert both_show(page, "before")
    if how == "reload":
        server.process.send_signal(signal.SIGHUP)
        assert page.until(lambda: ": bye draining" in page.text("#phone .log"))
    else:
        os.kill(server.workers()[0], signal.SIGKILL)
    write(page, "laptop", "meanwhile")
    write(page, "phone", "at the same time")
    assert both_show(page, "at the same time", "meanwhile", "before", within=20)
    assert connected_again(page)


@pytest.mark.thorough
def test_both_devices_survive_a_server_that_is_stopped_and_started_later(
    page: Browser, server: Server, clone: Path
) -> None:
    write(page, "laptop", "before")
    assert both_show(page, "before")
    server.stop()
    assert page.until(lambda: "retrying in" in page.text("#phone .state"))
    write(page, "laptop", "meanwhile")
    with start(clone, SYNCKIT_BIND=f"127.0.0.1:{server.port}"):
        assert both_show(page, "meanwhile", "before", within=30)
        assert connected_again(page)


@pytest.mark.thorough
def test_a_change_that_cannot_be_decrypted_is_counted_and_not_shown(page: Browser, server: Server) -> None:
    push = next(line for line in server.log.splitlines() if line.startswith("curl") and line.endswith("/push'"))
    bearer, body = push.split("'")[1], push.split("'")[3]
    name, token = bearer.split(": ")
    sent = f"{{method: 'POST', headers: {{{name}: '{token}'}}, body: '{body}'}}"
    assert page.run(f"return fetch('/api/sync/push', {sent}).then(answer => answer.status)") == 200
    for device in ("laptop", "phone"):
        assert page.until(lambda device=device: "1 change this page cannot decrypt" in page.text(f"#{device} .foreign"))
        assert notes(page, device) == []


@pytest.mark.thorough
def test_a_change_that_was_blanked_is_skipped(page: Browser) -> None:
    assert page.run(BLANKED) == [0, 0]


@pytest.mark.thorough
def test_two_tabs_notify_each_other_and_a_hidden_tab_has_no_connection(page: Browser, server: Server) -> None:
    with page.another_tab():
        page.go(f"{server.url}/")
        assert connected_again(page)
        write(page, "laptop", "from the second tab")
        assert both_show(page, "from the second tab")
        assert page.until(lambda: server.log.count("stream ended reason=closed") == 2)  # the first tab's
    assert both_show(page, "from the second tab")


@pytest.mark.thorough
def test_it_can_be_used_by_keyboard_alone_with_a_visible_focus(page: Browser) -> None:
    page.run("document.querySelector('#laptop-note').focus()")
    page.press("tea" + ENTER)
    assert both_show(page, "tea")
    page.press(TAB + TAB + " ")
    assert page.until(lambda: bool(page.run("return document.querySelector('#phone .notes input').checked")))
    stops = 0
    while page.run("return document.activeElement !== document.body"):
        assert page.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.press(TAB)
        stops += 1
    assert stops >= 9  # from the Laptop's note to the link at the end
    assert page.until(lambda: page.text(".news").startswith("Phone: tea"))
    assert page.label(".news")[0] == "status"
    assert page.label("#phone-note") == ("textbox", "Write a note")
    assert page.label("#laptop .notes button") == ("button", "Delete “tea”")


LOOKS: list[dict[str, Any]] = [{"width": 1200}, {"width": 1200, "dark": True}, {"width": 360}, {"width": 800}]


@pytest.mark.thorough
@pytest.mark.parametrize("look", LOOKS, ids=["day", "night", "phone", "tablet"])
def test_it_is_readable_in_light_and_dark_mode_and_on_a_phone(page: Browser, look: dict[str, Any]) -> None:
    page.look(**look)
    write(page, "laptop", "a long note " * 12 + "x" * 56)
    assert page.until(lambda: notes(page, "phone") == notes(page, "laptop") != [])
    page.tap("#phone .cut")
    write(page, "phone", "waits")
    assert page.until(lambda: len(notes(page, "phone")) == 2)
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    everything = CONTRASTS.replace('"h1, p,', '"h1, h2, h3, a, b, span, time, code, footer p, p,')
    assert [(text, ratio) for text, ratio in page.run(everything) if ratio < READABLE] == []
    page.tap("#phone .cut")
