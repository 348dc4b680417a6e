// Curves by epoch: of all rows of a regime, and of the seeds of one.

const QUANTITIES = {
  test_error: "test error %",
  memorised: "memorised %",
  train_error: "training error %",
  train_loss: "training loss",
};
const COLOURS = 6;
const DASHES = [[], [8, 4], [2, 3], [12, 4, 2, 4], [16, 6]];
const MOST_BANDS = 8; // more of them hide each other

/** The colours of series differ, and where there are more series than colours, so do their dashes. */
const style = (index) => ({ colour: `--series-${index % COLOURS}`, dash: DASHES[Math.floor(index / COLOURS) % 5] });

/** A custom property as a colour that a canvas understands. */
function resolved(property) {
  const probe = make("i", { style: `color: var(${property})` });
  document.body.append(probe);
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}

/** A piece of a series' line, for legends. */
function swatch(index) {
  const { colour, dash } = style(index);
  const template = make("template");
  template.innerHTML =
    '<svg viewBox="0 0 30 8" width="30" height="8" aria-hidden="true"><path d="M0 4H30" fill="none" ' +
    `stroke="var(${colour})" stroke-width="2.5" stroke-dasharray="${dash.join(" ")}"/></svg>`;
  return template.content;
}

const hasValues = (values) => values?.some((value) => value !== null) ?? false;
const last = (values) => values.findLast((value) => value !== null) ?? null;

/** By epoch, the mean of the finished seeds that have a value, and the least and greatest of them. */
function spread(row, quantity) {
  const histories = row.seeds
    .filter((seed) => seed.status === "finished" && hasValues(seed.history[quantity]))
    .map((seed) => seed.history[quantity]);
  const epochs = Math.max(0, ...histories.map((history) => history.length));
  const values = Array.from({ length: epochs }, (_, i) => histories.map((h) => h[i] ?? null).filter((v) => v !== null));
  const each = (take) => values.map((of) => (of.length ? take(of) : null));
  return {
    mean: each((of) => of.reduce((sum, value) => sum + value, 0) / of.length),
    low: each((of) => Math.min(...of)),
    high: each((of) => Math.max(...of)),
  };
}

/** Draw lines, each { values, low, high, colour, dash }, into an empty element; `moved(epoch)` follows the pointer. */
function draw(holder, lines, { title, height, from = 1, moved = () => {} }) {
  const length = Math.max(...lines.map((line) => line.values.length));
  const epochs = Array.from({ length }, (_, i) => i + 1).filter(
    (epoch) => epoch >= from && lines.some((line) => (line.values[epoch - 1] ?? null) !== null),
  );
  const pick = (values) => epochs.map((epoch) => values[epoch - 1] ?? null);
  const data = [epochs];
  const series = [{}];
  const bands = [];
  for (const { values, low, high, colour, dash } of lines) {
    const stroke = resolved(colour);
    if (low && high) {
      for (const edge of [high, low]) {
        data.push(pick(edge));
        series.push({ stroke: "transparent", width: 0, spanGaps: true, points: { show: false } });
      }
      bands.push({ series: [data.length - 2, data.length - 1], fill: stroke.replace(/rgb\((.*)\)/, "rgba($1, 0.2)") });
    }
    data.push(pick(values));
    series.push({ stroke, dash, width: 2, spanGaps: true, points: { show: epochs.length < 3 } });
  }
  const ink = resolved("--muted");
  const line = { stroke: resolved("--line"), width: 1 };
  const font = "12px system-ui, sans-serif";
  const ticks = { ...line, size: 5 };
  const axis = { stroke: ink, grid: line, ticks, font, labelFont: font, labelSize: 18, labelGap: 0 };
  const incrs = [1, 2, 5, 10, 20, 50, 100];
  return new uPlot(
    {
      width: holder.clientWidth,
      height,
      series,
      bands,
      legend: { show: false },
      scales: { x: { time: false } },
      cursor: { y: false, points: { show: false }, drag: { x: true, y: false } },
      axes: [
        { ...axis, label: "epoch", size: 28, incrs },
        { ...axis, label: title, size: 48 },
      ],
      hooks: { setCursor: [(plot) => moved(plot.cursor.idx == null ? null : epochs[plot.cursor.idx])] },
    },
    data,
    holder,
  );
}

