"""Tests of the results page as text: its content, its escaping, and that it needs no other file."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser
from importlib import resources

import pytest

from sam_bench.report.page import LIBRARIES, SCRIPTS, embedded, inlined, page
from tests.report.page_payload import FIGURE, NASTY, payload

#: Elements without an end tag.
VOID = {"meta", "input", "br", "img", "link"}

#: Attributes whose address a browser fetches.
FETCHING = {"src", "srcset", "href", "xlink:href", "data", "poster", "action", "formaction", "ping"}


class PageReader(HTMLParser):
    """A reader of a page: its start tags, the texts of its scripts and styles, and its table rows' cells."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.unclosed: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.unclosed.append(tag)

        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "script":
            self.scripts.append("")
        elif tag == "style":
            self.styles.append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.unclosed.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.unclosed):
            self.rows[-1][-1] += data
        if "script" in self.unclosed:
            self.scripts[-1] += data
        if "style" in self.unclosed:
            self.styles[-1] += data

    @property
    def programs(self) -> list[str]:
        """Return the scripts that run, without the element that has the data."""
        return [script for script in self.scripts if not script.startswith("{")]

    @property
    def regimes(self) -> list[dict]:
        """Return the data for the scripts, by regime."""
        (text,) = (script for script in self.scripts if script.startswith("{"))
        return json.loads(text)["regimes"]


@pytest.fixture(scope="module")
def text() -> str:
    """Return the page of the payload."""
    return page(payload())


@pytest.fixture(scope="module")
def reader(text) -> PageReader:
    """Return a reader of the page."""
    return PageReader(text)


def asset(name: str) -> str:
    """Return the text of a file that the page includes."""
    return (resources.files("sam_bench.report") / "assets" / name).read_text(encoding="utf-8")


def test_page_is_reproducible(text):
    assert page(payload()) == text


def test_page_closes_every_element(reader):
    assert reader.unclosed == []


# Security


