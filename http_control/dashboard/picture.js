// The neighbourhood as a picture: this node in the middle, who it is connected to around it.

import { keyed, setAttributes, setText, svg } from "./dom.js";
import { count, millis, nameOf, short, wholeName } from "./format.js";
import { isLinked } from "./peers.js";

const WIDTH = 560;
const HEIGHT = 380;
const PER_RING = 18;
const DENSE = 24;
const DENSE_HEIGHT = 500;
const DENSE_REACH = 165;
const NAME_EM_MAX = 10;
const LATE_AFTER_MS = 2500; // a record under way is nothing to be told of

// This node, its peers and the links between them, out of what the node says at every tick.
export function neighbourhood(status, peers) {
  const near = peers.filter(isLinked);
  const nodes = [{ id: status.peer_id, node_id: status.node_id, self: true }, ...near.map(({ id, node_id }) => ({ id, node_id, self: false }))];
  return { nodes, links: near.map((peer) => ({ ...peer, from: status.peer_id, to: peer.id, via: relayOf(peer, near) })) };
}

function relayOf(peer, near) {
  const relay = peer.direct ? null : /^relay:\/\/([^/]+)\//.exec(peer.endpoint ?? "")?.[1];
  return relay ? near.find(({ id, node_id }) => id === relay || node_id === relay)?.id ?? null : null;
}

export class Picture {
  constructor(canvas, onChosen) {
    this.canvas = canvas;
    this.onChosen = onChosen;
    setAttributes(canvas, { viewBox: `0 0 ${WIDTH} ${HEIGHT}` });
    this.past = [];
    this.pen = document.createElement("canvas").getContext("2d");
    this.pen.font = `100px ${getComputedStyle(document.body).fontFamily}`;
    this.links = svg("g", { class: "links" });
    this.nodes = svg("g", { class: "nodes" });
    this.hint = svg("text", { class: "hint", x: WIDTH / 2, y: HEIGHT - 40, "text-anchor": "middle" });
    canvas.append(this.links, this.nodes, this.hint);
  }

  clear() {
    this.past = [];
    keyed(this.links, [], () => "");
    keyed(this.nodes, [], () => "");
    setText(this.hint, "");
  }

  // records: how many this node holds of all logs together.
  show({ nodes, links }, records) {
    const height = nodes.length > DENSE ? DENSE_HEIGHT : HEIGHT;
    setAttributes(this.canvas, { viewBox: `0 0 ${WIDTH} ${height}` });
    const places = placed(nodes, links, height);
    const moods = this.moods(links, records);
    setText(this.hint, nodes.length > 1 ? "" : "Nobody is connected: give an address under Peers, below.");
    this.canvas.classList.toggle("dense", nodes.length > DENSE);
    const em = parseFloat(getComputedStyle(this.canvas).getPropertyValue("--name"));
    const byPeer = new Map(links.map((link) => [link.to, link]));
    keyed(this.links, links.filter((link) => places.has(link.from) && places.has(link.to)), (link) => `${link.from} ${link.to}`,
      () => svg("g", {}, svg("line"), svg("text", { "text-anchor": "middle" })),
      (group, link) => {
        const a = places.get(link.via ?? link.from) ?? places.get(link.from);
        const b = places.get(link.to);
        setAttributes(group, { class: `link ${moods.get(link.to)}${link.direct === false ? " relayed" : ""}` });
        setAttributes(group.firstChild, { x1: a.x, y1: a.y, x2: b.x, y2: b.y });
        const waiting = (link.behind_records ?? 0) + (link.ahead_records ?? 0);
        setAttributes(group.lastChild, { x: a.x + (b.x - a.x) * 0.55, y: a.y + (b.y - a.y) * 0.55 - 4 });
        setText(group.lastChild, moods.get(link.to) === "late" ? `${count(waiting)} to go` : "");
      });
    keyed(this.nodes, nodes.filter((node) => places.has(node.id)), (node) => node.id,
      (node) => this.node(node),
      (group, node) => {
        const place = places.get(node.id);
        const { x, y } = place;
        const link = byPeer.get(node.id);
        const mood = node.self ? "self" : link ? moods.get(node.id) : "stale";
        setAttributes(group, { class: `node ${mood}`, transform: `translate(${x} ${y})`, "aria-label": labelOf(node, link) });
        const label = group.querySelector("text");
        setText(label, this.fitting(nameOf(node, node.id), roomAt(place, height) / em));
        placeLabel(label, place, node.self);
        setText(group.querySelector("title"), labelOf(node, link));
      });
  }

  // A name, or as much of its beginning as there is room for: letters are not of one width.
  fitting(name, emMax) {
    const fits = (text) => this.pen.measureText(text).width <= Math.min(emMax, NAME_EM_MAX) * 100;
    if (fits(name)) return name;
    let end = name.length - 1;
    while (end > 1 && !fits(`${name.slice(0, end)}…`)) end -= 1;
    return `${name.slice(0, end)}…`;
  }

