/* A SyncKit device in a web page: hears of changes, pulls them, pushes its own. Copy it; it needs no other file.

       const device = new Device({
           api: "https://sync.example.org/api/sync", appId, deviceId,
           token: tokens(passwordLogin({ api, oauth: "https://sync.example.org/oauth", email, password, apiKey })),
           apply: async (changes) => { ... },      // in the log's order: decrypt and store them here
       });
       device.start();
       await device.push([{ table, op: "INSERT", row_id, timestamp: new Date().toISOString(), data: ciphertext }]);

       bytes ──▶ Decoder ──▶ "changed", and each new connection ──▶ pull() ──▶ apply(changes), then the cursor moves

   The stream is read with `fetch`, since the browser's EventSource cannot send the Authorization header. Whatever ends
   a stream (a lost line or a silent one, a restart of the server, an old token) is followed by a new connection, and
   a missed notice costs nothing: after each connection the device pulls what is behind its cursor.
   Over HTTP/1.1 a browser opens six connections to a server from all its tabs: stop() a device that nobody sees. */

const FIRST_DELAY_SECONDS = 1, MAX_DELAY_SECONDS = 60, MIN_DELAY_SECONDS = 0.1; // seconds before a new connection
const STABLE = 60, MAX_RETRY_AFTER_SECONDS = 900; // seconds: a life after which the delays begin anew; the most asked for
const SILENT_PERIODS = 2.5; // two keepalives may be lost or late before a stream counts as dead
const REQUEST = 30, OPENING = 10; // seconds for an answer, for a stream's first bytes: some proxies hold them back
const PASSING = new Set([408, 425, 429]); // of 400 to 499, these pass by themselves
const MAX_CHARACTERS = 64 * 1024; // characters of a line, lines of a block: ours have 20, only a stray file has more

/** What went wrong; `final` when trying again cannot help. `status` is HTTP's, `retryAfter` in seconds. */
export class SyncKitError extends Error {
    constructor(words, { status = 0, retryAfter = 0, final = false, bye = "" } = {}) {
        super(words);
        Object.assign(this, { status, retryAfter, final, bye });
    }
}

/** The bytes of one stream, cut anywhere, to its messages { type: "event" | "comment" | "retry", text, raw }. */
export class Decoder {
    #utf8 = new TextDecoder(); // keeps a half character for the next piece
    #line = ""; #afterCR = false;
    #block = []; // the lines of the present event

