// A line chart of the last minutes in SVG: one or two series, marks for swaps, values under the pointer.

const SVG = "http://www.w3.org/2000/svg";
const SPAN_S = 300;
const HEIGHT = 108;
const [LEFT, RIGHT, TOP, BOTTOM] = [40, 4, 8, 18];

/** Shows samples, each an object with `at` in Unix seconds. */
export class Chart {
  /**
   * @param {HTMLElement} place
   * @param {string} name for those who cannot see it
   * @param {{key: string, name: string}[]} series at most two
   * @param {(value: number) => string} told a value as text
   */
  constructor(place, name, series, told) {
    this.name = name;
    this.series = series;
    this.told = told;
    this.svg = place.appendChild(document.createElementNS(SVG, "svg"));
    this.svg.setAttribute("role", "img");
    this.legend = place.appendChild(document.createElement("p"));
    this.legend.className = "legend";
    this.samples = [];
    this.swaps = [];
    this.pointed = null;
    this.svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    this.svg.addEventListener("pointerleave", () => this.#point(null));
    new ResizeObserver(() => this.#draw()).observe(place);
  }

  /** Show these samples, oldest first, and swaps at these Unix seconds. */
  show(samples, swaps) {
    this.samples = samples.slice(-SPAN_S);
    this.swaps = swaps;
    this.#draw();
  }

  #point(x) {
    this.pointed = x;
    this.#draw();
  }

  #draw() {
    const width = this.svg.clientWidth;
    if (!width) return;
    const end = this.samples.at(-1)?.at ?? 0;
    const values = this.samples.flatMap((sample) => this.series.map(({ key }) => sample[key] ?? 0));
    const top = rounded(usual(values));
    const x = (at) => LEFT + ((at - end + SPAN_S) / SPAN_S) * (width - LEFT - RIGHT);
    const y = (value) => HEIGHT - BOTTOM - Math.min(value / top, 1.05) * (HEIGHT - TOP - BOTTOM);

    const drawn = [];
    for (const share of [0, 0.5, 1]) {
      const at = y(share * top);
      drawn.push(line("grid", LEFT, at, width - RIGHT, at), text(LEFT - 6, at + 4, "end", this.told(share * top)));
    }
    drawn.push(text(LEFT, HEIGHT - 4, "start", `−${SPAN_S / 60} min`), text(width - RIGHT, HEIGHT - 4, "end", "now"));
    this.series.forEach(({ key }, number) => {
      const kind = number ? "second" : "first";
      for (const run of runs(this.samples, key)) {
        const points = run.map((sample) => `${x(sample.at).toFixed(1)},${y(sample[key]).toFixed(1)}`);
        if (!number && run.length > 1) {
          const [from, to] = [x(run[0].at), x(run.at(-1).at)];
          drawn.push(shape("polygon", `area ${kind}`, { points: `${from},${y(0)} ${points.join(" ")} ${to},${y(0)}` }));
        }
        drawn.push(shape("polyline", `line ${kind}`, { points: points.join(" ") }));
      }
    });
    const swaps = this.swaps.filter((at) => at > end - SPAN_S && at <= end + 1);
    for (const at of swaps.map(x)) {
      drawn.push(line("swap", at, TOP, at, HEIGHT - BOTTOM), shape("path", "flag", { d: `M${at} ${TOP - 6}l5 3l-5 3z` }));
    }
    const sample = this.#pointedSample(x);
    if (sample) drawn.push(line("cursor", x(sample.at), TOP, x(sample.at), HEIGHT - BOTTOM));
    this.svg.replaceChildren(...drawn);

    const shown = sample ?? this.samples.at(-1);
    const said = this.series.map(({ key, name }) => `${name} ${shown?.[key] == null ? "–" : this.told(shown[key])}`);
    const items = said.map((words, number) => item(number ? "second" : "first", words));
    if (swaps.length) items.push(item("swap", "swap"));
    if (sample) items.push(item("moment", new Date(sample.at * 1000).toLocaleTimeString()));
    this.legend.replaceChildren(...items);
    const swapped = swaps.length ? `; ${swaps.length} new model${swaps.length > 1 ? "s" : ""} in this time` : "";
    this.svg.setAttribute("aria-label", `${this.name}, last ${SPAN_S / 60} minutes: ${said.join(", ")}${swapped}`);
  }

  #pointedSample(x) {
    if (this.pointed === null) return null;
    const near = (sample) => Math.abs(x(sample.at) - this.pointed);
    return this.samples.reduce((best, sample) => (best && near(best) <= near(sample) ? best : sample), null);
  }
}

/** The largest value, but for rare ones that would flatten all the others: those leave the chart at its top. */
function usual(values) {
  const sorted = values.filter((value) => value > 0).sort((a, b) => a - b);
  const most = sorted[Math.floor(0.9 * sorted.length)] ?? 0;
  return Math.min(sorted.at(-1) ?? 0, 3 * most);
}

/** The smallest 1, 2 or 5 times a power of ten that is not below a value. */
function rounded(value) {
  if (value <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((times) => times * unit >= value) * unit;
}

/** The stretches of samples that have a value. */
function runs(samples, key) {
  const found = [[]];
  for (const sample of samples) {
    if (sample[key] != null) found.at(-1).push(sample);
    else if (found.at(-1).length) found.push([]);
  }
  return found.filter((run) => run.length);
}

function shape(name, kind, attributes) {
  const made = document.createElementNS(SVG, name);
  made.setAttribute("class", kind);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function line(kind, x1, y1, x2, y2) {
  return shape("line", kind, { x1, y1, x2, y2 });
}

function text(x, y, anchor, words) {
  const made = shape("text", "", { x, y, "text-anchor": anchor });
  made.textContent = words;
  return made;
}

function item(kind, words) {
  const made = document.createElement("span");
  made.className = kind;
  made.textContent = words;
  return made;
}