  // In step, silent, or late: one of the two does not hold yet what the other one held a while ago. Where records come all
  // the time, somebody is always a few behind, and still in step.
  moods(links, records) {
    const now = Date.now();
    const held = new Map(links.map((link) => [link.to, records - (link.behind_records ?? 0) + (link.ahead_records ?? 0)]));
    this.past.push({ at: now, records, held });
    while (this.past.length > 2 && now - this.past[1].at >= LATE_AFTER_MS) this.past.shift();
    const then = this.past[0];
    const isOldEnough = now - then.at >= LATE_AFTER_MS;
    return new Map(links.map((link) => {
      const missing = (link.behind_records ?? 0) - (records - then.records) > 0 || records < (then.held.get(link.to) ?? 0);
      const isApart = (link.behind_records ?? 0) + (link.ahead_records ?? 0) > 0;
      return [link.to, link.state !== "connected" ? "stale" : isOldEnough && isApart && missing ? "late" : "ok"];
    }));
  }

  node(node) {
    const group = svg("g", { tabindex: node.self ? null : 0, role: node.self ? "img" : "button" },
      svg("title"),
      svg("circle", { r: node.self ? 18 : 11 }),
      svg("circle", { r: node.self ? 7 : 4, class: "core" }),
      svg("text", { "text-anchor": "middle" }));
    if (!node.self) {
      const choose = () => this.onChosen(node.id);
      group.addEventListener("click", choose);
      group.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          choose();
        }
      });
    }
    return group;
  }
}

function labelOf(node, link) {
  const who = `${wholeName(node, node.id)} (${short(node.id)})`;
  if (node.self) return `${who}, this node`;
  if (!link) return `${who}, not connected`;
  const way = link.direct === false ? "through a relay" : "direct";
  return `${who}: ${link.state}, ${way}, round trip ${millis(link.rtt_ms)}, ${count(link.lag_records)} records behind`;
}

// Rings of neighbours; who is reached through a relay stands outside, behind it. Many stand in one ring, with their names
// outwards. The order is that of the ids, so that nobody jumps about when somebody else comes or goes far away in the list.
function placed(nodes, links, height) {
  const places = new Map();
  const self = nodes.find((node) => node.self);
  if (!self) return places;
  const center = { x: WIDTH / 2, y: height / 2 - 4 };
  places.set(self.id, { ...center, outward: true });
  const via = new Map(links.filter((link) => link.via).map((link) => [link.to, link.via]));
  const near = nodes.filter((node) => !node.self && !via.has(node.id)).sort((a, b) => (a.id < b.id ? -1 : 1));
  const isDense = nodes.length > DENSE;
  const rings = isDense ? 1 : Math.max(1, Math.ceil(near.length / PER_RING));
  near.forEach((node, index) => {
    const ring = index % rings;
    const along = index / (rings * Math.ceil(near.length / rings)); // each ring a little further round than the one before
    const angle = along * 2 * Math.PI - Math.PI / 2;
    const reach = rings === 1 ? (via.size ? 0.62 : 0.8) : 0.5 + (0.42 * ring) / (rings - 1);
    const [wide, high] = isDense ? [DENSE_REACH, DENSE_REACH] : [reach * (WIDTH / 2 - 50), reach * (height / 2 - 30)];
    const y = center.y + Math.sin(angle) * high;
    places.set(node.id, { x: center.x + Math.cos(angle) * wide, y, angle, outward: y >= center.y, isDense });
  });
  const behind = new Map();
  for (const node of nodes.filter((each) => via.has(each.id))) {
    const relay = places.get(via.get(node.id)) ?? places.get(self.id);
    const nth = behind.get(relay) ?? 0;
    behind.set(relay, nth + 1);
    const angle = (relay.angle ?? 0) + 0.35 * (nth % 2 ? 1 : -1) * Math.ceil((nth + 1) / 2);
    const away = isDense ? 60 : 90;
    const y = Math.min(height - 40, Math.max(isDense ? 84 : 44, relay.y + Math.sin(angle) * away));
    const x = Math.min(WIDTH - 64, Math.max(64, relay.x + Math.cos(angle) * away));
    places.set(node.id, { x, y, angle, outward: y >= relay.y, isDense });
  }
  return places;
}

// How long a name may be at a place without running out of the picture; names stand as placeLabel has them.
function roomAt({ x, y, angle, isDense }, height) {
  if (!isDense) return 2 * Math.min(x, WIDTH - x);
  const along = (at, end, way) => (Math.abs(way) < 1e-9 ? Infinity : ((way > 0 ? end : 0) - at) / way);
  return Math.min(along(x, WIDTH, Math.cos(angle)), along(y, height, Math.sin(angle))) - 16;
}

// Names above or below their node; in a dense ring outwards, like the hours of a clock.
function placeLabel(label, { angle, outward, isDense }, isSelf) {
  if (isSelf || !isDense) {
    setAttributes(label, { y: isSelf ? 36 : outward ? 26 : -18, x: 0, "text-anchor": "middle", transform: null });
    return;
  }
  const isLeft = Math.cos(angle) < 0;
  const degrees = (angle * 180) / Math.PI + (isLeft ? 180 : 0);
  setAttributes(label, { x: isLeft ? -12 : 12, y: 3.5, "text-anchor": isLeft ? "end" : "start", transform: `rotate(${degrees.toFixed(1)})` });
}
