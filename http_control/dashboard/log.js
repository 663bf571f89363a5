// The replicated log: heads with their marks, and the form that appends. And the lines of what happens.

import { $, copy, el, keyed, setAttributes, setText } from "./dom.js";
import { clock, count, nameOf, short, visible, wholeName } from "./format.js";
import { isLinked, tell } from "./peers.js";

const LINES_MAX = 800;
const MARKS_MAX = 6;
const HEADS_EVERY_MS = 1000; // a busy node tells of moved heads several times a second

export class Heads {
  constructor(api) {
    this.api = api;
    this.digest = "";
    this.names = new Map();
    this.near = [];
    this.isOdd = false; // some peer is not in step
    this.running = false;
    this.again = false;
    $("append").onsubmit = (event) => this.append(event);
    $("wal-digest").onclick = (event) => copy(event.currentTarget, this.digest);
  }

  know(everybody) {
    const peers = everybody.filter((peer) => peer.id !== null);
    for (const peer of peers) this.names.set(peer.id, nameOf(peer, peer.id));
    const before = this.near.join();
    this.near = peers.filter(isLinked).map(({ id }) => id).sort();
    // Who comes or goes changes the marks, and not the log.
    if (this.near.join() !== before) this.refresh();
    const targets = [{ id: "", name: "for everybody" }, ...peers.map((peer) => ({ id: peer.id, name: `for ${nameOf(peer, peer.id)}` }))];
    keyed($("append-target"), targets, ({ id }) => id, ({ id }) => el("option", { value: id }), (option, { name }) => setText(option, name));
  }

  clear() {
    this.names.clear();
    this.near = [];
    this.render({ digest: "", heads: [], total: 0 });
  }

  // One request at a time, and one a second; what asks meanwhile is answered by one more.
  async refresh() {
    this.again = true;
    if (this.running) return;
    this.running = true;
    try {
      while (this.again) {
        this.again = false;
        const api = this.api();
        const answer = await api.get("/wal?limit=200&marks=differing");
        if (api === this.api()) this.render(answer);
        else this.again = true;
        await new Promise((resolve) => setTimeout(resolve, HEADS_EVERY_MS));
      }
    } catch {
      // The health pill tells that the node does not answer; the next event asks again.
    } finally {
      this.running = false;
    }
  }

  // A peer catches up without a word from our own log, which has not moved: until all are in step every tick asks.
  look() {
    if (this.isOdd) this.refresh();
  }

  render({ digest, heads, total }) {
    this.digest = digest;
    this.isOdd = heads.some(({ marks }) => Object.keys(marks).length > 0);
    $("wal-digest").hidden = !digest;
    setText($("wal-digest"), `digest ${short(digest)}`);
    keyed($("wal-table").tBodies[0], heads, (head) => head.origin,
      () => {
        const row = el("tr", {}, el("td", { "data-name": "Origin" }), el("td", { "data-name": "Records", class: "num" }), el("td", { "data-name": "Head" }), el("td", { "data-name": "Peers", class: "marks" }, el("div")));
        row.cells[0].append(el("span", { class: "name" }), el("code"));
        row.cells[2].append(el("code"));
        return row;
      },
      (row, head) => {
        setText(row.cells[0].firstChild, nameOf(head, head.origin) + (head.own ? " (this node)" : ""));
        row.cells[0].title = `${wholeName(head, head.origin)}\n${head.origin}`;
        setText(row.cells[0].lastChild, head.node_id ? short(head.origin) : "");
        setText(row.cells[1], count(head.seq));
        setText(row.cells[2].firstChild, head.frozen ? "frozen: forked" : short(head.hash));
        setAttributes(row, { class: head.frozen ? "frozen" : null });
        keyed(row.cells[3].firstChild, this.marksOf(head), ({ key }) => key,
          () => el("span"),
          (mark, { kind, name, title }) => {
            setAttributes(mark, { class: `mark ${kind}`, title });
            setText(mark, name);
          });
      });
    $("wal-empty").hidden = heads.length > 0;
    setText($("wal-title"), total > heads.length ? `Replicated log: the first ${heads.length} of ${count(total)} origins` : "Replicated log");
  }

