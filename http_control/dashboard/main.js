// The page: takes what the node says and hands it to the parts that show it.

import { Api, Refused } from "./api.js";
import { Chart } from "./charts.js";
import { $, copy, el, setText } from "./dom.js";
import { brief, bytes, clock, count, duration, millis, rate, short, visible } from "./format.js";
import { Heads, Lines } from "./log.js";
import { Peers, tell } from "./peers.js";
import { Picture, neighbourhood } from "./picture.js";

const SAMPLES_MAX = 600;
const PING_EVERY_MS = 5000;
const TICKS_MISSED = 3;
const SILENCE_MS_MIN = 4000;
const TOKEN = /^[\x21-\x7e]{1,512}$/; // what a header can carry
const THEMES = ["system", "dark", "light"];

class Page {
  constructor() {
    this.api = new Api("", () => {});
    this.session = null; // what runs for the chosen node; aborted when another one is chosen or the token changes
    this.status = null;
    this.samples = [];
    this.latency = null;
    this.tickAt = 0;
    this.tickMs = 1000;
    this.peers = new Peers(() => this.api);
    this.heads = new Heads(() => this.api);
    this.lines = new Lines();
    this.picture = new Picture($("picture"), (id) => this.peers.details(id));
    this.charts = [
      new Chart($("chart-bytes"), [{ key: "bytes_in_per_s", name: "in" }, { key: "bytes_out_per_s", name: "out" }],
        (s) => `${bytes(s.bytes_in_per_s)}/s in, ${bytes(s.bytes_out_per_s)}/s out`, (most) => `${bytes(most)}/s`),
      new Chart($("chart-records"), [{ key: "records_per_s", name: "rec" }], (s) => `${rate(s.records_per_s)}/s`, (most) => `${rate(most)}/s`),
      new Chart($("chart-lag"), [{ key: "lag_records", name: "lag" }], (s) => `${count(Math.round(s.lag_records))} records`, (most) => count(Math.round(most))),
    ];
    $("lock").onclick = () => this.askToken("");
    $("token-form").onsubmit = (event) => this.unlock(event);
    $("token-forget").onclick = () => this.forget();
    $("theme").onclick = () => this.nextTheme();
    $("node-peer-id").onclick = (event) => copy(event.currentTarget, this.status.peer_id);
    setInterval(() => this.checkAge(), 1000);
    $("prefix").onchange = () => this.choose($("prefix").value);
    this.showTheme(localStorage.getItem("p2p-theme") ?? "system");
  }

  async start() {
    const prefix = await this.findPrefix();
    this.choose(prefix);
    if (location.pathname.replace(/\/$/, "").endsWith("/connect")) $("connect-endpoint").focus();
  }

  async findPrefix() {
    for (;;) {
      try {
        const { prefixes } = await new Api("", () => {}).get("site.json");
        $("prefix").replaceChildren(...prefixes.map((prefix) => el("option", {}, prefix)));
        $("prefix-picker").hidden = prefixes.length < 2;
        return prefixes[0];
      } catch {
        this.health("lost", "Not reachable");
        await new Promise((resolve) => setTimeout(resolve, 2000));
      }
    }
  }

  choose(prefix) {
    this.session?.abort();
    this.session = new AbortController();
    const { signal } = this.session;
    const api = new Api(prefix, () => this.locked(signal));
    this.api = api;
    this.clear();
    this.health("connecting", "Connecting");
    api.follow("/events", signal, {
      onEvent: (type, data) => this.on(type, data),
      onOpen: () => this.opened(signal),
      onLost: (error) => this.lost(error),
    });
    api.follow("/logs/live", signal, { onEvent: (type, data) => this.lines.add(type, data) });
    this.pingFor(signal);
  }

  // What another node said, or this one under another token, is not shown as if it were of now.
  clear() {
    this.samples = [];
    this.status = null;
    this.tickAt = 0;
    $("peer-dialog").close();
    this.peers.update([]);
    this.heads.clear();
    this.lines.clear();
    this.picture.clear();
    this.drawCharts();
  }

  async opened(signal) {
    this.banner("");
    try {
      const { samples, every_ms } = await this.api.get("/history", signal);
      this.tickMs = every_ms;
      this.samples = samples.slice(-SAMPLES_MAX);
      this.drawCharts();
    } catch {
      // The samples that come will do.
    }
    this.heads.refresh();
  }

  lost(error) {
    if (error instanceof Refused && error.status === 401) return;
    this.latency = null;
    this.tickAt = 0;
    this.health("lost", "Not reachable");
    if (error instanceof Refused) this.banner(error.message);
  }

  async pingFor(signal) {
    while (!signal.aborted) {
      const started = performance.now();
      try {
        await this.api.get("/ping", AbortSignal.any([signal, AbortSignal.timeout(PING_EVERY_MS)]));
        this.latency = performance.now() - started;
        if (this.tickAt) this.showHealth();
      } catch {
        this.latency = null;
      }
      await new Promise((resolve) => setTimeout(resolve, PING_EVERY_MS));
    }
  }

