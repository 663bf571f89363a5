// The table of peers, what it shows of one when asked, and the form that connects to another.

import { $, el, keyed, setAttributes, setText } from "./dom.js";
import { address, bytes, count, duration, millis, nameOf, short, visible, wholeName } from "./format.js";

const CELLS = ["Peer", "State", "Address", "RTT", "Lag", "In", "Out", "Up", "Seen"];

// A place where nobody has proven himself yet has no id.
const keyOf = (peer) => peer.id ?? peer.endpoint;
export const isLinked = (peer) => peer.connected_ms !== null;

export class Peers {
  constructor(api) {
    this.api = api;
    this.all = [];
    this.sort = { key: "node_id", down: false };
    this.shown = null;
    this.asked = 0;
    $("peers-filter").oninput = () => this.render();
    $("peers-state").onchange = () => this.render();
    for (const head of document.querySelectorAll("#peers-table th")) {
      head.querySelector("button").onclick = () => {
        const { key } = head.dataset;
        this.sort = { key, down: this.sort.key === key ? !this.sort.down : head.classList.contains("num") };
        this.render();
      };
    }
    $("connect").onsubmit = (event) => this.connect(event);
    $("connect-endpoint").oninput = () => tell($("connect-result"), "", "");
    $("peer-ping").onclick = () => this.ping();
    $("peer-close").onclick = () => $("peer-dialog").close();
    $("peer-dialog").onclose = () => (this.shown = null);
    $("peer-disconnect").onclick = () => this.disconnect();
    this.render();
  }

  update(peers) {
    this.all = peers;
    this.render();
    if (this.shown !== null) this.renderDetails();
  }

  render() {
    const wanted = $("peers-filter").value.trim().toLowerCase();
    const state = $("peers-state").value;
    const { key, down } = this.sort;
    const rows = this.all
      .filter((peer) => (!state || peer.state === state)
        && (!wanted || [peer.node_id, peer.id, peer.endpoint].some((text) => text?.toLowerCase().includes(wanted))))
      .sort((a, b) => isLinked(b) - isLinked(a) || compare(a[key], b[key]) * (down ? -1 : 1) || compare(keyOf(a), keyOf(b)));
    for (const head of document.querySelectorAll("#peers-table th")) {
      setAttributes(head, { "aria-sort": head.dataset.key === key ? (down ? "descending" : "ascending") : null });
    }
    keyed($("peers-table").tBodies[0], rows, keyOf, (peer) => this.row(peer), (row, peer) => fill(row, peer));
    const total = this.all.length;
    setText($("peers-count"), rows.length === total ? count(total) : `${count(rows.length)} of ${count(total)}`);
    $("peers-empty").hidden = rows.length > 0;
    setText($("peers-empty"), total ? "No peer matches the filter." : "Nobody is known yet.");
  }

  row(peer) {
    const row = el("tr", { tabindex: 0 }, ...CELLS.map((name, index) => el("td", { "data-name": name, class: index > 2 ? "num" : null })));
    row.cells[0].append(el("span", { class: "name" }), el("code"));
    row.cells[1].append(el("span", { class: "state" }), el("span", { class: "way" }));
    row.onclick = () => this.details(keyOf(peer));
    row.onkeydown = (event) => {
      if (event.key === "Enter") {
        event.preventDefault(); // else the same key presses the button that has the focus then
        this.details(keyOf(peer));
      }
      const next = event.key === "ArrowDown" ? row.nextElementSibling : event.key === "ArrowUp" ? row.previousElementSibling : null;
      if (next) {
        event.preventDefault();
        next.focus();
      }
    };
    return row;
  }

  details(id) {
    const chosen = this.all.find((peer) => keyOf(peer) === id);
    if (!chosen) return;
    this.shown = id;
    $("peer-heads").replaceChildren();
    $("peer-heads").knownByKey = undefined;
    setText($("peer-result"), "");
    this.asked = 0;
    this.renderDetails();
    if (isLinked(chosen)) this.ping();
    if (!$("peer-dialog").open) $("peer-dialog").showModal();
  }

  renderDetails() {
    const peer = this.all.find((each) => keyOf(each) === this.shown);
    // Of somebody who is away there is nothing to compare, and nothing to end.
    const isAway = peer !== undefined && !isLinked(peer);
    $("peer-disconnect").disabled = $("peer-ping").disabled = !peer;
    $("peer-disconnect").hidden = $("peer-ping").hidden = $("peer-logs").hidden = isAway;
    if (!peer) {
      setText($("peer-result"), "This peer has left.");
      return;
    }
    setText($("peer-title"), wholeName(peer, visible(keyOf(peer))));
    const facts = !isLinked(peer) ? [
      ["Peer id", peer.id ?? "not known yet"], ["State", peer.state], ["Address", peer.endpoint ?? "not known: it came by itself"],
      ["Configured", peer.configured ? "yes, it is dialled for ever" : "no"], ["Failed dials in a row", count(peer.failures)],
      ["Last failure", peer.failure ?? "–"], ["Next dial", nextDial(peer)],
    ] : [
      ["Peer id", peer.id], ["State", peer.state], ["Address", peer.endpoint ?? "–"],
      ["Way", peer.direct ? "direct, sealed" : "through a relay, sealed end to end"],
      ["Round trip", millis(peer.rtt_ms)], ["Connected for", duration(peer.connected_ms)], ["Last heard of", `${duration(peer.last_seen_ms)} ago`.replace("now ago", "now")],
      ["Received", bytes(peer.bytes_in)], ["Sent", bytes(peer.bytes_out)], ["Waiting to be sent", bytes(peer.outbox_bytes)],
      ["Own records it does not hold", count(peer.lag_records)], ["It is behind by", count(peer.behind_records)], ["It is ahead by", count(peer.ahead_records)],
    ];
    keyed($("peer-facts"), facts, ([name]) => name, ([name]) => el("div", {}, el("dt", {}, name), el("dd")),
      (pair, [, value]) => setText(pair.lastChild, visible(value)));
    if (isLinked(peer) && Date.now() - this.asked > 2000) this.fetchHeads(peer.id);
  }

