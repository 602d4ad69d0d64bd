"""synckit.js by itself, in a real browser: its decoder by the letter of the standard, its device against a script.

No server: the module comes in as a `data:` address, and `fetch` is one that plays a scripted server.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from synckit_notify.backend import live
from synckit_notify.sse import MAX_CHARACTERS, Comment, Event, Retry

from ..support.browser import Browser
from ..support.decoder_cases import CASES
from ..support.service import EMAIL, PASSWORD, Service

pytestmark = pytest.mark.thorough

SOURCE = (Path(live.__file__).parent / "static" / "synckit.js").read_bytes()
MODULE = f"data:text/javascript;base64,{base64.b64encode(SOURCE).decode()}"

DECODE = """
const { Decoder } = await import(MODULE);
const decode = (pieces) => {
    const decoder = new Decoder();
    return pieces.flatMap((piece) => decoder.feed(piece)).map(({ type, text }) => [type, text]);
};
return CASES.map(([name, text]) => {
    const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
    const cuts = [...bytes.keys()].map((at) => [bytes.slice(0, at), bytes.slice(at)]);
    const ways = [[bytes], [...bytes].map((byte) => Uint8Array.of(byte)), ...cuts].map(decode);
    return [name, [...new Set(ways.map((way) => JSON.stringify(way)))].map((way) => JSON.parse(way))];
});
"""

PLAY = """
const { Device, tokens } = await import(MODULE);
const encoder = new TextEncoder(), asked = [], told = [], pulls = [];
const answer = ({ status = 200, type = "text/event-stream", frames = "", ends, headers = {} }, signal) => {
    const body = new ReadableStream({
        start(controller) {
            signal.addEventListener("abort", () => controller.error(signal.reason));
            if (frames) controller.enqueue(encoder.encode(frames));
            if (ends) controller.close();
        },
    });
    return new Response(status === 204 ? null : body, { status, headers: { "Content-Type": type, ...headers } });
};
const [present, random, script] = [window.fetch, Math.random, [...SCRIPT]];
Math.random = () => 0;
window.fetch = async (url, { headers, body, signal }) => {
    if (url.endsWith("/pull")) {
        pulls.push(JSON.parse(body).cursor);
        const page = { changes: [], cursor: 7, epoch: "e", has_more: false };
        return new Response(JSON.stringify(page));
    }
    asked.push(headers.Authorization);
    const step = script.shift();
    over = !step;
    if (over) return answer({ frames: ": connected\\n\\n", headers: { "SyncKit-Keepalive": "30" } }, signal);
    if (step.fails) throw new TypeError("network error");
    return answer({ ends: true, ...step }, signal);
};
let given = 0, over = false;
const token = tokens(async () => `token ${++given}`);
const device = new Device({ api: "http://127.0.0.1:9", appId: "a", deviceId: "d", token, apply: async () => {} });
await new Promise((resolve) => {
    device.onState = (state, words, seconds) => {
        told.push([state, words, Math.round(seconds * 100) / 100]);
        if (state === "refused" || (state === "connected" && over)) setTimeout(resolve, 20);
    };
    device.start();
});
device.onState = () => {};
device.stop();
[window.fetch, Math.random] = [present, random];
return { asked, told, pulls };
"""

CONNECTED = ": connected\n\n"
COMES_BACK = ["connecting", "connected"]
NO_STREAM = {"type": "application/json", "frames": '{"error": "no"}'}


def run(browser: Browser, script: str, **values: object) -> Any:
    """Run a script in which some names stand for values."""
    constants = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
    return browser.run(f"return (async () => {{ {constants} {script} }})()")


def said(message: Comment | Event | Retry) -> list[str]:
    """A message as the module tells it."""
    match message:
        case Comment(text):
            return ["comment", text]
        case Retry(milliseconds):
            return ["retry", str(milliseconds)]
        case Event(event, _, _):
            return ["event", event]


def test_the_decoder_takes_bytes_cut_anywhere(chromium: Browser) -> None:
    chromium.go("about:blank")
    short = {name: case for name, case in CASES.items() if len(case[0]) < MAX_CHARACTERS / 100}
    assert len(short) > 60
    bodies = [[name, base64.b64encode(body).decode()] for name, (body, _) in short.items()]
    for name, ways in run(chromium, DECODE, MODULE=MODULE, CASES=bodies):
        expected = [said(message) for message in short[name][1]]
        assert ways == [expected], name


@pytest.mark.parametrize(
    ("script", "states", "waits", "tokens"),
    [
        ([], [], [], [1]),
        ([{"fails": True}], ["waiting"], [0.1], [1, 1]),
        ([NO_STREAM], ["waiting"], [0.1], [1, 1]),
        ([NO_STREAM | {"status": 503, "headers": {"Retry-After": "1"}}], ["waiting"], [1], [1, 1]),
        ([NO_STREAM | {"status": 429}], ["waiting"], [0.1], [1, 1]),
        ([NO_STREAM | {"status": 401}], None, [], [1, 2]),
        ([{"frames": CONNECTED + "retry: 500\n\n: bye draining\n\n"}], ["connected", "waiting"], [0.5], [1, 1]),
        ([{"frames": "retry: 700\n\n: bye draining\n\n"}], ["waiting"], [0.7], [1, 1]),
        ([{"frames": CONNECTED + ": bye token_expired\n\n"}], ["connected", "waiting"], [0.1], [1, 2]),
        ([{"frames": CONNECTED + ": bye revoked\n\n"}], ["connected", "waiting"], [0.1], [1, 2]),
        ([{"frames": CONNECTED + ": bye max_age\n\n"}], ["connected", "waiting"], [0.1], [1, 1]),
        (
            [{"frames": CONNECTED, "ends": False, "headers": {"SyncKit-Keepalive": "0.1"}}],
            ["connected", "waiting"],
            [0.1],
            [1, 1],
        ),
    ],
    ids=[
        *("well", "no network", "somebody else answers", "full", "too many", "an old token", "drained"),
        *("drained at once", "token expired", "revoked", "too old", "silent"),
    ],
)
def test_the_device_reconnects(
    chromium: Browser, script: list[Any], states: list[str] | None, waits: list[float], tokens: list[int]
) -> None:
    chromium.go("about:blank")
    played = run(chromium, PLAY, MODULE=MODULE, SCRIPT=script)
    before = [] if not script or states is None else ["connecting", *states]
    assert [state for state, _, _ in played["told"]] == [*before, *COMES_BACK]
    assert [seconds for state, _, seconds in played["told"] if state == "waiting"] == waits
    assert played["asked"] == [f"Bearer token {number}" for number in tokens]
    assert (
        played["pulls"] == [0, 7][: [*before, *COMES_BACK].count("connected")]
    )  # after each connection, from the cursor


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ([NO_STREAM | {"status": 403}], "no"),
        ([NO_STREAM | {"status": 400}], "no"),
        ([NO_STREAM | {"status": 401}] * 2, "no"),
        ([{"status": 204}], "the server answered 204"),
    ],
    ids=["for another app", "malformed", "a new token is refused as well", "the server says stop"],
)
def test_the_device_gives_up_when_a_retry_cannot_help(chromium: Browser, script: list[Any], words: str) -> None:
    chromium.go("about:blank")
    played = run(chromium, PLAY, MODULE=MODULE, SCRIPT=script)
    assert played["told"] == [["connecting", "", 0], ["refused", words, 0]]


DELAYS = """
const { Device, tokens } = await import(MODULE);
const told = [], present = window.fetch;
window.fetch = async () => { throw new TypeError("network error"); };
const onState = (state, words, seconds) => {
    if (state === "waiting") told.push(seconds);
    window.dispatchEvent(new Event("online")); // as if the network came back, so that no wait is long
    setTimeout(() => window.dispatchEvent(new Event("online")));
};
const device = new Device({ api: "http://127.0.0.1:9", token: async () => "t", apply() {}, onState });
device.start();
while (told.length < 300) await new Promise((resolve) => setTimeout(resolve));
device.onState = () => {};
device.stop();
window.fetch = present;
return told;
"""


def test_the_delays_are_random_and_grow_to_a_minute(chromium: Browser) -> None:
    chromium.go("about:blank")
    delays = run(chromium, DELAYS, MODULE=MODULE)
    assert delays[0] <= 1.1
    assert all(0.1 <= delay <= 60.1 for delay in delays)
    late = delays[10:]
    assert min(late) < 15
    assert max(late) > 45


LISTEN = """
const { Device, passwordLogin, postJSON, tokens } = await import("/static/synckit.js");
const api = "/api/sync", login = { api, oauth: "/oauth", ...CREDENTIALS };
const real = window.fetch;
window.posted = [];
window.fetch = (url, how) => (window.posted.push(url), real(url, how));
const token = tokens(passwordLogin(login)), applied = (window.applied = []);
const appId = JSON.parse(atob((await token()).split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).app;
const named = (device_name) => postJSON(`${api}/devices`, { device_name, platform: "web" }, { token: heldToken });
const heldToken = await token();
const [one, other] = [(await named("one")).id, (await named("other")).id];
const options = { api, appId, token, apply: async (changes) => void applied.push(...changes.map((c) => c.row_id)) };
window.device = new Device({ ...options, deviceId: one, onMessage: ({ raw }) => window.heard.push(raw) });
window.other = new Device({ ...options, deviceId: other, apply: async () => {} });
window.heard = [];
window.device.start();
window.other.start();
"""


def test_the_device_stays_logged_in_by_its_refresh_token_while_tokens_expire(
    chromium: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    service = Service(tmp_path_factory.mktemp("service"), TOKEN_SECONDS="2")
    try:
        chromium.go(f"{service.server.url}/api/sync/live")
        credentials = {"email": EMAIL, "password": PASSWORD, "apiKey": service.api_key}
        run(chromium, LISTEN, CREDENTIALS=credentials)
        assert chromium.until(lambda: chromium.run("return heard.join().split(': bye token_expired').length > 3"), 20)
        change = "{table: 't', op: 'INSERT', row_id: 'late', timestamp: new Date().toISOString(), data: 'x'}"
        chromium.run(f"return other.push([{change}])")
        assert chromium.until(lambda: chromium.run("return applied.includes('late')"))
        posted = chromium.run("device.stop(); other.stop(); return posted")
        assert posted.count("/api/sync/auth") == 1
        assert posted.count("/oauth/token") >= 3
    finally:
        service.close()
