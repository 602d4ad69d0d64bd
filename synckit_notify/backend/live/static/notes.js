/* The app of the live page: the notes of one device, encrypted before they are sent. No HTML here.

       write() ──▶ rows, outbox ──▶ seal ──▶ device.push          device.pull ──▶ apply() ──▶ open ──▶ rows

   The later `timestamp` wins, so all devices end with the same notes. */

const TABLE = "notes";
const MAX_CHANGES = 500; // changes in one push
const RETRY = 2000; // milliseconds until a failed push is repeated while the stream is open
const KEPT_KEY = "synckit demo key";

const base64 = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)));
const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
const encoder = new TextEncoder();

/** Return milliseconds since 1970, with fractions. */
export const now = () => performance.timeOrigin + performance.now();

/** Return the key of this browser; it is stored, so that the notes can be decrypted after a reload. */
export async function makeKey() {
    const kept = localStorage.getItem(KEPT_KEY);
    const raw = kept ? bytes(kept) : crypto.getRandomValues(new Uint8Array(32));
    localStorage.setItem(KEPT_KEY, base64(raw));
    return crypto.subtle.importKey("raw", raw, "AES-GCM", false, ["encrypt", "decrypt"]);
}

async function seal(key, rowId, value) {
    const iv = crypto.getRandomValues(new Uint8Array(12));
    const how = { name: "AES-GCM", iv, additionalData: encoder.encode(rowId) }; // so that a server cannot swap two rows
    const sealed = await crypto.subtle.encrypt(how, key, encoder.encode(JSON.stringify(value)));
    return `${base64(iv)}.${base64(sealed)}`;
}

async function open(key, rowId, data) {
    const [iv, sealed] = data.split(".").map(bytes);
    const how = { name: "AES-GCM", iv, additionalData: encoder.encode(rowId) };
    return JSON.parse(new TextDecoder().decode(await crypto.subtle.decrypt(how, key, sealed)));
}

/** The notes of one device. `onChange(arrived)` is called after each change, with the notes from other devices;
    `onPushed(changes)` with the changes that the server has stored and their numbers. */
export class Notes {
    rows = new Map(); // row id to { text, done, made, at, gone }
    foreign = new Set(); // the numbers of changes that cannot be decrypted
    #outbox = new Set(); // ids of rows to push
    #batch = null; // pushed but not answered yet: repeated unchanged
    #sending = false;
    #stored = new Set(); // ids of rows that the server has stored

    constructor({ key, onChange, onPushed }) {
        Object.assign(this, { key, onChange, onPushed });
    }

    /** The ids of the rows that the server has not stored yet, as far as this device knows. */
    get waiting() {
        return new Set([...this.#outbox, ...(this.#batch?.ids ?? [])]);
    }

    /** The notes that are not deleted, newest first. */
    get present() {
        return [...this.rows].filter(([, row]) => !row.gone).sort(([, one], [, other]) => other.made - one.made);
    }

    /** Change or create a note. */
    write(id, fields) {
        const row = this.rows.get(id) ?? { text: "", done: false, made: now() };
        const later = new Date(Math.max(Date.now(), row.at ? Date.parse(row.at) + 1 : 0)); // later than the old version
        this.rows.set(id, { ...row, gone: false, ...fields, at: later.toISOString() });
        this.#outbox.add(id);
        this.onChange([]);
        this.flush();
    }

    /** Push all waiting changes; what is written meanwhile is part of the next push. */
    async flush() {
        if (this.#sending) return;
        this.#sending = true;
        try {
            while (this.#batch || this.#outbox.size) await this.#push((this.#batch ??= this.#fill()));
        } catch (error) {
            if (!error.final) setTimeout(() => this.device.running && this.flush(), RETRY);
        } finally {
            this.#sending = false;
            this.onChange([]);
        }
    }

    async #push(batch) {
        const changes = await batch.sealed;
        const { cursor } = await this.device.push(changes, batch.pushId);
        this.#batch = null;
        for (const id of batch.ids) this.#stored.add(id);
        const first = cursor - changes.length + 1; // the numbers of one push are consecutive
        this.onPushed(changes.map((change, index) => ({ ...change, seq: first + index })));
    }

    #fill() {
        const ids = [...this.#outbox].slice(0, MAX_CHANGES);
        for (const id of ids) this.#outbox.delete(id);
        return { ids, pushId: crypto.randomUUID(), sealed: Promise.all(ids.map((id) => this.#change(id))) };
    }

    async #change(id) {
        const { text, done, made, at, gone } = this.rows.get(id);
        const op = gone ? "DELETE" : this.#stored.has(id) ? "UPDATE" : "INSERT";
        const data = gone ? null : await seal(this.key, id, { text, done, made, sent: now() });
        return { table: TABLE, op, row_id: id, timestamp: at, data };
    }

    /** Apply pulled changes. */
    async apply(changes) {
        const arrived = [];
        for (const change of changes) {
            if (change.op !== "DELETE" && change.data === null) continue; // its content was removed on the server
            const note = await this.#read(change);
            if (note === null) this.foreign.add(change.seq);
            else if (this.#take(change, note) && change.device_id !== this.device.deviceId) arrived.push({ id: change.row_id, ...note });
        }
        this.onChange(arrived);
    }

    async #read({ table, op, row_id, data }) {
        if (table !== TABLE) return null;
        return op === "DELETE" ? { gone: true } : open(this.key, row_id, data).catch(() => null);
    }

    #take(change, note) {
        this.#stored.add(change.row_id);
        if (this.rows.get(change.row_id)?.at > change.timestamp) return false;
        this.rows.set(change.row_id, { ...this.rows.get(change.row_id), ...note, at: change.timestamp });
        return true;
    }
}
