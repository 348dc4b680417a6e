// The details of a row, in a dialog: how it is made again, its seeds, their curves, and what they ran with.

class Details {
  constructor(dialog) {
    this.dialog = dialog;
    dialog.addEventListener("close", () => this.place.closed(this.place.index));
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close()); // beside what it holds
    new ResizeObserver(() => this.dialog.open && this.draw()).observe(dialog);
  }

  /**
   * Show the row at a place: { regime, index, order, moved, closed }, where `order()` is the table's order for the way
   * to the next row, and `moved(index)` and `closed(index)` are told where it went and with which row it ended.
   */
  open(place) {
    this.place = place;
    this.row = place.regime.rows[place.index];
    const { row } = this;
    const own = Object.keys(row.settings).length ? [make("h3", {}, "Its settings"), definitions(row.settings)] : [];
    const title = make("h2", { id: "details-title", tabindex: "-1" }, row.title);
    const said = make("p", { class: "heard", role: "status" });
    const content = make("div", {}, said, title, this.about(), this.command(), own);
    if (row.seeds.length) content.append(...this.seeds(), ...this.curves(), ...this.evidence());
    this.dialog.replaceChildren(this.bar(), content);
    if (!this.dialog.open) this.dialog.showModal();
    title.focus();
    place.moved(place.index);
    this.draw();
  }

  step(by) {
    const order = this.place.order();
    if (!order.length) return;
    const next = (order.indexOf(this.place.index) + by + order.length) % order.length;
    this.open({ ...this.place, index: order[next] });
  }

  bar() {
    const quiet = { class: "quiet" };
    return make(
      "nav",
      { class: "bar", "aria-label": "Rows" },
      button("Previous row", () => this.step(-1), quiet),
      button("Next row", () => this.step(1), quiet),
      button("Close", () => this.dialog.close(), quiet),
    );
  }

  about() {
    const { optimizer, status } = this.row;
    const notRun = status === "measured" ? "" : " Not run.";
    const text = `${this.place.regime.title}; optimizer=${optimizer}.${notRun}`;
    return make("p", { class: "small" }, text);
  }

  command() {
    const code = make("code", { class: "command" }, this.row.command);
    const copy = copyButton(this.row.command, "the command");
    return [make("h3", {}, "To run it"), make("div", { class: "copied" }, code, copy)];
  }

  seeds() {
    const titles = ["seed", "error\u00a0%", "status", "command", "run"];
    const headings = titles.map((text) => make("th", { scope: "col" }, text));
    const rows = this.row.seeds.map((seed) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, String(seed.seed)),
        make("td", {}, seed.error === null ? "–" : seed.error.toFixed(2)),
        make("td", { class: seed.status }, seed.status),
        make("td", {}, copyButton(seed.command, `the command of seed ${seed.seed}`)),
        make("td", {}, make("code", {}, seed.run_id)),
      ),
    );
    const head = make("thead", {}, make("tr", {}, headings));
    const table = make("table", { class: "seeds" }, head, make("tbody", {}, rows));
    return [make("h3", {}, "Seeds"), make("div", { class: "scroll", tabindex: "0" }, table)];
  }

  curves() {
    this.holders = Object.keys(QUANTITIES)
      .filter((quantity) => this.row.seeds.some((seed) => hasValues(seed.history[quantity])))
      .map((quantity) => [quantity, make("div", { role: "img", "aria-label": `${QUANTITIES[quantity]} by epoch` })]);
    const legend = this.row.seeds.map((seed, i) => make("span", {}, swatch(i), ` seed ${seed.seed}`));
    return [
      make("h3", {}, "Curves of the seeds"),
      make("div", { class: "legend small" }, legend),
      make("div", { class: "multiples" }, this.holders.map(([, holder]) => holder)),
    ];
  }

  draw() {
    if (!this.row.seeds.length) return;
    for (const [quantity, holder] of this.holders) {
      holder.replaceChildren();
      const lines = this.row.seeds
        .map((seed, i) => ({ values: seed.history[quantity] ?? [], ...style(i) }))
        .filter((line) => hasValues(line.values));
      draw(holder, lines, { title: QUANTITIES[quantity], height: 200 });
    }
  }

  /** What the runs say of themselves; where the seeds differ in something, all values of it. */
  evidence() {
    const { regime } = this.place;
    const settings = this.merged("settings");
    const keys = Object.keys(settings).sort();
    const sorted = Object.fromEntries(keys.map((key) => [key, settings[key]]));
    const of = (key) => distinct(this.row.seeds.map((seed) => seed[key]));
    const made = { device: of("device"), commit: of("commit") };
    const summary = make("summary", {}, `The whole configuration (${keys.length} settings)`);
    return [
      make("h3", {}, "Made on"),
      definitions({ ...made, ...this.merged("versions") }),
      make("details", {}, summary, definitions(sorted)),
    ];
  }

  merged(kind) {
    const shared = { ...this.place.regime[kind], ...this.row.common[kind] };
    const ofSeeds = this.row.seeds.map((seed) => ({ ...shared, ...seed[kind] }));
    const keys = [...new Set(ofSeeds.flatMap(Object.keys))];
    return Object.fromEntries(keys.map((key) => [key, distinct(ofSeeds.map((of) => of[key] ?? "–"))]));
  }
}
