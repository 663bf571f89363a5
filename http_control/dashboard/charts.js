// Small charts: one or two lines over the last samples, with the newest value told beside them.

import { setAttributes, setText, svg } from "./dom.js";

const WIDTH = 600;
const HEIGHT = 90;
const POINTS_MAX = 150; // more would be noise at this size: neighbours are averaged

export class Chart {
  // series: [{key, name}], say: (sample) => text beside the caption, top: (max) => text of the upper edge
  constructor(figure, series, say, top) {
    this.series = series;
    this.say = say;
    this.top = top;
    this.output = figure.querySelector("output");
    this.limit = svg("text", { class: "limit", x: 4, y: 12 });
    this.areas = series.map(({ name }) => svg("path", { class: `area ${name}` }));
    this.lines = series.map(({ name }) => svg("path", { class: `line ${name}` }));
    this.cursor = svg("line", { class: "cursor", y1: 0, y2: HEIGHT, visibility: "hidden" });
    this.canvas = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": true },
      svg("line", { class: "ground", x1: 0, x2: WIDTH, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }),
      ...this.areas, ...this.lines, this.cursor);
    const frame = document.createElement("div");
    this.edge = document.createElement("span");
    this.edge.className = "edge";
    frame.append(this.canvas, this.edge);
    figure.append(frame);
    this.samples = [];
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
  }

  show(samples) {
    samples = thinned(samples, this.series);
    this.samples = samples;
    const most = Math.max(1, ...samples.flatMap((sample) => this.series.map(({ key }) => sample[key] ?? 0)));
    const step = WIDTH / Math.max(1, samples.length - 1);
    this.series.forEach(({ key }, index) => {
      const points = samples.map((sample, at) => `${(at * step).toFixed(1)} ${(HEIGHT - 2 - ((sample[key] ?? 0) / most) * (HEIGHT - 8)).toFixed(1)}`);
      const line = points.length > 1 ? `M${points.join("L")}` : "";
      setAttributes(this.lines[index], { d: line });
      setAttributes(this.areas[index], { d: line && `${line}L${WIDTH} ${HEIGHT}L0 ${HEIGHT}Z` });
    });
    setText(this.edge, samples.length ? this.top(most) : "");
    if (this.cursor.getAttribute("visibility") === "hidden") setText(this.output, samples.length ? this.say(samples.at(-1)) : "");
  }

  point(event) {
    if (event === null || this.samples.length < 2) {
      setAttributes(this.cursor, { visibility: "hidden" });
      if (this.samples.length) setText(this.output, this.say(this.samples.at(-1)));
      return;
    }
    const { left, width } = this.canvas.getBoundingClientRect();
    const at = Math.round(((event.clientX - left) / width) * (this.samples.length - 1));
    const sample = this.samples[Math.min(this.samples.length - 1, Math.max(0, at))];
    const x = (at / (this.samples.length - 1)) * WIDTH;
    setAttributes(this.cursor, { visibility: "visible", x1: x, x2: x });
    setText(this.output, `${new Date(sample.time_ms).toLocaleTimeString("en-GB")}  ${this.say(sample)}`);
  }
}

function thinned(samples, series) {
  const step = Math.ceil(samples.length / POINTS_MAX);
  if (step < 2) return samples;
  const thin = [];
  // From the end, so that the newest group is whole.
  for (let end = samples.length; end > 0; end -= step) {
    const group = samples.slice(Math.max(0, end - step), end);
    const mean = { ...group.at(-1) };
    for (const { key } of series) mean[key] = group.reduce((sum, sample) => sum + (sample[key] ?? 0), 0) / group.length;
    thin.unshift(mean);
  }
  return thin;
}