  async fetchHeads(id) {
    this.asked = Date.now();
    try {
      const { heads } = await this.api().get(`/peers/${id}`);
      if (this.shown !== id) return;
      keyed($("peer-heads"), heads, (head) => head.origin,
        () => el("tr", {}, el("td", {}), el("td", { class: "num" }), el("td", { class: "num" }), el("td", {}, el("span"))),
        (row, head) => {
          setText(row.cells[0], nameOf(head, head.origin));
          row.cells[0].title = wholeName(head, head.origin);
          setText(row.cells[1], count(head.seq));
          setText(row.cells[2], count(head.shown_seq));
          setText(row.cells[3].firstChild, head.mark);
          setAttributes(row.cells[3].firstChild, { class: `mark ${head.mark}` });
        });
    } catch (error) {
      if (this.shown === id && error.status !== 404) setText($("peer-result"), error.message);
    }
  }

  async ping() {
    const id = this.shown;
    try {
      const { rtt_ms } = await this.api().post(`/peers/${id}/ping`, {});
      if (this.shown === id) tell($("peer-result"), "", `Answered after ${millis(rtt_ms)}.`);
    } catch (error) {
      if (this.shown === id) tell($("peer-result"), "bad", error.message);
    }
  }

  async connect(event) {
    event.preventDefault();
    const result = $("connect-result");
    const button = event.target.querySelector("button");
    const endpoint = $("connect-endpoint").value.trim();
    button.disabled = true;
    tell(result, "", "Dialling…");
    try {
      const answer = await this.api().post("/connect", { endpoint });
      tell(result, "good", `Connected to ${nameOf(answer.peer, answer.peer.id)}.`);
      $("connect-endpoint").value = "";
    } catch (error) {
      if (error.status === 409) tell(result, "good", `Connected already to ${nameOf(error.body.peer ?? {}, error.body.peer?.id)}.`);
      else if (error.body?.error === "invalid_endpoint") tell(result, "bad", "Write HOST:PORT, tcp://[::1]:PORT, ws://HOST:PORT or relay://RELAY/PEER.");
      else tell(result, "bad", error.message);
    } finally {
      button.disabled = false;
    }
  }

  async disconnect() {
    const result = $("peer-result");
    tell(result, "", "Saying goodbye…");
    try {
      await this.api().post("/disconnect", { peer: this.shown });
      tell(result, "good", "Disconnected.");
    } catch (error) {
      tell(result, "bad", error.message);
    }
  }
}

function fill(row, peer) {
  const { cells } = row;
  const linked = isLinked(peer);
  setAttributes(row, { class: linked ? null : "away" });
  setText(cells[0].firstChild, peer.id || peer.node_id ? nameOf(peer, peer.id) : "not met yet");
  cells[0].title = `${wholeName(peer, visible(keyOf(peer)))}\n${peer.id ?? ""}`;
  cells[2].title = visible(peer.endpoint ?? "");
  setText(cells[0].lastChild, peer.node_id ? short(peer.id) : "");
  setText(cells[1].firstChild, peer.state);
  setAttributes(cells[1].firstChild, { class: `state ${peer.state}` });
  setText(cells[1].lastChild, linked ? (peer.direct ? "" : "relayed") : whyAway(peer));
  const ofLink = (text) => (linked ? text : "–");
  [address(peer.endpoint), millis(peer.rtt_ms), ofLink(count(peer.lag_records)), ofLink(bytes(peer.bytes_in)), ofLink(bytes(peer.bytes_out)),
    duration(peer.connected_ms), duration(peer.last_seen_ms)].forEach((text, index) => setText(cells[index + 2], text));
  setAttributes(cells[4], { class: peer.lag_records ? "num late" : "num" });
}

const nextDial = (peer) => (peer.next_dial_ms === null ? "–" : peer.next_dial_ms < 1000 ? "now" : `in ${duration(peer.next_dial_ms)}`);

function whyAway(peer) {
  const next = peer.next_dial_ms === null || peer.state !== "disconnected" ? "" : `again ${nextDial(peer)}`;
  return [peer.failure ?? "", next].filter(Boolean).join(", ");
}

export function tell(output, mood, text) {
  output.className = mood;
  setText(output, visible(text));
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return 1;
  if (b === null || b === undefined) return -1;
  return typeof a === "string" ? a.localeCompare(b) : a - b;
}