def test_page_fetches_nothing(reader):
    for tag, attributes in reader.tags:
        for name in FETCHING & attributes.keys():
            # A figure's image holds its own pixels; all else refers to a part of the page.
            allowed = "data:image/png;base64," if tag == "image" else "#"
            assert tag == "a" or attributes[name].startswith(allowed), (tag, attributes)
    assert not {tag for tag, _ in reader.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"}

    for style in [*reader.styles, *(attributes.get("style", "") for _, attributes in reader.tags)]:
        assert "@import" not in style
        assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", style))

    scripts = "\n".join(map(asset, SCRIPTS))
    assert not re.search(r"\b(import|fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon)\b\s*[({\"']", scripts)


def test_policy_forbids_access_and_other_scripts(reader):
    (policy,) = (a["content"] for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"  # of figures, whose surfaces are pixels
    assert rules["style-src"] == "'unsafe-inline'"

    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in reader.programs]
    assert rules["script-src"].split() == [f"'sha256-{digest}'" for digest in digests]


def test_title_with_markup_is_shown_as_text(text, reader):
    assert "<b>" not in text
    assert "alert(1)" not in "".join(reader.programs)
    assert sum(NASTY in row[0] for row in reader.rows) == 2
    assert sum(row["title"] == NASTY for row in reader.regimes[0]["rows"]) == 1


def test_every_field_is_escaped():
    def with_markup(value):
        if isinstance(value, dict):
            unchanged = ("svg", "verdict", "status")
            return {key: item if key in unchanged else with_markup(item) for key, item in value.items()}
        if isinstance(value, list):
            return [with_markup(item) for item in value]
        return f'{value}<i x="\'">&amp;' if isinstance(value, str) else value

    reader = PageReader(page(with_markup(payload(5, 2))))
    assert reader.unclosed == []
    assert "i" not in {tag for tag, _ in reader.tags}


def test_embedded_data_cannot_end_its_element():
    data = {"</script>": "<!-- <script>"}
    text = embedded(data)
    assert "<" not in text
    assert json.loads(text) == data


# Tables


def test_comparisons_table_has_all_cells(reader):
    heading, *lines = reader.rows[: 1 + len(payload()["across"])]
    titles = [regime["title"] for regime in payload()["regimes"]]
    assert heading == ["points of test error", *titles, "average over studies", "scatter τ between studies"]
    assert lines[0] == ["SAM − SGD at equal epochs", "−3.10 ± 0.50 ▼ better", "–", "–", "–"]
    assert lines[1][:3] == [f"{NASTY} − SAM", "+1.20 ± 0.30 ▲ worse", "+0.10 ○ undecided"]
    assert lines[1][3:] == ["+0.65 (−0.20 to +0.90) ≈ within the margin", f"τ 0.10 {NASTY}"]


def test_regime_tables_have_every_row(reader):
    shown = iter([row for row in reader.rows[1 + len(payload()["across"]) :] if row[0] != "method"])
    for regime in payload()["regimes"]:
        for row, cells in zip(regime["rows"], shown, strict=False):
            assert cells[0] == row["title"]
            if row["status"] == "measured":
                assert len(cells) == 1 + len(regime["columns"])
            else:
                assert row["command"] in cells[1]
    assert list(shown) == []


@pytest.mark.parametrize(
    ("symbol", "word"), [("▼", "better"), ("▲", "worse"), ("≈", "within the margin"), ("○", "undecided")]
)
def test_verdict_has_symbol_and_word(reader, symbol, word):
    assert symbol in next(cell for row in reader.rows for cell in row if cell.endswith(f" {word}"))


def test_cells_sort_by_number_or_are_blank(text):
    assert '<td data-sort="-5.' in text
    assert '<td data-sort="">–</td>' in text
    assert '<td data-sort="3.2">3.20</td>' in text  # a value without a text, with its column's decimals


# Data for the scripts


def test_shared_settings_are_merged_without_loss(reader):
    for regime, given in zip(reader.regimes, payload()["regimes"], strict=True):
        for row, given_row in zip(regime["rows"], given["rows"], strict=True):
            for seed, given_seed in zip(row["seeds"], given_row["seeds"], strict=True):
                for kind in ("settings", "versions"):
                    assert regime[kind] | row["common"][kind] | seed[kind] == given_seed[kind]


def test_diverged_run_has_null_instead_of_nan(reader):
    diverged = reader.regimes[0]["rows"][1]["seeds"][-1]
    assert (diverged["status"], diverged["error"], diverged["history"]["train_loss"][-1]) == ("diverged", None, None)
    assert math.isnan(payload()["regimes"][0]["rows"][1]["seeds"][-1]["history"]["train_loss"][-1])


def test_histories_have_three_decimals(reader):
    rows = reader.regimes[0]["rows"]
    values = [value for row in rows for seed in row["seeds"] for value in seed["history"]["train_error"]]
    assert values and all(value is None or value == round(value, 3) for value in values)


# Figures


def test_figures_have_distinct_ids(text, reader):
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    references = re.findall(r'xlink:href="#([^"]+)"|clip-path="url\(#([^)]+)\)"', text)
    assert len(references) == 15
    assert {a or b for a, b in references} <= set(ids)
    assert "<metadata" not in text


def test_glyphs_are_drawn_once_for_all_figures(text):
    assert text.count('<path id="DejaVuSans-4c" d="M 6 46 L') == 1
    assert text.count('<use xlink:href="#DejaVuSans-4c"/>') == 5
    assert text.index('<path id="DejaVuSans-4c"') < text.index('<div class="drawing">')

    other = payload()
    other["regimes"][1]["figures"][0]["svg"] = FIGURE.replace("M 6 46", "M 6 47")
    with pytest.raises(ValueError, match="DejaVuSans-4c in two ways"):
        page(other)


def test_inlined_figure_has_no_size_and_a_label():
    svg = inlined(FIGURE, "noisy40-forest", 'A "forest"')
    start_tag = svg[: svg.index(">") + 1]
    assert start_tag.startswith("<svg")
    assert "pt" not in start_tag
    assert 'aria-label="A &quot;forest&quot;"' in start_tag
    assert "#figure-noisy40-forest *{stroke-linejoin" in svg

    with_id = inlined(FIGURE.replace("<svg ", '<svg id="drawing" '), "noisy40-forest", "")
    assert with_id[: with_id.index(">")].count(" id=") == 1
    with pytest.raises(ValueError, match="forest is not an SVG"):
        inlined("<p>", "forest", "")


# The whole page


def test_page_contains_licences(text):
    assert "Copyright (c) 2022 Leon Sorokin" in text
    assert "This is free and unencumbered software released into the public domain." in text
    for library in LIBRARIES:
        assert f"{library.name}</a> {library.version} ({library.licence})" in text
    assert f"uPlot (v{LIBRARIES[0].version})" in asset("uplot.min.js")


def test_page_of_500_runs_is_below_3_mb():
    large = payload(rows=80)
    assert sum(len(row["seeds"]) for regime in large["regimes"] for row in regime["rows"]) >= 500
    assert len(page(large).encode()) < 3_000_000


def test_page_without_content_is_valid():
    regime = {
        "name": "one",
        "title": "One",
        "about": "",
        "statements": [],
        "notes": [],
        "sharpness": "",
        "figures": [],
        "columns": [],
        "rows": [],
    }
    empty = {"title": "T", "forest": [], "version": {}, "across": [], "false_claims": "0", "regimes": [regime]}
    reader = PageReader(page(empty))
    assert reader.unclosed == []
    assert reader.rows == [["method"]]