  // One mark a peer; of many, those that are not in step, and how many are.
  marksOf({ marks, in_step: equal }) {
    const marked = (peer) => {
      const name = this.names.get(peer) ?? short(peer);
      const { seq = null, mark = "equal" } = marks[peer] ?? {};
      return { key: peer, kind: mark, name, title: `${name}: ${mark}${seq === null ? "" : `, has ${count(seq)}`}` };
    };
    const odd = Object.keys(marks);
    if (this.near.length <= MARKS_MAX && odd.length + equal <= MARKS_MAX) return this.near.map(marked);
    return this.summedUp(odd.map(marked), equal);
  }

  summedUp(odd, equal) {
    const shown = odd.slice(0, MARKS_MAX - 1);
    if (odd.length > shown.length) shown.push({ key: "more", kind: "unknown", name: `${odd.length - shown.length} more`, title: "more peers that are not in step" });
    if (equal) shown.unshift({ key: "equal", kind: "equal", name: `${equal} in step`, title: `${equal} peers hold all of it` });
    return shown;
  }

  async append(event) {
    event.preventDefault();
    const result = $("append-result");
    const button = event.target.querySelector("button");
    button.disabled = true;
    try {
      const { seq } = await this.api().post("/wal", { payload: $("append-payload").value, kind: $("append-kind").value || "app", target: $("append-target").value || undefined });
      tell(result, "good", `Durable here as record ${count(seq)}.`);
      $("append-payload").value = "";
      $("append-payload").focus();
    } catch (error) {
      tell(result, "bad", error.message);
    } finally {
      button.disabled = false;
    }
  }
}

export class Lines {
  constructor() {
    this.list = $("logs-lines");
    this.waiting = [];
    this.isDue = false;
    $("logs-filter").oninput = () => this.filter();
    $("logs-clear").onclick = () => this.clear();
    $("logs-follow").onchange = () => this.scroll();
    // Scrolling up to read stops following; scrolling to the end goes on with it.
    this.list.onscroll = () => {
      const { scrollTop, scrollHeight, clientHeight } = this.list;
      $("logs-follow").checked = scrollTop + clientHeight >= scrollHeight - 8;
    };
  }

  clear() {
    this.waiting.length = 0;
    this.list.replaceChildren();
  }

  add(type, { time_ms, line, missed }) {
    const text = type === "gap" ? `… ${missed === null ? "lines from before the restart" : `${count(missed)} lines`} are not kept any more` : line;
    this.waiting.push({ time_ms, text: visible(text) });
    // A page that is not looked at draws no frames.
    if (this.waiting.length > LINES_MAX) this.waiting.shift();
    // Many lines at once are one change of the page.
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => this.flush());
  }

  flush() {
    this.isDue = false;
    const follow = $("logs-follow").checked;
    const wanted = $("logs-filter").value.trim().toLowerCase();
    const items = this.waiting.splice(0).map(({ time_ms, text }) => {
      const item = el("li", {}, el("time", {}, time_ms ? clock(time_ms) : ""), el("span", {}, text));
      item.hidden = wanted !== "" && !text.toLowerCase().includes(wanted);
      return item;
    });
    this.list.append(...items);
    while (this.list.childElementCount > LINES_MAX) this.list.firstElementChild.remove();
    if (follow) this.scroll();
  }

  filter() {
    const wanted = $("logs-filter").value.trim().toLowerCase();
    for (const item of this.list.children) item.hidden = wanted !== "" && !item.lastChild.textContent.toLowerCase().includes(wanted);
    this.scroll();
  }

  scroll() {
    if ($("logs-follow").checked) this.list.scrollTop = this.list.scrollHeight;
  }
}
