"""Tests of the results page's curves in a browser: which are drawn, their quantity, and their first epoch."""

import pytest

pytestmark = pytest.mark.browser


def test_legend_and_table_switch_curves(window):
    assert min(window.pixels("noisy40", f"--series-{i}") for i in range(5)) > 100
    assert window.one("tr[data-row='0'] input").is_selected()

    window.one("#noisy40 .chip:nth-child(1)").click()
    assert window.pixels("noisy40", "--series-0") == 0
    assert window.pixels("noisy40", "--series-1") > 100
    assert not window.one("tr[data-row='0'] input").is_selected()

    window.one("tr[data-row='1'] input").click()
    assert window.pixels("noisy40", "--series-1") == 0
    assert window.one("#noisy40 .chip:nth-child(2)").get_attribute("aria-pressed") == "false"
    assert not window.one("dialog").get_attribute("open")

    window.one("tr[data-row='0'] input").click()
    assert window.pixels("noisy40", "--series-0") > 100


def test_buttons_and_menu_choose_curves(window):
    buttons = {button.text: button for button in window.all("#noisy40 .controls button")}
    buttons["All"].click()
    assert len(window.all("#noisy40 .chip[aria-pressed=true]")) == 27
    buttons["None"].click()
    assert window.one("#noisy40 .chart").text == "No curve is switched on."
    buttons["Compared"].click()
    assert len(window.all("#noisy40 .chip[aria-pressed=true]")) == 5

    options = [option.text for option in window.all("#noisy40 select option")]
    assert options == ["test error %", "memorised %", "training error %", "training loss"]

    final = window.one("#noisy40 .chip .value").text
    window.all("#noisy40 select option")[3].click()
    assert float(window.one("#noisy40 .chip .value").text) < float(final)
    assert window.pixels("noisy40", "--series-0") > 100


def test_curves_begin_at_chosen_epoch(window):
    field = window.one("#noisy40 input[type=number]")
    assert field.get_property("value") == "10"
    for epoch, is_drawn in {"999": False, "31": True}.items():
        field.clear()
        field.send_keys(epoch)
        assert (window.pixels("noisy40", "--series-0") > 100) == is_drawn
    assert window.pixels("noisy40", "--series-1") == 0  # it ends with epoch 30


def test_curve_spans_epochs_without_evaluation(window):
    # Row 4 is evaluated in every epoch. Beside it, unjoined points of row 1 would not be drawn at all.
    window.one("#noisy40 .controls button:last-of-type").click()
    for row in (1, 4):
        window.one(f"tr[data-row='{row}'] input").click()
    assert window.pixels("noisy40", "--series-1") > 300
