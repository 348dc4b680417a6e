// The page as a whole: its regimes as tabs, what its address names, its theme, and how it prints.

const { regimes } = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const details = new Details(document.getElementById("details"));
const views = new Map(regimes.map((regime) => [regime.id, view(regime)]));
const tabs = [...document.querySelectorAll("#tabs a")];
let selected = null;

root.classList.add("scripted");
for (const code of document.querySelectorAll("main code.command")) {
  const row = code.closest("dd, td").previousElementSibling;
  const copy = copyButton(code.textContent, `the command of ${row.textContent}`);
  code.replaceWith(make("div", { class: "copied" }, code.cloneNode(true), copy));
}
startTabs();
startTheme();
startPrinting();
addEventListener("hashchange", follow);
follow();

/** A regime's section, with what is in it. */
function view(regime) {
  const section = document.getElementById(regime.id);
  const curves = new Curves(section.querySelector(".curves"), regime, (shown) => table.mark(shown));
  const table = new Table(section, regime, {
    open: (index) => openRow(regime, index),
    toggle: (index) => curves.toggle(index),
    hasCurve: (index) => curves.hasCurve(index),
  });
  return { regime, section, curves, table };
}

/** Let the address name what is shown, without moving the page there. */
function name(...parts) {
  history.replaceState(null, "", `#${parts.map(encodeURIComponent).join("/")}`);
}

function openRow(regime, index) {
  const { table } = views.get(regime.id);
  details.open({
    regime,
    index,
    order: () => table.order(),
    moved: (now) => name(regime.id, regime.rows[now].id),
    closed: (then) => {
      name(regime.id);
      table.focus(then);
    },
  });
}

/** Show what the address names: `#regime` or `#regime/row`; a question is shown by the browser. */
function follow() {
  const [wanted, row] = location.hash.slice(1).split("/").map(decoded);
  if (!views.has(wanted)) {
    if (!selected) select(regimes[0].id);
    return;
  }
  const { regime, section } = views.get(wanted);
  select(regime.id);
  section.scrollIntoView();
  const index = regime.rows.findIndex((each) => each.id === row);
  if (index >= 0) openRow(regime, index);
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part; // an address that somebody wrote
  }
}

function select(id) {
  selected = id;
  for (const { regime, section } of views.values()) section.hidden = regime.id !== id;
  for (const tab of tabs) {
    const isSelected = tab.hash === `#${id}`;
    tab.setAttribute("aria-selected", isSelected);
    tab.tabIndex = isSelected ? 0 : -1;
  }
  views.get(id).curves.draw();
}

/** As the pattern for tabs has it: arrows, Home and End move, and what is moved to is shown. */
function startTabs() {
  if (!tabs.length) return;
  tabs[0].parentElement.setAttribute("role", "tablist");
  const choose = (tab) => {
    select(tab.hash.slice(1));
    name(tab.hash.slice(1));
    tab.focus();
  };
  tabs.forEach((tab, i) => {
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", tab.hash.slice(1));
    document.getElementById(tab.hash.slice(1)).setAttribute("role", "tabpanel");
    tab.addEventListener("click", (event) => {
      event.preventDefault();
      choose(tab);
    });
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1, " ": i }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      choose(tabs.at(to % tabs.length));
    });
  });
}

/** Light or dark as the system has it, until the button is pressed; the browser remembers what was chosen. */
function startTheme() {
  const chosen = remembered("theme");
  if (chosen) root.dataset.theme = chosen;
  const itself = document.getElementById("theme");
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const changed = () => {
    itself.textContent = isDark() ? "Light colours" : "Dark colours";
    redraw();
  };
  itself.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember("theme", root.dataset.theme);
    changed();
  });
  system.addEventListener("change", changed);
  changed();
}

function redraw() {
  for (const { section, curves } of views.values()) if (!section.hidden) curves.draw();
}

/** On paper everything is open, and dark ink on white; afterwards all is as before. */
function startPrinting() {
  let before = null;
  addEventListener("beforeprint", () => {
    const closed = [...document.querySelectorAll("main details:not([open])")];
    const hidden = [...views.values()].map(({ section }) => section).filter((section) => section.hidden);
    before = { theme: root.dataset.theme, closed, hidden };
    root.dataset.theme = "light";
    for (const each of closed) each.open = true;
    for (const each of hidden) each.hidden = false;
    redraw();
  });
  addEventListener("afterprint", () => {
    if (before.theme) root.dataset.theme = before.theme;
    else delete root.dataset.theme;
    for (const each of before.closed) each.open = false;
    for (const each of before.hidden) each.hidden = true;
    redraw();
  });
}
