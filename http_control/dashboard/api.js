// Speaks with the node's HTTP interface. The token travels in a header only, and lives in this tab's session. The header
// is one of our own, and cookies of this place go along: a proxy or an application may ask for a login in its own way.

const TOKEN = "p2p-token";
const SILENCE_MS_MAX = 40_000; // a comment comes every 15 s, so this is a dead connection
const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const EVENT_CHARS_MAX = 4 * 1024 * 1024;

export class Refused extends Error {
  constructor(status, body) {
    super(body.message ?? `the node answered ${status}`);
    this.status = status;
    this.body = body;
  }
}

export class Api {
  constructor(prefix, onLocked) {
    this.base = prefix.replace(/^\//, ""); // relative to the page, which may live below a proxy's path
    this.onLocked = onLocked;
  }

  // This node's, or the last one that was given to this page: its nodes often have the same. A page at another path of
  // the same proxy is another server's, which is shown none of them.
  get token() {
    return sessionStorage.getItem(keyOf(this.base)) ?? sessionStorage.getItem(keyOf(".")) ?? "";
  }

  set token(value) {
    sessionStorage.setItem(keyOf(this.base), value);
    sessionStorage.setItem(keyOf("."), value);
  }

  static forgetTokens() {
    for (const key of Object.keys(sessionStorage)) {
      if (key.startsWith(keyOf("."))) sessionStorage.removeItem(key);
    }
  }

  async request(method, path, body, signal) {
    const headers = { accept: "application/json" };
    if (this.token) headers["x-auth-token"] = this.token;
    if (body !== undefined) headers["content-type"] = "application/json";
    const answer = await fetch(this.base + path, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: "no-store",
      credentials: "same-origin",
      redirect: "error",
      signal: signal ?? AbortSignal.timeout(35_000),
    });
    let value = {};
    try {
      value = await answer.json();
    } catch {
      if (answer.ok) throw new Refused(answer.status, { message: "the answer is not JSON: is there another server?" });
    }
    if (answer.status === 401) this.onLocked();
    if (!answer.ok) throw new Refused(answer.status, value);
    return value;
  }

  get(path, signal) {
    return this.request("GET", path, undefined, signal);
  }

  post(path, body) {
    return this.request("POST", path, body);
  }

  // Follows a stream for ever: reads, resumes after the last id, waits longer after each failure.
  async follow(path, signal, { onEvent, onOpen, onLost }) {
    let lastId = null;
    let failures = 0;
    while (!signal.aborted) {
      try {
        for await (const event of this.events(path, lastId, signal)) {
          if (event === null) {
            failures = 0;
            onOpen?.();
            continue;
          }
          if (event.id !== null) lastId = event.id;
          onEvent(event.type, event.data);
        }
      } catch (error) {
        if (signal.aborted) return;
        onLost?.(error);
        if (error instanceof Refused && error.status === 401) return;
      }
      const wait = RETRY_MS[Math.min(failures, RETRY_MS.length - 1)] * (0.75 + Math.random() / 2);
      failures += 1;
      await new Promise((resolve) => {
        const timer = setTimeout(done, wait);
        signal.addEventListener("abort", done, { once: true });
        function done() {
          clearTimeout(timer);
          signal.removeEventListener("abort", done);
          resolve();
        }
      });
    }
  }

  // Yields null once the stream is open, then {id, type, data} for each event.
  async *events(path, lastId, signal) {
    const headers = { accept: "text/event-stream" };
    if (this.token) headers["x-auth-token"] = this.token;
    if (lastId !== null) headers["last-event-id"] = lastId;
    const quiet = new AbortController();
    const stop = () => quiet.abort();
    signal.addEventListener("abort", stop, { once: true });
    let timer = setTimeout(stop, SILENCE_MS_MAX);
    try {
      const answer = await fetch(this.base + path, {
        headers,
        cache: "no-store",
        credentials: "same-origin",
        redirect: "error",
        signal: quiet.signal,
      });
      if (answer.status === 401) this.onLocked();
      if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => ({})));
      yield null;
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let rest = "";
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return;
        clearTimeout(timer);
        timer = setTimeout(stop, SILENCE_MS_MAX);
        rest += value;
        if (rest.length > EVENT_CHARS_MAX) throw new Error("an event without an end");
        const blocks = rest.split(/\r?\n\r?\n/);
        rest = blocks.pop();
        for (const block of blocks) {
          const event = parsed(block);
          if (event !== null) yield event;
        }
      }
    } finally {
      clearTimeout(timer);
      signal.removeEventListener("abort", stop);
      quiet.abort();
    }
  }
}

function keyOf(path) {
  return `${TOKEN} ${new URL(path, document.baseURI).pathname}`;
}

function parsed(block) {
  const event = { id: null, type: "message", data: null };
  const lines = [];
  for (const line of block.split(/\r?\n/)) {
    const [, name, value] = /^([^:]*):? ?(.*)$/.exec(line);
    if (name === "event") event.type = value;
    else if (name === "id") event.id = value;
    else if (name === "data") lines.push(value);
  }
  if (!lines.length) return null;
  event.data = JSON.parse(lines.join("\n"));
  return event;
}