class Curves {
  constructor(holder, regime, changed) {
    Object.assign(this, { regime, changed });
    this.quantities = Object.keys(QUANTITIES).filter((quantity) =>
      regime.rows.some((row) => row.seeds.some((seed) => hasValues(seed.history[quantity]))),
    );
    this.drawable = regime.rows.map((_, index) => index).filter((index) => this.hasCurve(index));
    this.prominent = this.drawable.filter((index) => regime.rows[index].prominent);
    this.shown = new Set(this.prominent);
    this.chips = new Map(this.drawable.map((index) => [index, this.makeChip(index)]));
    this.chart = make("div", { class: "chart", role: "img" });
    if (this.drawable.length) holder.append(...this.makeParts());
    new ResizeObserver(() => this.resize()).observe(this.chart);
  }

  hasCurve(index) {
    return this.quantities.some((quantity) => hasValues(spread(this.regime.rows[index], quantity).mean));
  }

  /** The first sixth of the longest run is left out: its errors are so great that later ones all look alike. */
  start() {
    const histories = this.regime.rows.flatMap((row) => row.seeds.map((seed) => seed.history));
    const longest = Math.max(...histories.map((history) => history.test_error?.length ?? 1));
    return Math.max(1, Math.round(longest / 6));
  }

  makeParts() {
    const options = this.quantities.map((quantity) => make("option", { value: quantity }, QUANTITIES[quantity]));
    this.quantity = make("select", { onchange: () => this.draw() }, options);
    this.from = make("input", { type: "number", min: 1, value: this.start(), step: 1, oninput: () => this.draw() });
    const set = (text, indices) => button(text, () => this.show(indices), { class: "quiet" });
    return [
      make("h3", {}, "Curves"),
      make(
        "div",
        { class: "controls" },
        make("label", {}, "Show ", this.quantity),
        make("label", {}, "from epoch ", this.from),
        set("Compared", this.prominent),
        set("All", this.drawable),
        set("None", []),
      ),
      this.chart,
      make("div", { class: "chips", role: "group", "aria-label": "Curves that are drawn" }, [...this.chips.values()]),
      make(
        "p",
        { class: "small" },
        "Lines are means over a row’s finished seeds, bands reach from the least seed to the greatest (for up to " +
          `${MOST_BANDS} rows). Numbers are the last epoch’s, or those at the pointer. Drag across the curves to ` +
          "look closer; a double click shows all again.",
      ),
    ];
  }

  makeChip(index) {
    const value = make("span", { class: "value" });
    const { title } = this.regime.rows[index];
    return button([swatch(index), make("span", {}, title), value], () => this.toggle(index), { class: "chip" });
  }

  toggle(index) {
    if (!this.shown.delete(index)) this.shown.add(index);
    this.draw();
  }

  show(indices) {
    this.shown = new Set(indices);
    this.draw();
  }

  /** Draw anew, in the colours and the width of now. */
  draw() {
    if (!this.drawable.length) return;
    this.plot?.destroy();
    this.plot = null;
    for (const [index, chip] of this.chips) chip.setAttribute("aria-pressed", this.shown.has(index));
    this.changed(this.shown);
    const title = QUANTITIES[this.quantity.value];
    const drawn = this.drawable.filter((index) => this.shown.has(index));
    this.spreads = new Map(drawn.map((index) => [index, spread(this.regime.rows[index], this.quantity.value)]));
    const lines = [...this.spreads]
      .filter(([, { mean }]) => hasValues(mean))
      .map(([index, { mean, low, high }]) => {
        const band = drawn.length > MOST_BANDS ? {} : { low, high };
        return { values: mean, ...band, ...style(index) };
      });
    const names = drawn.map((index) => this.regime.rows[index].title).join(", ");
    this.chart.setAttribute("aria-label", `${title} by epoch of ${names || "nothing"}`);
    this.chart.classList.toggle("empty", !lines.length);
    this.chart.textContent = lines.length ? "" : "No curve is switched on.";
    this.tell(null);
    if (lines.length && this.chart.clientWidth) this.plot = draw(this.chart, lines, this.options(title));
  }

  options(title) {
    const height = this.chart.clientWidth < 600 ? 280 : 380;
    return { title, height, from: Number(this.from.value) || 1, moved: (epoch) => this.tell(epoch) };
  }

  /** Write each drawn row's value into its chip: at an epoch, or the last. */
  tell(epoch) {
    for (const [index, chip] of this.chips) {
      const mean = this.spreads.get(index)?.mean ?? [];
      const value = epoch === null ? last(mean) : (mean[epoch - 1] ?? null);
      chip.querySelector(".value").textContent = value === null ? "" : value.toFixed(2);
    }
  }

  resize() {
    if (!this.chart.clientWidth) return;
    if (this.plot) this.plot.setSize({ width: this.chart.clientWidth, height: this.plot.height });
    else if (this.quantity) this.draw();
  }
}
