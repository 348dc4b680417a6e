"""Tests of the results page in a browser: layout, themes, tabs, addresses, printing, and no scripts."""

import pytest

from tests.report.browser import CONTRAST
from tests.report.page_payload import NASTY, payload

pytestmark = pytest.mark.browser


def test_page_starts_its_scripts(window):
    assert window.js("return document.documentElement.classList.contains('scripted')")
    assert window.one("tr[data-row='2'] .open").text == " ".join(NASTY.split())


@pytest.mark.parametrize("width", [380, 1400])
def test_page_does_not_scroll_sideways(window, width):
    window.resize(width)
    window.js("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    for regime in ("noisy40", "quick"):
        window.js("location.hash = arguments[0]", regime)
        assert window.eventually(lambda regime=regime: window.one(f"#{regime}").is_displayed())
        window.settle()
        assert window.overflow("html") == 0

    window.js("document.querySelector('#quick .open').click()")
    window.settle()
    assert window.overflow("html") == window.overflow("dialog") == window.overflow("dialog > div") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast_in_both_themes(window, address, scheme):
    window.prefer(scheme)
    window.open(address)
    assert (window.lightness() > 128) == (scheme == "dark")
    assert window.js(CONTRAST) == []
    window.one("tr[data-row='1'] .open").click()
    assert window.js(CONTRAST) == []
    window.prefer("")


def test_theme_button_switches_page_and_curves(window):
    before = window.lightness()
    pixels = window.pixels("noisy40", "--series-0")
    window.one("#theme").click()
    assert (window.lightness() > 128) != (before > 128)
    assert window.pixels("noisy40", "--series-0") == pytest.approx(pixels, rel=0.2)

    window.one("#theme").click()
    assert window.lightness() == before


def test_chosen_theme_is_remembered(window, address):
    before = window.lightness()
    window.one("#theme").click()
    window.open(address)
    assert (window.lightness() > 128) != (before > 128)


def test_question_is_linked_and_keeps_the_tab(window, address):
    window.open(f"{address}#quick")
    window.one(".questions a").click()
    assert window.js("return location.hash") == "#which-one-is-best"
    assert window.one("#which-one-is-best").is_displayed()
    assert window.one("#quick").is_displayed()


def test_arrow_keys_move_between_tabs(window):
    from selenium.webdriver.common.keys import Keys

    assert not window.one("#quick").is_displayed()

    window.one("#tabs a").click()
    window.keys(Keys.ARROW_RIGHT)
    assert window.one("#quick").is_displayed()
    assert not window.one("#noisy40").is_displayed()
    assert window.js("return location.hash") == "#quick"
    assert window.pixels("quick", "--series-3") > 100

    window.keys(Keys.ARROW_RIGHT)
    assert window.one("#noisy40").is_displayed()


def test_address_opens_regime_and_row(window, address):
    window.open(f"{address}#quick/sam-sgd-1")
    assert window.one("#quick").is_displayed()
    assert window.one("dialog h2").text == "SAM"

    window.open(f"{address}#%nothing")
    assert window.one("#noisy40").is_displayed()


def test_printing_opens_everything_meanwhile(window):
    window.js("dispatchEvent(new Event('beforeprint'))")
    assert window.one("#quick").is_displayed()
    assert window.one("main details").get_attribute("open")
    assert window.pixels("quick", "--series-3") > 100

    window.js("dispatchEvent(new Event('afterprint'))")
    assert not window.one("#quick").is_displayed()
    assert not window.one("main details").get_attribute("open")


def test_page_without_scripts_shows_tables(window, address):
    window.command("Emulation.setScriptExecutionDisabled", value=True)
    window.open(address)
    text = window.one("main").text
    for regime in payload()["regimes"]:
        assert regime["title"] in text
        assert regime["rows"][-1]["command"] in text
    assert not window.one("#theme").is_displayed()
    assert window.all("main button, main input") == []
