/* A SyncKit client for web pages: it is notified of changes, pulls them, and pushes its own. Copy this file; it needs
   no other.

       const device = new Device({
           api: "https://sync.example.org/api/sync", appId, deviceId,
           token: tokens(passwordLogin({ api, oauth: "https://sync.example.org/oauth", email, password, apiKey })),
           apply: async (changes) => { ... },      // in the order of the log: decrypt and store them
       });
       device.start();
       await device.push([{ table, op: "INSERT", row_id, timestamp: new Date().toISOString(), data: ciphertext }]);

       bytes ──▶ Decoder ──▶ "changed", and each new connection ──▶ pull() ──▶ apply(changes), then the cursor moves

   The stream is read with `fetch`, since the browser's EventSource cannot send the Authorization header. After every
   end of a stream (connection lost or silent, server restarted, token expired) the device reconnects. A missed notice
   costs nothing: after each connect the device pulls all changes after its cursor.
   Over HTTP/1.1 a browser opens only six connections to a server: stop() a device while its page is hidden. */

const FIRST_DELAY_SECONDS = 1, MAX_DELAY_SECONDS = 60, MIN_DELAY_SECONDS = 0.1; // seconds before a new connection
const STABLE = 60, MAX_RETRY_AFTER_SECONDS = 900; // seconds: such a stream resets the delays; maximum
const SILENT_PERIODS = 2.5; // two keepalives may be lost or late before a stream is considered dead
const REQUEST = 30, OPENING = 10; // seconds for a response, and for the first bytes of a stream
const TEMPORARY = new Set([408, 425, 429]); // the temporary errors among 400 to 499
const MAX_CHARACTERS = 64 * 1024; // characters of a line, lines of a block: our events have 20, so more is another file

/** An error; `final` if a retry cannot help. `status` is the HTTP status, `retryAfter` is in seconds. */
export class SyncKitError extends Error {
    constructor(message, { status = 0, retryAfter = 0, final = false, bye = "" } = {}) {
        super(message);
        Object.assign(this, { status, retryAfter, final, bye });
    }
}

/** Decodes the bytes of one stream to messages { type: "event" | "comment" | "retry", text, raw }. */
export class Decoder {
    #utf8 = new TextDecoder(); // keeps an incomplete character for the next chunk
    #line = ""; #afterCR = false;
    #block = []; // the lines of the current event

