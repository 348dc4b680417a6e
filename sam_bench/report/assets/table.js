// What a regime's table can do beyond being read: sort (by the library, with a button in each heading), filter, switch
// curves, and open a row.

class Table {
  /** `open(index)` shows a row's details; `toggle(index)` switches its curve. */
  constructor(section, regime, { open, toggle, hasCurve }) {
    this.box = section.querySelector(".scroll");
    this.element = this.box.querySelector("table");
    this.regime = regime;
    this.switches = new Map();
    for (const heading of this.element.tHead.rows[0].cells) {
      heading.replaceChildren(make("button", { type: "button" }, ...heading.childNodes));
    }
    for (const row of this.rows()) this.enhanceRow(row, { open, toggle, hasCurve });
    this.element.addEventListener("click", (event) => {
      const row = event.target.closest("tbody tr");
      const chosen = !getSelection().isCollapsed; // text of a row is being selected, not the row clicked
      if (row && !chosen && !event.target.closest("button, input, label")) open(Number(row.dataset.row));
    });
    this.box.before(this.makeFilter(), this.makeColumns());
    new ResizeObserver(() => this.fit()).observe(this.box);
  }

  /** The rows' elements, in the order of now. */
  rows() {
    return [...this.element.querySelectorAll("tbody tr")];
  }

  enhanceRow(row, { open, toggle, hasCurve }) {
    const index = Number(row.dataset.row);
    const title = this.regime.rows[index].title;
    const name = button(title, () => open(index), { class: "open", "aria-haspopup": "dialog" });
    const check = make("input", { type: "checkbox", "aria-label": `Curve of ${title}`, onchange: () => toggle(index) });
    if (hasCurve(index)) this.switches.set(index, check);
    else check.disabled = true;
    row.cells[0].replaceChildren(make("div", {}, check, name));
  }

  makeFilter() {
    this.count = make("output", { class: "count" });
    const field = make("input", { type: "search", oninput: () => this.filter(field.value) });
    this.filter("");
    return make("div", { class: "controls" }, make("label", {}, "Filter methods ", field), this.count);
  }

  /** Make a folded list of check boxes that hide columns. */
  makeColumns() {
    const boxes = [...this.element.tHead.rows[0].cells].slice(1).map((heading, i) => {
      const check = make("input", { type: "checkbox", checked: true, onchange: () => this.hide(i + 1, !check.checked) });
      return make("label", {}, check, ` ${heading.textContent}`);
    });
    return make("details", { class: "columns" }, make("summary", {}, "Columns"), make("div", { class: "controls" }, boxes));
  }

  /** Hide a column or show it; rows that were not run have one cell over all columns, which stays. */
  hide(column, hidden) {
    for (const { cells } of [this.element.tHead.rows[0], ...this.rows()]) {
      if (cells.length > 2) cells[column].hidden = hidden;
    }
    this.fit();
  }

  /** Show the rows in which every word stands. */
  filter(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = this.rows();
    for (const row of rows) {
      const { title, optimizer } = this.regime.rows[row.dataset.row];
      const searched = `${title} ${optimizer}`.toLowerCase();
      row.hidden = !words.every((word) => searched.includes(word));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    this.count.textContent = words.length ? `${shown} of ${rows.length} rows` : `${rows.length} rows`;
  }

  /** Show which curves are drawn, each check box in its curve's colour. */
  mark(shown) {
    for (const [index, check] of this.switches) {
      check.checked = shown.has(index);
      check.style.accentColor = `var(--series-${index % COLOURS})`;
    }
  }

  /** Where all columns fit, nothing scrolls within the box, and the headings can stay in sight. */
  fit() {
    this.box.classList.remove("fits");
    this.box.classList.toggle("fits", this.element.offsetWidth <= this.box.clientWidth);
  }

  /** The rows that are shown, in their order. */
  order() {
    return this.rows().flatMap((row) => (row.hidden ? [] : [Number(row.dataset.row)]));
  }

  focus(index) {
    this.element.querySelector(`tr[data-row="${index}"] .open`)?.focus();
  }
}
