"""Tests of the results page's tables in a browser: sorting, filter, details of rows, and copied commands."""

import pytest

from tests.report.page_payload import payload

pytestmark = pytest.mark.browser


def test_headings_sort_by_number_both_ways(window):
    assert window.sort(5) == "ascending"
    differences = [float(value) for value in window.column(5)]
    assert len(differences) == 27
    assert differences[0] < -1 < 1 < differences[-1]
    assert differences == sorted(differences)

    assert window.sort(5) == "descending"
    assert [float(value) for value in window.column(5)] == differences[::-1]
    assert window.column(1, "tbody:last-of-type") == ["bSAM", "SAMPa with AdamW"]


def test_unknown_values_stay_last(window):
    for _ in range(2):
        window.sort(4)
        *known, unknown = window.column(4)
        assert unknown == ""
        assert "" not in known


def test_headings_sort_by_keyboard(window):
    from selenium.webdriver.common.keys import Keys

    window.js("document.querySelector('#noisy40 thead th:nth-child(8) button').focus()")
    for key in (Keys.ENTER, Keys.SPACE):
        window.sorted_after(lambda key=key: window.keys(key))
    values = [float(value) for value in window.column(8)]
    assert values == sorted(values, reverse=True)


def test_filter_keeps_rows_with_every_word(window):
    window.one("#noisy40 input[type=search]").send_keys("ADAM msam")
    assert window.column(1, "tbody") == ["MSAM with AdamW"]
    assert window.one("#noisy40 .count").text == "1 of 29 rows"
    window.sort(3)
    assert window.column(1, "tbody") == ["MSAM with AdamW"]


def test_click_on_row_opens_details(window):
    window.one("tr[data-row='1'] td:nth-child(3)").click()
    assert window.one("dialog h2").text == "SAM"
    details = window.one("dialog").text
    row = payload()["regimes"][0]["rows"][1]
    for text in (row["command"], row["seeds"][0]["run_id"], row["seeds"][0]["commit"], "2.10.0+cpu", "diverged"):
        assert text in details
    assert len(window.all("dialog canvas")) == 4

    window.one("dialog summary").click()
    assert "group3.setting_3\nvalue 3" in window.one("dialog").text
    assert "0, 1, 2, 3, 4" in window.one("dialog").text


@pytest.mark.parametrize("key", ["ENTER", "SPACE"])
def test_escape_closes_details_and_returns_focus(window, key):
    from selenium.webdriver.common.keys import Keys

    window.js("document.querySelector('tr[data-row=\"3\"] .open').focus()")
    window.keys(getattr(Keys, key))
    assert window.one("dialog").get_attribute("open")
    assert window.focused() == "GSAM"
    assert window.js("return location.hash") == "#noisy40/gsam-sgd-3"

    window.keys(Keys.ESCAPE)
    assert window.eventually(lambda: not window.one("dialog").get_attribute("open"))
    assert window.js("return document.activeElement.closest('tr').dataset.row") == "3"
    assert window.js("return location.hash") == "#noisy40"


def test_details_step_through_sorted_rows(window):
    window.sort(3)
    first, second = window.column(1)[:2]
    window.js("document.querySelector('#noisy40 tbody .open').click()")
    assert window.one("dialog h2").text == first

    window.one("dialog .bar button:nth-child(2)").click()
    assert window.one("dialog h2").text == second

    window.one("dialog .bar button:nth-child(3)").click()
    assert window.eventually(lambda: window.focused() == second)


def test_row_not_run_has_details(window):
    window.one(".not-run .open").click()
    assert "Not run." in window.one("dialog").text


@pytest.mark.parametrize("is_refused", [False, True])
def test_commands_are_copied_even_without_clipboard(window, is_refused):
    from selenium.webdriver.common.keys import Keys

    if is_refused:
        window.js("navigator.clipboard.writeText = () => Promise.reject(new Error('refused'))")

    window.one("tr[data-row='1'] .open").click()
    row = payload()["regimes"][0]["rows"][1]
    commands = {
        "dialog .copied .copy": row["command"],
        "dialog .seeds tr:nth-child(2) .copy": row["seeds"][1]["command"],
    }
    for selector, command in commands.items():
        button = window.one(selector)
        button.click()
        assert window.eventually(lambda button=button: button.text == "Copied")
        assert window.paste() == command

    window.keys(Keys.ESCAPE)
    assert window.eventually(lambda: not window.one("dialog").get_attribute("open"))
    window.one(".not-run .copy").click()
    assert window.eventually(lambda: window.one(".not-run .copy").text == "Copied")
    assert not window.one("dialog").get_attribute("open")
    assert window.paste() == payload()["regimes"][0]["rows"][27]["command"]


def test_column_can_be_hidden(window):
    window.one("#noisy40 .columns summary").click()
    window.all("#noisy40 .columns input")[1].click()
    heading, cell = (window.one(f"#noisy40 .results {part} tr > :nth-child(3)") for part in ("thead", "tbody"))
    assert not heading.is_displayed() and not cell.is_displayed()
    assert window.one("#noisy40 .not-run td").is_displayed()

    window.all("#noisy40 .columns input")[1].click()
    assert heading.is_displayed() and cell.is_displayed()
