// Numbers, times and ids as people read them.

const whole = new Intl.NumberFormat("en");
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export const count = (n) => (n === null || n === undefined ? "–" : whole.format(n));

// For a card: what would not fit is shortened, and stands whole in the tooltip.
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 2 });
export const brief = (n) => (n >= 1_000_000 ? compact.format(n) : count(n));

export function bytes(n) {
  if (n === null || n === undefined) return "–";
  let unit = 0;
  while (n >= 1024 && unit < UNITS.length - 1) {
    n /= 1024;
    unit += 1;
  }
  return `${n >= 100 || unit === 0 ? Math.round(n) : n.toFixed(1)} ${UNITS[unit]}`;
}

export function rate(n) {
  return n >= 100 || n === 0 ? count(Math.round(n)) : n.toFixed(1);
}

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  const s = Math.max(0, ms / 1000);
  if (s < 1) return "now";
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}

export function millis(ms) {
  if (ms === null || ms === undefined) return "–";
  return ms < 10 ? `${ms.toFixed(1)} ms` : `${Math.round(ms)} ms`;
}

export const short = (id) => (id ? `${id.slice(0, 8)}…` : "–");

export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

// What a terminal or a browser would obey is shown, not obeyed: a name that turns the line around stays readable.
export function visible(text) {
  return text.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`);
}

export const nameOf = (thing, id) => (thing.node_id ? fitted(visible(thing.node_id)) : short(id));

export const wholeName = (thing, id) => (thing.node_id ? visible(thing.node_id) : id);

const fitted = (text) => (text.length > 32 ? `${text.slice(0, 31)}…` : text);

// An address with the peer ids in it shortened: they stand whole in the details.
export const address = (text) => (text ? visible(text).replace(/[0-9a-f]{64}/g, short) : "–");