    /** Return the messages that these bytes complete, in order. */
    feed(bytes) {
        let text = this.#utf8.decode(bytes, { stream: true });
        if (!text) return [];
        if (this.#afterCR && text.startsWith("\n")) text = text.slice(1); // the CR before it has ended the line
        this.#afterCR = text.endsWith("\r");
        const lines = (this.#line + text).split(/\r\n|\r|\n/);
        this.#line = lines.pop();
        if (this.#line.length > MAX_CHARACTERS || this.#block.length > MAX_CHARACTERS) throw new SyncKitError("this is not a SyncKit event stream");
        return lines.map((line) => this.#end(line)).filter(Boolean);
    }

    #end(line) {
        if (line.startsWith(":")) return { type: "comment", text: line.replace(/^: ?/, ""), raw: line };
        const retry = /^retry: ?(\d{1,9})$/.exec(line);
        if (retry) return { type: "retry", text: String(Number(retry[1])), raw: line };
        if (line !== "") return void this.#block.push(line);
        const block = this.#block.splice(0);
        const name = block.findLast((field) => /^event(:|$)/.test(field))?.replace(/^event:? ?/, "");
        const dispatched = block.some((field) => /^data(:|$)/.test(field)); // without data there is no event
        return dispatched && { type: "event", text: name || "message", raw: block.join("\n") };
    }
}

/** Return a function `token(refused)` that returns another token than the refused one; one renewal at a time. */
export function tokens(renew) {
    let present, renewing;
    return async (refused) => {
        if (present !== undefined && present !== refused) return present;
        return (renewing ??= renew().then((token) => (present = token)).finally(() => (renewing = undefined)));
    };
}

/** Return a function that gets a token with the refresh token while that is valid, otherwise with the password. */
export function passwordLogin({ api, oauth, email, password, apiKey }) {
    let refresh_token;
    const renew = () => postJSON(`${oauth}/token`, { grant_type: "refresh_token", refresh_token, client_id: apiKey });
    const logIn = () => postJSON(`${api}/auth`, { email, password, api_key: apiKey });
    return async () => {
        const renewed = refresh_token && await renew().catch((error) => {
            if (!error.final) throw error; // no response, or a busy server: the refresh token may still be valid
        });
        const answer = renewed ?? await logIn();
        refresh_token = answer.refresh_token;
        return answer.access_token ?? answer.token;
    };
}

/** Post JSON and return the JSON of the response; throw SyncKitError, or the browser's error without a response. */
export async function postJSON(url, body, { token, signal } = {}) {
    const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
    const inTime = AbortSignal.any([AbortSignal.timeout(REQUEST * 1000), signal].filter(Boolean));
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(body), signal: inTime });
    if (!response.ok) throw await refusal(response);
    return response.json();
}

async function refusal(response) {
    const { status } = response, after = response.headers.get("Retry-After") ?? "";
    const body = await response.json().catch(() => ({})); // the error page of a proxy is not JSON
    const seconds = /^\d+$/.test(after) ? Number(after) : (Date.parse(after) - Date.now()) / 1000;
    const retryAfter = Math.min(MAX_RETRY_AFTER_SECONDS, Math.max(0, seconds || 0));
    const final = status === 204 || (status >= 400 && status < 500 && !TEMPORARY.has(status)); // 204 means: stop
    return new SyncKitError(body.error_description ?? body.error ?? `the server answered ${status}`, { status, retryAfter, final });
}

/** One device of one user. `onMessage(message)` gets each message of the stream. `onState(state, reason, seconds)` gets
    "connecting", "connected", "waiting" (for `seconds`), "refused" (for good) or "stopped". */
export class Device {
    cursor = 0; // all changes up to here are applied: store it, with `epoch`, together with the data
    epoch; // changes when the server is restored from a backup: then everything is pulled again
    #running; // from start() to stop(): aborts all requests
    #refused; // the last token that was refused
    #floor = MIN_DELAY_SECONDS; // the minimum delay, from `retry:`
    #pulling; #again = false; // one pull at a time; whether there may be changes since it began

    constructor({ api, appId, deviceId, token, apply, onMessage = () => {}, onState = () => {} }) {
        Object.assign(this, { api, appId, deviceId, token, apply, onMessage, onState });
    }

