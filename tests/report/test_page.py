"""The results page as a text: what is in it, what cannot get into it, and that it needs nothing else."""

import base64
import hashlib
import json
import math
import re
from html.parser import HTMLParser

import pytest

from sam_bench.report.page import LIBRARIES, SCRIPTS, _asset, embedded, inlined, page
from tests.report.page_payload import FIGURE, NASTY, payload

VOID = {"meta", "input", "br", "img", "link"}
FETCHING = {"src", "srcset", "href", "xlink:href", "data", "poster", "action", "formaction", "ping"}


class Reader(HTMLParser):
    """Reads a page into its start tags, the texts of its scripts, and the cells of its tables' rows."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.rows: list[list[str]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("tr", "script", "style"):
            {"tr": self.rows, "script": self.scripts, "style": self.styles}[tag].append([] if tag == "tr" else "")
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        for tag, texts in (("script", self.scripts), ("style", self.styles)):
            if tag in self.open:
                texts[-1] += data


@pytest.fixture(scope="module")
def text() -> str:
    return page(payload())


@pytest.fixture(scope="module")
def read(text) -> Reader:
    return Reader(text)


def data(read: Reader) -> dict:
    (found,) = (script for script in read.scripts if script.startswith("{"))
    return json.loads(found)


def test_the_same_payload_makes_the_same_page(text):
    assert page(payload()) == text


def test_every_element_is_closed(read):
    assert read.open == []


def test_it_fetches_nothing(read):
    for tag, attributes in read.tags:
        for name in FETCHING & attributes.keys():
            held = "data:image/png;base64," if tag == "image" else "#"  # pixels of a figure, or a part of the page
            assert tag == "a" or attributes[name].startswith(held), (tag, attributes)
    assert not {tag for tag, _ in read.tags} & {"link", "img", "iframe", "object", "embed", "base", "form"}
    for style in [*read.styles, *(attributes.get("style", "") for _, attributes in read.tags)]:
        assert "@import" not in style
        assert all(target.startswith("#") for target in re.findall(r"url\(\s*['\"]?([^)]*)", style))
    ours = "\n".join(map(_asset, SCRIPTS))
    assert not re.search(r"\b(import|fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon)\b\s*[({\"']", ours)


def test_its_policy_forbids_every_access_and_every_other_script(read):
    (policy,) = (a["content"] for _, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert set(rules) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}
    assert rules["img-src"] == "data:"  # of figures, whose surfaces are pixels
    assert rules["style-src"] == "'unsafe-inline'"
    hashes = [hashlib.sha256(script.encode()).digest() for script in read.scripts if not script.startswith("{")]
    assert rules["script-src"].split() == [f"'sha256-{base64.b64encode(each).decode()}'" for each in hashes]


def test_names_of_markup_are_texts(text, read):
    assert "<b>" not in text
    assert "alert(1)" not in "".join(script for script in read.scripts if not script.startswith("{"))
    assert sum(NASTY in row[0] for row in read.rows) == 2
    assert sum(row["title"] == NASTY for row in data(read)["regimes"][0]["rows"]) == 1


def test_every_field_is_escaped():
    def marked(value):
        if isinstance(value, dict):
            same = ("svg", "verdict", "status")
            return {key: each if key in same else marked(each) for key, each in value.items()}
        if isinstance(value, list):
            return [marked(each) for each in value]
        return f'{value}<i x="\'">&amp;' if isinstance(value, str) else value

    read = Reader(page(marked(payload(5, 2))))
    assert read.open == []
    assert "i" not in {tag for tag, _ in read.tags}


def test_embedded_data_cannot_end_its_element():
    written = embedded({"</script>": "<!-- <script>"})
    assert "<" not in written
    assert json.loads(written) == {"</script>": "<!-- <script>"}


def test_every_row_stands_in_the_static_table(read):
    heading, *lines = read.rows[: 1 + len(payload()["across"])]
    titles = [regime["title"] for regime in payload()["regimes"]]
    assert heading == ["points of test error", *titles, "average over studies", "scatter τ between studies"]
    assert lines[0] == ["SAM − SGD at equal epochs", "−3.10 ± 0.50 ▼ better", "–", "–", "–"]
    assert lines[1][:3] == [f"{NASTY} − SAM", "+1.20 ± 0.30 ▲ worse", "+0.10 ○ undecided"]
    assert lines[1][3:] == ["+0.65 (−0.20 to +0.90) ≈ within the margin", f"τ 0.10 {NASTY}"]
    written = iter([row for row in read.rows[1 + len(lines) :] if row[0] != "method"])
    for regime in payload()["regimes"]:
        for row, cells in zip(regime["rows"], written, strict=False):
            assert cells[0] == row["title"]
            if row["status"] == "measured":
                assert len(cells) == 1 + len(regime["columns"])
            else:
                assert row["command"] in cells[1]
    assert list(written) == []


def test_verdicts_are_words_too(read):
    for symbol, word in zip("▼▲≈○", ("better", "worse", "within the margin", "undecided"), strict=True):
        assert symbol in next(cell for row in read.rows for cell in row if cell.endswith(f" {word}"))


def test_cells_are_sorted_by_number_and_unknown_ones_are_left_blank(text):
    assert '<td data-sort="-5.' in text
    assert '<td data-sort="">–</td>' in text
    assert '<td data-sort="3.2">3.20</td>' in text  # a value without a text, to its column's decimals


def test_settings_that_runs_share_are_said_once_and_none_is_lost(read):
    for regime, given in zip(data(read)["regimes"], payload()["regimes"], strict=True):
        for row, of_row in zip(regime["rows"], given["rows"], strict=True):
            for seed, of_seed in zip(row["seeds"], of_row["seeds"], strict=True):
                for kind in ("settings", "versions"):
                    assert regime[kind] | row["common"][kind] | seed[kind] == of_seed[kind]


def test_a_run_that_diverged_has_no_numbers_that_are_none(read):
    lost = data(read)["regimes"][0]["rows"][1]["seeds"][-1]
    assert (lost["status"], lost["error"], lost["history"]["train_loss"][-1]) == ("diverged", None, None)
    assert math.isnan(payload()["regimes"][0]["rows"][1]["seeds"][-1]["history"]["train_loss"][-1])


def test_histories_are_short(read):
    rows = data(read)["regimes"][0]["rows"]
    values = [value for row in rows for seed in row["seeds"] for value in seed["history"]["train_error"]]
    assert values and all(value is None or value == round(value, 3) for value in values)


def test_figures_do_not_get_in_each_others_way(text, read):
    identifiers = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    referred = re.findall(r'xlink:href="#([^"]+)"|clip-path="url\(#([^)]+)\)"', text)
    assert len(referred) == 15
    assert {a or b for a, b in referred} <= set(identifiers)
    assert "<metadata" not in text


def test_glyphs_are_drawn_once_for_all_figures(text):
    assert text.count('<path id="DejaVuSans-4c" d="M 6 46 L') == 1
    assert text.count('<use xlink:href="#DejaVuSans-4c"/>') == 5
    assert text.index('<path id="DejaVuSans-4c"') < text.index('<div class="drawing">')
    other = payload()
    other["regimes"][1]["figures"][0]["svg"] = FIGURE.replace("M 6 46", "M 6 47")
    with pytest.raises(ValueError, match="DejaVuSans-4c in two ways"):
        page(other)


def test_a_figure_takes_the_size_of_its_place_and_says_what_it_shows():
    svg = inlined(FIGURE, "noisy40-forest", 'A "forest"')
    opened = svg[: svg.index(">") + 1]
    assert opened.startswith("<svg")
    assert "pt" not in opened
    assert 'aria-label="A &quot;forest&quot;"' in opened
    assert "#figure-noisy40-forest *{stroke-linejoin" in svg
    named = inlined(FIGURE.replace("<svg ", '<svg id="drawing" '), "noisy40-forest", "")
    assert named[: named.index(">")].count(" id=") == 1
    with pytest.raises(ValueError, match="forest is not an SVG"):
        inlined("<p>", "forest", "")


def test_licences_are_in_it(text):
    assert "Copyright (c) 2022 Leon Sorokin" in text
    assert "This is free and unencumbered software released into the public domain." in text
    for library in LIBRARIES:
        assert f"{library.name}</a> {library.version} ({library.licence})" in text
    assert f"uPlot (v{LIBRARIES[0].version})" in _asset("uplot.min.js")


def test_it_stays_small():
    many = payload(rows=80)
    assert sum(len(row["seeds"]) for regime in many["regimes"] for row in regime["rows"]) >= 500
    assert len(page(many).encode()) < 3_000_000


def test_a_page_of_little_is_a_page():
    empty = {
        "name": "one",
        "title": "One",
        "about": "",
        "statements": [],
        "notes": [],
        "sharpness": "",
        "figures": [],
        "columns": [],
    }
    whole = {"title": "T", "forest": [], "version": {}, "across": [], "false_claims": "0"}
    read = Reader(page(whole | {"regimes": [empty | {"rows": []}]}))
    assert read.open == []
    assert read.rows == [["method"]]
