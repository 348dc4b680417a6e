"""The results page in a browser, from a file: what its scripts add, by mouse and by keyboard, wide and narrow."""

import shutil
import time

import pytest

from sam_bench.report.page import page
from tests.report.page_payload import NASTY, payload

pytestmark = pytest.mark.browser

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
const found = [];
for (const element of document.querySelectorAll("body *:not(svg *)")) {
  const speaks = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!speaks || !element.checkVisibility() || element.closest(".heard")) continue;
  const [a, b] = [luminance(getComputedStyle(element).color), luminance(behind(element))].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05);
  if (ratio < 4.5) found.push(`${element.tagName}.${element.className} ${ratio.toFixed(2)} ${element.textContent}`);
}
return found;
"""
"""The texts that are seen and have less contrast with what is behind them than WCAG asks for (AA, 4.5)."""

PIXELS = """
const canvas = document.querySelector(`#${arguments[0]} .chart canvas`);
if (!canvas) return 0;
const probe = document.body.appendChild(document.createElement("i"));
probe.style.color = `var(${arguments[1]})`;
const wanted = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
probe.remove();
const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
let count = 0;
for (let i = 0; i < data.length; i += 4) {
  count += data[i + 3] > 128 && wanted.every((value, k) => Math.abs(value - data[i + k]) < 8);
}
return count;
"""
"""How many pixels of a regime's curves have a colour, bands and faint edges apart."""


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(page(payload()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def opened(browser, address):
    """The page, opened anew; whatever a test does with it, nothing is wrong on the console."""
    browser.command("Emulation.setScriptExecutionDisabled", value=False)
    browser.resize(1400)
    browser.open(address)
    yield browser
    said = browser.driver.get_log("browser")
    assert [entry["message"] for entry in said if entry["source"] != "rendering"] == []  # that is on how tests read it


class Browser:
    """What the tests do with a browser, in few words."""

    def __init__(self, driver):
        self.driver = driver

    def command(self, name: str, **arguments):
        return self.driver.execute_cdp_cmd(name, arguments)

    def resize(self, width: int):
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def prefer(self, scheme: str):
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, address: str):
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver.get("about:blank")
        self.driver.get(address)
        there = "return document.readyState === 'complete' && location.href.startsWith(arguments[0])"
        WebDriverWait(self.driver, 30).until(lambda _: self.js(there, address.partition("#")[0]))

    def js(self, script: str, *arguments):
        return self.driver.execute_script(script, *arguments)

    def one(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def keys(self, *keys: str):
        self.driver.switch_to.active_element.send_keys(*keys)

    def focused(self) -> str:
        return self.js("return document.activeElement.textContent")

    def column(self, number: int, part: str = "tbody:not(.not-run)") -> list[str]:
        """The values by which the shown rows of the first table are sorted, from top to bottom."""
        script = "return [...document.querySelectorAll(arguments[0])].map((cell) => cell.dataset.sort)"
        return self.js(script, f"#noisy40 .results {part} tr:not([hidden]) > :nth-child({number})")

    def sort(self, number: int) -> str | None:
        """Press a heading; returns the order that it names."""
        heading = self.one(f"#noisy40 .results thead th:nth-child({number})")
        self.sorted_after(heading.find_element("css selector", "button").click)
        return heading.get_attribute("aria-sort")

    def sorted_after(self, press):
        """Do what sorts a table, and wait until the library has done so, which is a moment later."""
        self.js("window.sorted = false; addEventListener('sort-end', () => (window.sorted = true), { once: true })")
        press()
        assert self.eventually(lambda: self.js("return window.sorted"))

    def settle(self):
        """Wait until what follows a change of size has followed it."""
        frames = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        self.driver.execute_async_script(frames)

    def eventually(self, what) -> bool:
        """Whether something comes true, on however slow a machine."""
        until = time.monotonic() + 20
        while not what() and time.monotonic() < until:
            time.sleep(0.02)
        return bool(what())


def test_it_starts_without_a_word_on_the_console(opened):
    assert opened.js("return document.documentElement.classList.contains('scripted')")
    assert opened.one("tr[data-row='2'] .open").text == " ".join(NASTY.split())


def test_columns_are_sorted_by_number_both_ways(opened):
    assert opened.sort(5) == "ascending"
    differences = [float(value) for value in opened.column(5)]
    assert len(differences) == 27
    assert differences[0] < -1 < 1 < differences[-1]
    assert differences == sorted(differences)
    assert opened.sort(5) == "descending"
    assert [float(value) for value in opened.column(5)] == differences[::-1]
    assert opened.column(1, "tbody:last-of-type") == ["bSAM", "SAMPa with AdamW"]


def test_unknown_values_stay_last(opened):
    for _ in range(2):
        opened.sort(4)
        *known, unknown = opened.column(4)
        assert unknown == ""
        assert "" not in known


def test_a_heading_can_be_pressed_by_keyboard(opened):
    from selenium.webdriver.common.keys import Keys

    opened.js("document.querySelector('#noisy40 thead th:nth-child(8) button').focus()")
    for key in (Keys.ENTER, Keys.SPACE):
        opened.sorted_after(lambda key=key: opened.keys(key))
    values = [float(value) for value in opened.column(8)]
    assert values == sorted(values, reverse=True)


def test_the_filter_leaves_rows_with_every_word(opened):
    opened.one("#noisy40 input[type=search]").send_keys("ADAM msam")
    assert opened.column(1, "tbody") == ["MSAM with AdamW"]
    assert opened.one("#noisy40 .count").text == "1 of 29 rows"
    opened.sort(3)
    assert opened.column(1, "tbody") == ["MSAM with AdamW"]


def test_a_click_on_a_row_opens_its_details(opened):
    opened.one("tr[data-row='1'] td:nth-child(3)").click()
    assert opened.one("dialog h2").text == "SAM"
    shown = opened.one("dialog").text
    row = payload()["regimes"][0]["rows"][1]
    for text in (row["command"], row["seeds"][0]["run_id"], row["seeds"][0]["commit"], "2.10.0+cpu", "diverged"):
        assert text in shown
    assert len(opened.all("dialog canvas")) == 4
    opened.one("dialog summary").click()
    assert "group3.setting_3\nvalue 3" in opened.one("dialog").text
    assert "0, 1, 2, 3, 4" in opened.one("dialog").text


@pytest.mark.parametrize("key", ["ENTER", "SPACE"])
def test_a_key_on_a_row_opens_it_and_escape_gives_the_focus_back(opened, key):
    from selenium.webdriver.common.keys import Keys

    opened.js("document.querySelector('tr[data-row=\"3\"] .open').focus()")
    opened.keys(getattr(Keys, key))
    assert opened.one("dialog").get_attribute("open")
    assert opened.focused() == "GSAM"
    assert opened.js("return location.hash") == "#noisy40/gsam-sgd-3"
    opened.keys(Keys.ESCAPE)
    assert opened.eventually(lambda: not opened.one("dialog").get_attribute("open"))
    assert opened.js("return document.activeElement.closest('tr').dataset.row") == "3"
    assert opened.js("return location.hash") == "#noisy40"


def test_the_next_row_is_that_of_the_sorted_table(opened):
    opened.sort(3)
    first, second = opened.column(1)[:2]
    opened.js("document.querySelector('#noisy40 tbody .open').click()")
    assert opened.one("dialog h2").text == first
    opened.one("dialog .bar button:nth-child(2)").click()
    assert opened.one("dialog h2").text == second
    opened.one("dialog .bar button:nth-child(3)").click()
    assert opened.eventually(lambda: opened.focused() == second)


def test_a_row_that_was_not_run_has_details_too(opened):
    opened.one(".not-run .open").click()
    assert "Not run." in opened.one("dialog").text


@pytest.mark.parametrize("refused", [False, True])
def test_commands_are_copied_with_and_without_a_clipboard(opened, refused):
    from selenium.webdriver.common.keys import Keys

    if refused:
        opened.js("navigator.clipboard.writeText = () => Promise.reject(new Error('refused'))")
    opened.one("tr[data-row='1'] .open").click()
    row = payload()["regimes"][0]["rows"][1]
    for selector, command in {
        "dialog .copied .copy": row["command"],
        "dialog .seeds tr:nth-child(2) .copy": row["seeds"][1]["command"],
    }.items():
        copy = opened.one(selector)
        copy.click()
        assert opened.eventually(lambda copy=copy: copy.text == "Copied")
        assert paste(opened) == command
    opened.keys(Keys.ESCAPE)
    opened.eventually(lambda: not opened.one("dialog").get_attribute("open"))
    opened.one(".not-run .copy").click()
    assert opened.eventually(lambda: opened.one(".not-run .copy").text == "Copied")
    assert not opened.one("dialog").get_attribute("open")
    assert paste(opened) == payload()["regimes"][0]["rows"][27]["command"]


def paste(opened) -> str:
    """What the clipboard holds, by way of a field of the page."""
    from selenium.webdriver.common.keys import Keys

    opened.js("(document.querySelector('dialog[open]') ?? document.body).append(document.createElement('textarea'))")
    field = opened.one("textarea")
    field.send_keys(Keys.CONTROL, "v")
    text = field.get_property("value")
    opened.js("arguments[0].remove()", field)
    return text


def test_curves_are_drawn_and_switched_off_by_legend_and_table(opened):
    drawn = [opened.js(PIXELS, "noisy40", f"--series-{i}") for i in range(5)]
    assert min(drawn) > 100
    assert opened.one("tr[data-row='0'] input").is_selected()
    opened.one("#noisy40 .chip:nth-child(1)").click()
    assert opened.js(PIXELS, "noisy40", "--series-0") == 0
    assert opened.js(PIXELS, "noisy40", "--series-1") > 100
    assert not opened.one("tr[data-row='0'] input").is_selected()
    opened.one("tr[data-row='1'] input").click()
    assert opened.js(PIXELS, "noisy40", "--series-1") == 0
    assert opened.one("#noisy40 .chip:nth-child(2)").get_attribute("aria-pressed") == "false"
    assert not opened.one("dialog").get_attribute("open")
    opened.one("tr[data-row='0'] input").click()
    assert opened.js(PIXELS, "noisy40", "--series-0") > 100


def test_curves_show_all_none_and_other_quantities(opened):
    buttons = {each.text: each for each in opened.all("#noisy40 .controls button")}
    buttons["All"].click()
    assert len(opened.all("#noisy40 .chip[aria-pressed=true]")) == 27
    buttons["None"].click()
    assert opened.one("#noisy40 .chart").text == "No curve is switched on."
    buttons["First 5"].click()
    options = [each.text for each in opened.all("#noisy40 select option")]
    assert options == ["test error %", "memorised %", "training error %", "training loss"]
    final = opened.one("#noisy40 .chip .value").text
    opened.all("#noisy40 select option")[3].click()
    assert float(opened.one("#noisy40 .chip .value").text) < float(final)
    assert opened.js(PIXELS, "noisy40", "--series-0") > 100


def test_curves_begin_at_an_epoch_of_choice_be_it_one_that_no_run_has(opened):
    field = opened.one("#noisy40 input[type=number]")
    assert field.get_property("value") == "10"
    for epoch, drawn in {"999": False, "31": True}.items():
        field.clear()
        field.send_keys(epoch)
        assert (opened.js(PIXELS, "noisy40", "--series-0") > 100) == drawn
    assert opened.js(PIXELS, "noisy40", "--series-1") == 0  # it ends with epoch 30


def test_a_curve_spans_the_epochs_that_were_not_evaluated(opened):
    """Beside a row that was evaluated in every epoch: points that were not joined would be nothing at all."""
    opened.one("#noisy40 .controls button:last-of-type").click()
    for row in (1, 4):
        opened.one(f"tr[data-row='{row}'] input").click()
    assert opened.js(PIXELS, "noisy40", "--series-1") > 300


@pytest.mark.parametrize("width", [380, 1400])
def test_the_page_does_not_scroll_sideways(opened, width):
    opened.resize(width)
    opened.js("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    for regime in ("noisy40", "quick"):
        opened.js("location.hash = arguments[0]", regime)
        assert opened.eventually(lambda regime=regime: opened.one(f"#{regime}").is_displayed())
        opened.settle()
        assert overflow(opened, "html") == 0
    opened.js("document.querySelector('#quick .open').click()")
    opened.settle()
    assert overflow(opened, "html") == overflow(opened, "dialog") == overflow(opened, "dialog > div") == 0


def overflow(opened, selector: str) -> int:
    """By how much an element's content is wider than there is room for."""
    return opened.js("const e = document.querySelector(arguments[0]); return e.scrollWidth - e.clientWidth", selector)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_legible_in_both_themes(opened, address, scheme):
    opened.prefer(scheme)
    opened.open(address)
    assert (ink(opened) > 128) == (scheme == "dark")
    assert opened.js(CONTRAST) == []
    opened.one("tr[data-row='1'] .open").click()
    assert opened.js(CONTRAST) == []
    opened.prefer("")


def test_the_theme_is_switched_by_its_button_and_the_curves_with_it(opened):
    before = ink(opened)
    axes = opened.js(PIXELS, "noisy40", "--series-0")
    opened.one("#theme").click()
    assert (ink(opened) > 128) != (before > 128)
    assert opened.js(PIXELS, "noisy40", "--series-0") == pytest.approx(axes, rel=0.2)
    opened.one("#theme").click()
    assert ink(opened) == before


def ink(opened) -> int:
    """How light the page's texts are."""
    return opened.js("return Number(getComputedStyle(document.documentElement).color.match(/\\d+/)[0])")


def test_regimes_are_tabs_that_arrows_move_between(opened):
    from selenium.webdriver.common.keys import Keys

    assert not opened.one("#quick").is_displayed()
    opened.one("#tabs a").click()
    opened.keys(Keys.ARROW_RIGHT)
    assert opened.one("#quick").is_displayed()
    assert not opened.one("#noisy40").is_displayed()
    assert opened.js("return location.hash") == "#quick"
    assert opened.js(PIXELS, "quick", "--series-3") > 100
    opened.keys(Keys.ARROW_RIGHT)
    assert opened.one("#noisy40").is_displayed()


def test_an_address_names_a_regime_and_a_row(opened, address):
    opened.open(f"{address}#quick/sam-sgd-1")
    assert opened.one("#quick").is_displayed()
    assert opened.one("dialog h2").text == "SAM"
    opened.open(f"{address}#%nothing")
    assert opened.one("#noisy40").is_displayed()


def test_everything_is_open_on_paper_and_closed_again(opened):
    opened.js("dispatchEvent(new Event('beforeprint'))")
    assert opened.one("#quick").is_displayed()
    assert opened.one("main details").get_attribute("open")
    assert opened.js(PIXELS, "quick", "--series-3") > 100
    opened.js("dispatchEvent(new Event('afterprint'))")
    assert not opened.one("#quick").is_displayed()
    assert not opened.one("main details").get_attribute("open")


def test_without_scripts_it_is_a_page_of_tables(opened, address):
    opened.command("Emulation.setScriptExecutionDisabled", value=True)
    opened.open(address)
    shown = opened.one("main").text
    for regime in payload()["regimes"]:
        assert regime["title"] in shown
        assert regime["rows"][-1]["command"] in shown
    assert not opened.one("#theme").is_displayed()
    assert opened.all("main button, main input") == []
