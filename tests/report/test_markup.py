"""Tests of the text of tables and of generated parts."""

import pytest

from sam_bench.errors import StateError
from sam_bench.report.markup import replace_generated, table

BEGIN, END = "<!-- made by make it -->", "<!-- so far made by make it -->"


def test_table_escapes_bars():
    assert table(["a", "b"], [["|w|", ""]]) == ["| a | b |", "| --- | --- |", r"| \|w\| | |"]


def test_replace_generated_keeps_the_rest():
    text = f"above\n{BEGIN}\nold\n{END}\nbelow\n"
    replaced = replace_generated(text, "new", "make it")
    assert replaced == f"above\n{BEGIN}\n\nnew\n\n{END}\nbelow\n"
    assert replace_generated(replaced, "new", "make it") == replaced


@pytest.mark.parametrize("text", ["none", f"{BEGIN} {END}" * 2, BEGIN])
def test_replace_generated_needs_both_comments_once(text):
    with pytest.raises(StateError, match="once each"):
        replace_generated(text, "new", "make it")