    /** Return what these bytes completed, in order. */
    feed(bytes) {
        let text = this.#utf8.decode(bytes, { stream: true });
        if (!text) return [];
        if (this.#afterCR && text.startsWith("\n")) text = text.slice(1); // its CR has ended the line already
        this.#afterCR = text.endsWith("\r");
        const lines = (this.#line + text).split(/\r\n|\r|\n/);
        this.#line = lines.pop();
        if (this.#line.length > MAX_CHARACTERS || this.#block.length > MAX_CHARACTERS) throw new SyncKitError("no stream of ours");
        return lines.map((line) => this.#end(line)).filter(Boolean);
    }

    #end(line) {
        if (line.startsWith(":")) return { type: "comment", text: line.replace(/^: ?/, ""), raw: line };
        const retry = /^retry: ?(\d{1,9})$/.exec(line);
        if (retry) return { type: "retry", text: String(Number(retry[1])), raw: line };
        if (line !== "") return void this.#block.push(line);
        const block = this.#block.splice(0);
        const name = block.findLast((field) => /^event(:|$)/.test(field))?.replace(/^event:? ?/, "");
        const dispatched = block.some((field) => /^data(:|$)/.test(field)); // without data it is no event
        return dispatched && { type: "event", text: name || "message", raw: block.join("\n") };
    }
}

/** Return a source of tokens: `token(refused)` answers another than the refused; however many ask, it renews once. */
export function tokens(renew) {
    let present, renewing;
    return async (refused) => {
        if (present !== undefined && present !== refused) return present;
        return (renewing ??= renew().then((token) => (present = token)).finally(() => (renewing = undefined)));
    };
}

/** Return a way to get tokens: by the refresh token while there is one that counts, else by the password. */
export function passwordLogin({ api, oauth, email, password, apiKey }) {
    let refresh_token;
    const renew = () => postJSON(`${oauth}/token`, { grant_type: "refresh_token", refresh_token, client_id: apiKey });
    const logIn = () => postJSON(`${api}/auth`, { email, password, api_key: apiKey });
    return async () => {
        const renewed = refresh_token && await renew().catch((error) => {
            if (!error.final) throw error; // no answer, or a busy server: this refresh token counts still
        });
        const answer = renewed ?? await logIn();
        refresh_token = answer.refresh_token;
        return answer.access_token ?? answer.token;
    };
}

/** Post JSON and return the JSON of the answer; throws SyncKitError, or the browser's own error if no answer came. */
export async function postJSON(url, body, { token, signal } = {}) {
    const headers = { "Content-Type": "application/json", ...(token && { Authorization: `Bearer ${token}` }) };
    const inTime = AbortSignal.any([AbortSignal.timeout(REQUEST * 1000), signal].filter(Boolean));
    const response = await fetch(url, { method: "POST", headers, body: JSON.stringify(body), signal: inTime });
    if (!response.ok) throw await refusal(response);
    return response.json();
}

async function refusal(response) {
    const { status } = response, after = response.headers.get("Retry-After") ?? "";
    const told = await response.json().catch(() => ({})); // a proxy's error page is no JSON
    const seconds = /^\d+$/.test(after) ? Number(after) : (Date.parse(after) - Date.now()) / 1000;
    const retryAfter = Math.min(MAX_RETRY_AFTER_SECONDS, Math.max(0, seconds || 0));
    const final = status === 204 || (status >= 400 && status < 500 && !PASSING.has(status)); // 204 says: stop
    return new SyncKitError(told.error_description ?? told.error ?? `answer ${status}`, { status, retryAfter, final });
}

/** One device of one user. `onMessage(message)` gets each message of the stream; `onState(state, words, seconds)` is
    told "connecting", "connected", "waiting" for so many seconds and why, "refused" for good and why, or "stopped". */
export class Device {
    cursor = 0; // the log is applied up to here: keep it, with `epoch`, where the data is kept
    epoch; // names the log's life: after a restore from a backup everything is pulled again
    #running; // from start() to stop(): what aborts all requests
    #refused; // the last token that did not count
    #floor = MIN_DELAY_SECONDS; // what `retry:` asked for
    #pulling; #again = false; // one pull at a time; whether the log may have changed since it began

    constructor({ api, appId, deviceId, token, apply, onMessage = () => {}, onState = () => {} }) {
        Object.assign(this, { api, appId, deviceId, token, apply, onMessage, onState });
    }

    get running() { return this.#running !== undefined; }
    /** Connect, and stay connected. */
    start() {
        if (!this.#running) this.#run((this.#running = new AbortController()).signal);
    }

    /** Cut all connections; start() goes on where this stopped. */
    stop() {
        this.#running?.abort();
        this.#running = undefined;
        this.onState("stopped", "", 0);
    }

    /** Append changes to the log. After an error repeat it with the same `pushId`: then nothing is stored twice. */
    push(changes, pushId = crypto.randomUUID()) {
        return this.#post("push", { device_id: this.deviceId, push_id: pushId, changes });
    }

    /** Pull what is new; if a pull runs already, it looks once more. */
    pull() {
        this.#again = true;
        return (this.#pulling ??= this.#pullAll());
    }

    async #pullAll() {
        try {
            for (let more = true; more || this.#again; more = await this.#pullPage()) this.#again = false;
        } finally {
            this.#pulling = undefined; // before whoever awaits this pull goes on
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
            [this.cursor, this.epoch] = [0, undefined]; // another life of the log
            return true;
        }
    }

    #post(path, body) {
        const signal = this.#running?.signal ?? AbortSignal.abort(new SyncKitError("the device is stopped"));
        return this.#withToken((token) => postJSON(`${this.api}/${path}`, body, { token, signal }));
    }

    /** Send with a token, and once more with another if that one is refused. */
    async #withToken(send) {
        const token = await this.token(this.#refused);
        return send(token).catch(async (error) => {
            if (error.status !== 401) throw error;
            return send(await this.token((this.#refused = token)));
        });
    }

    /** Listen, and again when that ends: after a delay by chance, under a growing ceiling, so that many come apart. */
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

    /** Hold one connection to its end, which is always an error: it tells what ended it. */
    async #listen(stopped) {
        this.onState("connecting", "", 0);
        const line = new AbortController(); // ends this connection alone
        let watchdog, token;
        const expectBytes = (seconds) => {
            clearTimeout(watchdog);
            watchdog = setTimeout(() => line.abort(new SyncKitError(`nothing heard for ${seconds} s`)), seconds * 1000);
        };
        try {
            expectBytes(OPENING);
            const signal = AbortSignal.any([stopped, line.signal]);
            const response = await this.#withToken((present) => this.#subscribe((token = present), signal));
            const silence = SILENT_PERIODS * (Number(response.headers.get("SyncKit-Keepalive")) || 30);
            this.#floor = MIN_DELAY_SECONDS;
            const decoder = new Decoder(), reader = response.body.getReader();
            for (let bye = ""; ; ) {
                const { done, value } = await reader.read();
                if (done) throw new SyncKitError(`the server ended the stream${bye && `: ${bye}`}`, { bye });
                expectBytes(silence);
                for (const message of decoder.feed(value)) bye = this.#hear(message, token, line) || bye;
            }
        } catch (error) {
            throw line.signal.aborted ? line.signal.reason : error;
        } finally {
            clearTimeout(watchdog);
            line.abort();
        }
    }

    async #subscribe(token, signal) {
        const url = `${this.api}/subscribe?${new URLSearchParams({ app_id: this.appId, device_id: this.deviceId })}`;
        const response = await fetch(url, { headers: { Authorization: `Bearer ${token}` }, signal });
        if (response.status !== 200) throw await refusal(response);
        if (response.headers.get("Content-Type")?.startsWith("text/event-stream")) return response;
        throw new SyncKitError("somebody else than the server has answered");
    }

    /** Act on a message. A pull that fails ends the connection: after the next one comes another. */
    #hear(message, token, line) {
        this.onMessage(message);
        const { type, text } = message;
        if (type === "retry") this.#floor = Math.min(MAX_DELAY_SECONDS, Math.max(MIN_DELAY_SECONDS, text / 1000));
        if (type === "comment" && text === "connected") this.onState("connected", "", 0);
        if (text === (type === "event" ? "changed" : "connected")) this.pull().catch((error) => line.abort(error));
        const bye = (type === "comment" && /^bye (.*)/.exec(text)?.[1]) || "";
        if (bye === "token_expired" || bye === "revoked") this.#refused = token;
        return bye;
    }
}

function pause(seconds, stopped) {
    return new Promise((resolve) => {
        const over = AbortSignal.any([stopped, AbortSignal.timeout(seconds * 1000)]);
        over.onabort = resolve;
        addEventListener("online", resolve, { signal: over }); // the network is back
    });
}
