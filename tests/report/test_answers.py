"""Tests of the answers at the head of the results page."""

import pytest

from sam_bench.errors import ConfigError
from sam_bench.report.answers import answers
from tests.report.page_payload import ANSWERS, FIGURE, NASTY, payload

FIGURES = {"forest.svg": FIGURE}


def parts(text: str, figures=FIGURES) -> list[str]:
    """Return the HTML of each part of a text."""
    given = payload()
    return [part.html for part in answers(text, given["across"], given["regimes"], figures)]


def test_answers_are_split_at_questions():
    given = payload()
    found = answers(ANSWERS, given["across"], given["regimes"], FIGURES)
    assert [(part.question, part.anchor) for part in found] == [
        ("", "answer"), ("Which one is best?", "which-one-is-best")]  # fmt: skip
    assert found[0].html.startswith("<h1>Does SAM help?</h1>")


def test_code_of_a_study_becomes_its_difference():
    (text,) = parts("`noisy40: SAM − SGD at equal epochs`, `optimizer=sam`, `noisy40`")
    assert "−3.10 ± 0.50 points, " in text and ">better</span>" in text
    assert "<code>optimizer=sam</code>" in text and "<code>noisy40</code>" in text


def test_code_of_the_average_becomes_the_average():
    (text,) = parts(f"`average: {NASTY} − SAM`".replace("`average: <", "`` average: <").replace("SAM`", "SAM ``"))
    assert "+0.65 (−0.20 to +0.90)" in text and "within the margin" in text


def test_comparisons_become_a_table_of_studies():
    (text,) = parts("```comparisons\nSAM − SGD at equal epochs\n```")
    rows = [row.split("</tr>")[0] for row in text.split("<tr>")[1:]]
    assert [row.count("<t") for row in rows] == [2, 2, 2, 2]  # headings, the study that has it, average, scatter
    assert "−3.10 ± 0.50" in rows[1]


def test_image_becomes_the_figure():
    (text,) = parts("![Differences](forest.svg)")
    assert text.startswith("<figure") and 'aria-label="Differences"' in text and "<p>" not in text


@pytest.mark.parametrize(
    "text",
    [
        "`noisy40: SAM − Adam`",
        "`quick: SAM − SGD at equal epochs`",
        "![x](other.svg)",
        "```comparisons\nSAM − Adam\n```",
    ],
)
def test_answer_without_result_is_refused(text):
    with pytest.raises(ConfigError):
        parts(text)


def test_markup_in_a_text_is_escaped():
    assert "<script" not in parts("a <script>alert(1)</script> b `<script>`")[0]
