/* The live page: two devices on one page, each with its own connection, cursor and notes. They share the key only.

       Screen = Device (synckit.js: listens, pulls, pushes) + Notes (notes.js: the data of the app) + a <section>

   All text is inserted as text, never as HTML. */

import { Device, postJSON, tokens } from "./synckit.js";
import { Notes, makeKey, now } from "./notes.js";

const MAX_LINES = 200, MAX_ROWS = 40;
const ANNOUNCE_DELAY = 1000; // milliseconds without another change before screen readers announce the last one

const main = document.querySelector("main");
const reducedMotion = matchMedia("(prefers-reduced-motion: reduce)");

/** One device and its section of the page. */
class Screen {
    #cut = false;
    #draft = null; // the id of the note that is being typed
    #connectedAt = 0;
    #noticedAt = 0; // when the last `changed` arrived
    #items = new Map(); // row id to <li>

    constructor(root, { key, ...connection }) {
        this.root = root;
        this.find = (by) => root.querySelector(by);
        this.notes = new Notes({ key, onChange: (arrived) => this.#show(arrived), onPushed: showOnServer });
        this.device = this.notes.device = new Device({
            ...connection,
            apply: (changes) => this.#apply(changes),
            onMessage: (message) => this.#onMessage(message),
            onState: (...args) => this.#onState(...args),
        });
        this.#enable();
    }

    /** Connect, unless the user cut the connection or the page is hidden: a browser opens only six connections. */
    update() {
        if (!this.#cut && !document.hidden) this.device.start();
        else if (this.device.running) this.device.stop();
    }

    #enable() {
        const form = this.find("form"), input = this.find("form input"), cut = this.find(".cut");
        for (const element of this.root.querySelectorAll(":disabled")) element.disabled = false;
        input.addEventListener("input", () => this.#write(input.value.trim()));
        form.addEventListener("submit", (event) => {
            event.preventDefault();
            [this.#draft, input.value] = [null, ""];
        });
        cut.addEventListener("click", () => {
            this.#cut = !this.#cut;
            cut.textContent = this.#cut ? "Restore connection" : "Cut connection";
            this.update();
        });
    }

    #write(text) {
        if (!text && !this.#draft) return;
        this.#draft ??= crypto.randomUUID();
        this.notes.write(this.#draft, { text, gone: !text });
    }

    #onMessage({ type, text, raw }) {
        if (type === "event" && text === "changed") this.#noticedAt = now();
        this.#log(raw, type);
    }

    #onState(state, reason, seconds) {
        const retry = seconds ? `retrying in ${seconds.toFixed(1)} s` : "";
        const stopped = this.#cut ? "cut by you" : "paused while the page is hidden";
        const shown = { waiting: retry, stopped }[state] ?? state;
        Object.assign(this.find(".state"), { textContent: shown }).dataset.state = state;
        const remark = state === "stopped" ? stopped : [reason, retry].filter(Boolean).join("; ");
        if (remark) this.#log(remark, "remark");
        if (state !== "connected") return;
        this.#connectedAt = now();
        this.notes.flush();
    }

    #log(text, kind) {
        const log = this.find(".log"), present = new Date();
        const time = `${present.toTimeString().slice(0, 8)}.${String(present.getMilliseconds()).padStart(3, "0")}`;
        const follow = log.scrollHeight - log.scrollTop - log.clientHeight < 40; // unless the user has scrolled up
        log.append(make("li", { className: kind }, make("time", {}, time), make("span", {}, text)));
        while (log.childElementCount > MAX_LINES) log.firstElementChild.remove();
        if (follow) log.scrollTop = log.scrollHeight;
    }

    async #apply(changes) {
        await this.notes.apply(changes);
        showOnServer(changes);
    }

    /** Show the notes; `arrived` are those that came from other devices. */
    #show(arrived) {
        const list = this.find(".notes"), { present, foreign, waiting } = this.notes;
        for (const [id, item] of this.#items) if (this.notes.rows.get(id).gone) item.remove(), this.#items.delete(id);
        present.forEach(([id, row], index) => {
            const item = this.#item(id);
            show(item, row, waiting.has(id));
            if (list.children[index] !== item) list.insertBefore(item, list.children[index] ?? null);
        });
        this.find(".hint").hidden = present.length > 0;
        this.find(".foreign").hidden = !foreign.size;
        this.find(".foreign").textContent = `${count(foreign.size, "change")} this page cannot decrypt`;
        for (const { id } of arrived) flash(this.#items.get(id));
        if (arrived.length) this.#measure(arrived);
    }

    #item(id) {
        if (!this.#items.has(id)) this.#items.set(id, makeItem((fields) => this.notes.write(id, fields)));
        return this.#items.get(id);
    }

    /** Show how long the last note took to arrive, or that it was pulled after connecting. */
    #measure(arrived) {
        const { text, sent } = arrived.at(-1), name = this.root.dataset.name;
        if (!sent) return; // the note was deleted
        const late = sent < this.#connectedAt, shown = milliseconds(now() - sent);
        this.find(".heard").textContent = late || this.#noticedAt < sent ? "–" : milliseconds(this.#noticedAt - sent);
        this.find(".shown").textContent = late ? "–" : shown;
        const notes = new Set(arrived.map(({ id }) => id)).size; // one note may have several changes
        this.find(".late").textContent = late ? `${count(notes, "note")} pulled after connecting` : "";
        announce(`${name}: ${text}, ${late ? "pulled after connecting" : `${shown} after it was sent`}`);
    }
}

function make(tag, properties = {}, ...children) {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
}

function makeItem(write) {
    const box = make("input", { type: "checkbox", onchange: () => write({ done: box.checked }) });
    const remove = make("button", { type: "button", textContent: "×", onclick: () => write({ gone: true }) });
    return make("li", {}, make("label", {}, box, make("span")), remove);
}

function show(item, { text, done }, isWaiting) {
    item.querySelector("span").textContent = text;
    item.querySelector("input").checked = done;
    item.querySelector("button").ariaLabel = `Delete “${text}”`;
    item.classList.toggle("waits", isWaiting);
}

function flash(item) {
    if (item && !reducedMotion.matches) item.animate([{ backgroundColor: "var(--flash)" }, {}], 1200);
}

/** Show rows as the server stores them: those that were pushed, and those that a pull returned. */
function showOnServer(changes) {
    const list = document.querySelector(".rows");
    for (const { seq, op, table, row_id, data } of changes) {
        if (list.querySelector(`[data-seq="${seq}"]`)) continue;
        const head = make("p", {}, make("b", {}, `#${seq}`), ` ${op} ${table}/${row_id}`);
        const row = make("li", {}, head, make("code", {}, data ?? "null"));
        row.dataset.seq = seq;
        list.insertBefore(row, [...list.children].find((other) => other.dataset.seq < seq) ?? null);
        flash(row);
    }
    while (list.childElementCount > MAX_ROWS) list.lastElementChild.remove();
}

let news;
function announce(text) {
    clearTimeout(news);
    news = setTimeout(() => (document.querySelector(".news").textContent = text), ANNOUNCE_DELAY);
}

function milliseconds(value) {
    return value < 100 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`;
}

function count(number, word) {
    return `${number} ${word}${number === 1 ? "" : "s"}`;
}

/** Return the id of this tab: two tabs are two pairs of devices, and all four are notified of each change. */
function installation() {
    sessionStorage.installation ??= crypto.randomUUID();
    return sessionStorage.installation;
}

async function begin({ api, session }) {
    let account;
    const token = tokens(async () => (account = await postJSON(session, {})).token);
    const register = async ({ name }) => {
        const device = { device_name: name, platform: "web", installation_id: `${installation()} ${name}` };
        return (await postJSON(`${api}/devices`, device, { token: await token() })).id;
    };
    await token();
    const key = await makeKey();
    const screens = [];
    for (const root of main.querySelectorAll(".device")) {
        const deviceId = await register(root.dataset);
        screens.push(new Screen(root, { key, api, token, deviceId, appId: account.app_id }));
    }
    const update = () => screens.forEach((screen) => screen.update());
    document.addEventListener("visibilitychange", update);
    update();
}

begin(main.dataset).catch((error) => {
    const problem = main.querySelector(".problem");
    problem.hidden = false;
    problem.textContent = `This page cannot start: ${error.message}.`;
});
