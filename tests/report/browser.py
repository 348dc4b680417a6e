"""A browser that opens the results page, and the scripts with which the tests read it."""

import time

#: Returns the visible texts whose contrast with their background is below the 4.5 that WCAG requires (AA).
CONTRAST = """
const channel = (value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
const luminance = (colour) => {
  const [r, g, b] = parts(colour).map((value) => channel(value / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if ((parts(colour)[3] ?? 1) > 0) return colour;
  }
};
const illegible = [];
for (const element of document.querySelectorAll("body *:not(svg *)")) {
  const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!hasText || !element.checkVisibility() || element.closest(".heard")) continue;
  const [a, b] = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) illegible.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)} ${element.textContent}`);
}
return illegible;
"""

#: Returns how many pixels of a regime's curves have a colour, without bands and faint edges.
PIXELS = """
const canvas = document.querySelector(`#${arguments[0]} .chart canvas`);
if (!canvas) return 0;
const probe = document.body.appendChild(document.createElement("i"));
probe.style.color = `var(${arguments[1]})`;
const color = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
probe.remove();
const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
let count = 0;
for (let i = 0; i < data.length; i += 4) {
  count += data[i + 3] > 128 && color.every((value, k) => Math.abs(value - data[i + k]) < 8);
}
return count;
"""


class Browser:
    """A browser, with the actions and the questions that the tests share."""

    def __init__(self, driver):
        self.driver = driver

    def command(self, name: str, **arguments):
        """Run a command of the Chrome DevTools protocol."""
        return self.driver.execute_cdp_cmd(name, arguments)

    def resize(self, width: int):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str):
        """Set the colour scheme that the user prefers: "light", "dark", or "" for none."""
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, address: str):
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver.get("about:blank")
        self.driver.get(address)
        is_loaded = "return document.readyState === 'complete' && location.href.startsWith(arguments[0])"
        WebDriverWait(self.driver, 30).until(lambda _: self.js(is_loaded, address.partition("#")[0]))

    def js(self, script: str, *arguments):
        """Run a script in the page, and return its result."""
        return self.driver.execute_script(script, *arguments)

    def one(self, selector: str):
        """Return the first element that matches."""
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list:
        """Return all elements that match."""
        return self.driver.find_elements("css selector", selector)

    def keys(self, *keys: str):
        """Press keys on the focused element."""
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        """Return the text of the focused element."""
        return self.js("return document.activeElement.textContent")

    def column(self, number: int, part: str = "tbody:not(.not-run)") -> list[str]:
        """Return the values by which the shown rows of the first table are sorted, from top to bottom."""
        script = "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.dataset.sort)"
        return self.js(script, f"#noisy40 .results {part} tr:not([hidden]) > :nth-child({number})")

    def sort(self, number: int) -> str | None:
        """Press a heading of the first table, and return its order."""
        heading = self.one(f"#noisy40 .results thead th:nth-child({number})")
        self.sorted_after(heading.find_element("css selector", "button").click)
        return heading.get_attribute("aria-sort")

    def sorted_after(self, press):
        """Call what sorts a table, and wait until the library has sorted it, which is a moment later."""
        self.js("window.sorted = false; addEventListener('sort-end', () => (window.sorted = true), { once: true })")
        press()
        assert self.eventually(lambda: self.js("return window.sorted"))

    def settle(self):
        """Wait until the page has responded to a change of size."""
        frames = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        self.driver.execute_async_script(frames)

    def eventually(self, condition) -> bool:
        """Return True once a condition holds; False if it does not within 20 seconds, enough for a slow machine."""
        deadline = time.monotonic() + 20
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.02)
        return bool(condition())

    def pixels(self, regime: str, color: str) -> int:
        """Return how many pixels of a regime's curves have a colour, without bands and faint edges.

        Args:
            color: a variable of the style sheet.
        """
        return self.js(PIXELS, regime, color)

    def overflow(self, selector: str) -> int:
        """Return by how many pixels an element's content is wider than the element."""
        return self.js("const e = document.querySelector(arguments[0]); return e.scrollWidth - e.clientWidth", selector)

    def lightness(self) -> int:
        """Return the lightness of the page's text, from 0 to 255."""
        return self.js("return Number(getComputedStyle(document.documentElement).color.match(/\\d+/)[0])")

    def paste(self) -> str:
        """Return the content of the clipboard, by way of a field of the page."""
        from selenium.webdriver.common.keys import Keys

        self.js("(document.querySelector('dialog[open]') ?? document.body).append(document.createElement('textarea'))")
        field = self.one("textarea")
        field.send_keys(Keys.CONTROL, "v")
        text = field.get_property("value")
        self.js("arguments[0].remove()", field)
        return text
