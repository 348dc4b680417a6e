// Elements from texts, which are never read as HTML; and what is copied, and said.

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null));
  return element;
}

function button(text, onclick, attributes = {}) {
  return make("button", { type: "button", onclick, ...attributes }, text);
}

/** Say something to those who hear the page: within the dialog if one is open, for nothing else is heard then. */
function say(text) {
  document.querySelector("dialog[open] [role=status], body > [role=status]").textContent = text;
}

/** Make a button that puts a text on the clipboard; `what` tells it from the other such buttons. */
function copyButton(text, what) {
  const itself = button("Copy", copy, { class: "copy", "aria-label": `Copy ${what}` });
  let timer;
  async function copy(event) {
    event.stopPropagation();
    const done = await toClipboard(text, itself.parentElement);
    itself.textContent = done ? "Copied" : "Select it by hand";
    itself.focus();
    say(done ? `Copied ${what}` : "The browser does not let this page copy");
    clearTimeout(timer);
    timer = setTimeout(() => (itself.textContent = "Copy"), 2000);
  }
  return itself;
}

/** Whether it worked. In a file, browsers may refuse the clipboard: then as before there was one. */
async function toClipboard(text, near) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = make("textarea", { class: "heard", readonly: true });
    field.value = text;
    near.append(field); // within an open dialog, since nothing outside it can be selected
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

/** What the browser remembers under a name; null if nothing, or if it remembers nothing of files. */
function remembered(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // the page works without
  }
}

/** The different values of a list, in their order, as one text. */
function distinct(values) {
  return [...new Set(values)].join(", ");
}

function definitions(entries) {
  const parts = Object.entries(entries).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);
  return make("dl", {}, parts);
}