  on(type, data) {
    if (type === "status") this.onStatus(data);
    else if (type === "peers") this.onPeers(data.peers);
    else if (type === "sample") this.onSample(data);
    else if (type === "heads_moved" || type === "gap") this.heads.refresh();
    else if (type === "peer_connected" || type === "peer_left") this.heads.refresh();
    else if (type === "fork_found") this.banner(`The log of ${short(data.origin)} has two histories. It is frozen; all others go on.`);
    else if (type === "clone_suspected") this.banner(`The identity ${short(data.peer_id)} seems to be used in two places.`);
  }

  onStatus(status) {
    this.tickAt = Date.now();
    this.status = status;
    document.title = `${status.node_id} · trio-p2p`;
    setText($("node-name"), visible(status.node_id));
    $("node-peer-id").hidden = false;
    setText($("node-peer-id"), short(status.peer_id));
    card("peers", status.peers_connected, `${count(status.peers_total)} met since the start`);
    card("records", status.records, `${count(status.own_records)} of this node`);
    card("lag", status.lag_records, lagText(status));
    $("card-lag-box").dataset.mood = status.lag_records ? "late" : "";
    setText($("card-traffic"), bytes(status.bytes_in + status.bytes_out));
    setText($("card-traffic-sub"), `${bytes(status.bytes_in)} in, ${bytes(status.bytes_out)} out`);
    card("handshakes", status.handshakes_completed, `${count(status.handshakes_started)} begun, ${count(status.handshakes_failed)} failed`);
    card("connects", status.connect_attempts, `${count(status.connect_deduped)} shared another's`);
    card("failures", status.connect_failures, "dials that reached nobody");
    card("backoff", status.backoff_skips, `dials, at ${count(status.tracked_endpoints)} ${status.tracked_endpoints === 1 ? "place" : "places"} that failed`);
    setText($("foot"), `trio-p2p ${status.version} · up ${duration(status.uptime_ms)} · ${status.endpoints.map(visible).join(" · ") || "not listening"}`);
    this.showHealth();
  }

  onPeers(peers) {
    this.peers.update(peers);
    this.heads.know(peers);
    this.heads.look();
    if (this.status !== null) this.picture.show(neighbourhood(this.status, peers), this.status.records);
  }

  onSample(sample) {
    this.samples.push(sample);
    if (this.samples.length > SAMPLES_MAX) this.samples.shift();
    this.drawCharts();
  }

  drawCharts() {
    for (const chart of this.charts) chart.show(this.samples);
    const span = this.samples.length > 1 ? this.samples.at(-1).time_ms - this.samples[0].time_ms : 0;
    setText($("time-span"), span ? `last ${duration(span)}` : "");
  }

  showHealth() {
    const latency = this.latency === null ? "" : ` · ${millis(this.latency)}`;
    const isReadOnly = this.status.status === "read_only";
    $("read-only").hidden = !isReadOnly;
    if (isReadOnly) this.health("late", `Read-only${latency}`);
    else this.health("live", `Live${latency}`);
  }

  // A node that is there and says nothing: what the page shows is of then, not of now.
  checkAge() {
    const silence = Date.now() - this.tickAt;
    if (this.tickAt && silence > Math.max(SILENCE_MS_MIN, TICKS_MISSED * this.tickMs)) this.health("stale", `Silent for ${duration(silence)}`);
  }

  health(state, text) {
    $("health").dataset.state = state;
    setText($("health-text"), text);
    const isOld = this.status !== null && (state === "lost" || state === "stale");
    document.body.classList.toggle("old", isOld || this.status === null);
    $("age").hidden = !isOld;
    if (isOld) setText($("age"), `As of ${clock(this.status.now_ms)}: the node does not answer now.`);
  }

  banner(text) {
    $("banner").hidden = !text;
    setText($("banner"), visible(text));
  }

  // The token.

  locked(signal) {
    if (signal.aborted) return;
    this.session.abort();
    this.health("locked", "Locked");
    this.askToken(this.api.token ? "This token is not the node's." : "");
  }

  askToken(error) {
    setText($("token-error"), error);
    $("token-forget").hidden = !this.api.token;
    if (!$("token-dialog").open) $("token-dialog").showModal();
    $("token").focus();
  }

  unlock(event) {
    event.preventDefault();
    const token = $("token").value.trim();
    $("token").value = "";
    if (!TOKEN.test(token)) {
      setText($("token-error"), "This token is not the node's.");
      return;
    }
    this.api.token = token;
    $("token-dialog").close();
    this.choose($("prefix").value);
  }

  forget() {
    Api.forgetTokens();
    location.reload();
  }

  // Colours.

  nextTheme() {
    this.showTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme) + 1) % THEMES.length]);
  }

  showTheme(theme) {
    if (!THEMES.includes(theme)) theme = "system";
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("p2p-theme", theme);
    setText($("theme"), { system: "Auto", dark: "Dark", light: "Light" }[theme]);
  }
}

function card(name, value, below) {
  const box = $(`card-${name}`);
  setText(box, brief(value));
  box.title = count(value);
  setText($(`card-${name}-sub`), below);
}

function lagText({ lag_records, peers_connected, own_records }) {
  if (lag_records) return "own records not yet at every peer";
  if (!peers_connected) return own_records ? "nobody is here to compare with" : "nothing to compare";
  return "every peer holds all of ours";
}

new Page().start().catch((error) => {
  tell($("banner"), "banner", `This page failed: ${error.message}`);
  $("banner").hidden = false;
});
