"""Charts and texts that fit a terminal."""

import pytest

from layerpipe2.cli.console import fitted, wrapped


@pytest.mark.parametrize(("width", "columns"), [(1, 6), (12, 6), (15, 7), (16, 8), (99, 9)])
def test_a_chart_has_the_most_columns_that_fit_but_never_too_few(width, columns):
    assert fitted(lambda count: "head\n" + "x " * count, 9, width).count("x") == columns


def test_a_chart_of_few_columns_is_whole():
    assert fitted(lambda count: "x" * count, 3, 80) == "xxx"


def test_wrapping_keeps_words_tables_and_blank_lines():
    text = "one two three-four five\n\n  [holds] one two three\nstage  operation  step  weight\n"
    assert wrapped(text, 14).splitlines() == [
        "one two",
        "  three-four",
        "  five",
        "",
        "  [holds] one",
        "    two three",
        "stage  operation  step  weight",
    ]
    assert wrapped("averylongword", 5) == "averylongword"