    get running() { return this.#running !== undefined; }
    /** Connect and stay connected. */
    start() {
        if (!this.#running) this.#run((this.#running = new AbortController()).signal);
    }

    /** Close all connections; start() continues from the cursor. */
    stop() {
        this.#running?.abort();
        this.#running = undefined;
        this.onState("stopped", "", 0);
    }

    /** Append changes to the log. After an error repeat it with the same `pushId`, so that nothing is stored twice. */
    push(changes, pushId = crypto.randomUUID()) {
        return this.#post("push", { device_id: this.deviceId, push_id: pushId, changes });
    }

    /** Pull new changes; if a pull is in progress, it continues until there are no more. */
    pull() {
        this.#again = true;
        return (this.#pulling ??= this.#pullAll());
    }

    async #pullAll() {
        try {
            for (let more = true; more || this.#again; more = await this.#pullPage()) this.#again = false;
        } finally {
            this.#pulling = undefined; // before those that await this pull continue
        }
    }

    async #pullPage() {
        try {
            const page = await this.#post("pull", { device_id: this.deviceId, cursor: this.cursor, epoch: this.epoch });
            await this.apply(page.changes);
            [this.cursor, this.epoch] = [page.cursor, page.epoch];
            return page.has_more;
        } catch (error) {
            if (error.status !== 409 || this.epoch === undefined) throw error;
            [this.cursor, this.epoch] = [0, undefined]; // the log was restored from a backup
            return true;
        }
    }

    #post(path, body) {
        const signal = this.#running?.signal ?? AbortSignal.abort(new SyncKitError("the device is stopped"));
        return this.#withToken((token) => postJSON(`${this.api}/${path}`, body, { token, signal }));
    }

    /** Send with a token, and again with a new one if that is refused. */
    async #withToken(send) {
        const token = await this.token(this.#refused);
        return send(token).catch(async (error) => {
            if (error.status !== 401) throw error;
            return send(await this.token((this.#refused = token)));
        });
    }

    /** Listen, and reconnect after each end; the delay is random below a growing limit, so that devices spread out. */
    async #run(stopped) {
        for (let failures = 0; !stopped.aborted; ) {
            const began = performance.now();
            const end = await this.#listen(stopped).catch((error) => error);
            if (stopped.aborted) return;
            if (end.final) return void this.onState("refused", end.message, 0);
            if (end.bye === "draining" || performance.now() - began > STABLE * 1000) failures = 0;
            const ceiling = end.bye === "draining" ? 0 : Math.min(MAX_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** failures++);
            const delay = Math.max(this.#floor, end.retryAfter ?? 0) + Math.random() * ceiling;
            this.onState("waiting", end.message, delay);
            await pause(delay, stopped);
        }
    }

    /** Read one connection to its end, which is always thrown as an error. */
    async #listen(stopped) {
        this.onState("connecting", "", 0);
        const connection = new AbortController(); // ends this connection only
        let watchdog, token;
        const expectBytes = (seconds) => {
            clearTimeout(watchdog);
            watchdog = setTimeout(() => connection.abort(new SyncKitError(`nothing received for ${seconds} s`)), seconds * 1000);
        };
        try {
            expectBytes(OPENING);
            const signal = AbortSignal.any([stopped, connection.signal]);
            const response = await this.#withToken((present) => this.#subscribe((token = present), signal));
            const silence = SILENT_PERIODS * (Number(response.headers.get("SyncKit-Keepalive")) || 30);
            this.#floor = MIN_DELAY_SECONDS;
            const decoder = new Decoder(), reader = response.body.getReader();
            for (let bye = ""; ; ) {
                const { done, value } = await reader.read();
                if (done) throw new SyncKitError(`the server ended the stream${bye && `: ${bye}`}`, { bye });
                expectBytes(silence);
                for (const message of decoder.feed(value)) bye = this.#onMessage(message, token, connection) || bye;
            }
        } catch (error) {
            throw connection.signal.aborted ? connection.signal.reason : error;
        } finally {
            clearTimeout(watchdog);
            connection.abort();
        }
    }

    async #subscribe(token, signal) {
        const url = `${this.api}/subscribe?${new URLSearchParams({ app_id: this.appId, device_id: this.deviceId })}`;
        const response = await fetch(url, { headers: { Authorization: `Bearer ${token}` }, signal });
        if (response.status !== 200) throw await refusal(response);
        if (response.headers.get("Content-Type")?.startsWith("text/event-stream")) return response;
        throw new SyncKitError("the answer does not come from a SyncKit server");
    }

    /** Handle a message. A failed pull closes the connection, since each new connection starts with a pull. */
    #onMessage(message, token, connection) {
        this.onMessage(message);
        const { type, text } = message;
        if (type === "retry") this.#floor = Math.min(MAX_DELAY_SECONDS, Math.max(MIN_DELAY_SECONDS, text / 1000));
        if (type === "comment" && text === "connected") this.onState("connected", "", 0);
        if (text === (type === "event" ? "changed" : "connected")) this.pull().catch((error) => connection.abort(error));
        const bye = (type === "comment" && /^bye (.*)/.exec(text)?.[1]) || "";
        if (bye === "token_expired" || bye === "revoked") this.#refused = token;
        return bye;
    }
}

function pause(seconds, stopped) {
    return new Promise((resolve) => {
        const over = AbortSignal.any([stopped, AbortSignal.timeout(seconds * 1000)]);
        over.onabort = resolve;
        addEventListener("online", resolve, { signal: over }); // the network is available again
    });
}
