// The neighbourhood as a picture: this node in the middle, who it is connected to around it.

import { keyed, setAttributes, setText, svg } from "./dom.js";
import { count, millis, nameOf, short } from "./format.js";

const WIDTH = 560;
const HEIGHT = 380;
const PER_RING = 18;
const DENSE = 24;

export class Picture {
  constructor(canvas, onChosen) {
    this.canvas = canvas;
    this.onChosen = onChosen;
    setAttributes(canvas, { viewBox: `0 0 ${WIDTH} ${HEIGHT}` });
    this.links = svg("g", { class: "links" });
    this.nodes = svg("g", { class: "nodes" });
    canvas.append(this.links, this.nodes);
  }

  show({ nodes, links }) {
    const places = placed(nodes, links);
    this.canvas.classList.toggle("dense", nodes.length > DENSE);
    const byPeer = new Map(links.map((link) => [link.to, link]));
    keyed(this.links, links.filter((link) => places.has(link.from) && places.has(link.to)), (link) => `${link.from} ${link.to}`,
      () => svg("g", {}, svg("line"), svg("text", { "text-anchor": "middle" })),
      (group, link) => {
        const a = places.get(link.via ?? link.from) ?? places.get(link.from);
        const b = places.get(link.to);
        setAttributes(group, { class: `link ${moodOf(link)}${link.direct === false ? " relayed" : ""}` });
        setAttributes(group.firstChild, { x1: a.x, y1: a.y, x2: b.x, y2: b.y });
        const waiting = (link.behind_records ?? 0) + (link.ahead_records ?? 0);
        setAttributes(group.lastChild, { x: a.x + (b.x - a.x) * 0.55, y: a.y + (b.y - a.y) * 0.55 - 4 });
        setText(group.lastChild, waiting ? `${count(waiting)} to go` : "");
      });
    keyed(this.nodes, nodes.filter((node) => places.has(node.id)), (node) => node.id,
      (node) => this.node(node),
      (group, node) => {
        const { x, y, outward } = places.get(node.id);
        const link = byPeer.get(node.id);
        const mood = node.self ? "self" : link ? moodOf(link) : "stale";
        setAttributes(group, { class: `node ${mood}`, transform: `translate(${x} ${y})`, "aria-label": labelOf(node, link) });
        const label = group.querySelector("text");
        const name = nameOf(node, node.id);
        setText(label, name.length > 18 ? `${name.slice(0, 17)}…` : name);
        setAttributes(label, { y: node.self ? 36 : outward ? 26 : -18 });
        setText(group.querySelector("title"), labelOf(node, link));
      });
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

function moodOf(link) {
  if (link.state !== "connected") return "stale";
  return (link.behind_records ?? 0) + (link.ahead_records ?? 0) > 0 ? "late" : "ok";
}

function labelOf(node, link) {
  const who = `${nameOf(node, node.id)} (${short(node.id)})`;
  if (node.self) return `${who}, this node`;
  if (!link) return `${who}, not connected`;
  const way = link.direct === false ? "through a relay" : "direct";
  return `${who}: ${link.state}, ${way}, round trip ${millis(link.rtt_ms)}, ${count(link.lag_records)} records behind`;
}

// Rings of neighbours; who is reached through a relay stands outside, behind it. The order is that of the ids, so that
// nobody jumps about when somebody else comes or goes far away in the list.
function placed(nodes, links) {
  const places = new Map();
  const self = nodes.find((node) => node.self);
  if (!self) return places;
  const center = { x: WIDTH / 2, y: HEIGHT / 2 - 4 };
  places.set(self.id, { ...center, outward: true });
  const via = new Map(links.filter((link) => link.via).map((link) => [link.to, link.via]));
  const near = nodes.filter((node) => !node.self && !via.has(node.id)).sort((a, b) => (a.id < b.id ? -1 : 1));
  const rings = Math.max(1, Math.ceil(near.length / PER_RING));
  near.forEach((node, index) => {
    const ring = index % rings;
    const along = index / (rings * Math.ceil(near.length / rings)); // each ring a little further round than the one before
    const angle = along * 2 * Math.PI - Math.PI / 2;
    const reach = rings === 1 ? (via.size ? 0.62 : 0.8) : 0.5 + (0.42 * ring) / (rings - 1);
    const y = center.y + Math.sin(angle) * reach * (HEIGHT / 2 - 30);
    places.set(node.id, { x: center.x + Math.cos(angle) * reach * (WIDTH / 2 - 50), y, angle, outward: y >= center.y });
  });
  const behind = new Map();
  for (const node of nodes.filter((each) => via.has(each.id))) {
    const relay = places.get(via.get(node.id)) ?? places.get(self.id);
    const nth = behind.get(relay) ?? 0;
    behind.set(relay, nth + 1);
    const angle = (relay.angle ?? 0) + 0.35 * (nth % 2 ? 1 : -1) * Math.ceil((nth + 1) / 2);
    const y = Math.min(HEIGHT - 34, Math.max(22, relay.y + Math.sin(angle) * 70));
    places.set(node.id, { x: Math.min(WIDTH - 64, Math.max(64, relay.x + Math.cos(angle) * 90)), y, angle, outward: y >= relay.y });
  }
  return places;
}
