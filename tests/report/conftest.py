import shutil

import pytest

from sam_bench.report.page import page
from tests.report.browser import Browser
from tests.report.page_payload import payload


@pytest.fixture(scope="session")
def browser():
    """Return a browser without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield Browser(driver)
    driver.quit()


@pytest.fixture(scope="session")
def address(tmp_path_factory) -> str:
    """Return the address of the page of the payload, in a file."""
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(page(payload()), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def window(browser, address):
    """Return the browser with the page just opened; check after the test that its console has no messages."""
    browser.command("Emulation.setScriptExecutionDisabled", value=False)
    browser.resize(1400)
    browser.open(address)
    yield browser
    browser.js("localStorage.clear()")  # of the theme
    # Messages on rendering are about how the tests read the canvas.
    messages = [entry["message"] for entry in browser.driver.get_log("browser") if entry["source"] != "rendering"]
    assert messages == []
