"""What is drawn and said of SpikePipe's schedule comes from the table."""

import pytest

from paper_figures.claims import spikepipe as claims
from paper_figures.tables import theory as tables
from tests import synthetic_records

THEORY = synthetic_records.theory_tables()


@pytest.fixture(scope="module")
def table():
    return THEORY.spikepipe


def test_sentences_take_their_numbers_from_the_table_and_can_turn(table):
    declared = table[(table["array"] == 128) & (table["placement"] == "free") & (table["steps"] == 8)]
    said = claims.in_our_model(table)
    mean = declared["speed"].mean()
    assert f"{mean:.2f} times on average (from {declared['speed'].min():.2f} to" in said[0]
    assert ("the average is above the abstract's over all" in said[0]) == (mean > 1.6)
    slow = table.assign(speed=table["speed"].clip(upper=1.1))
    assert "the average is not above the abstract's over all" in claims.in_our_model(slow)[0]
    quick = table.assign(speed=3.0)
    assert "and above it with at most 8" in claims.in_our_model(quick)[0]


def test_the_table_for_readers_has_a_row_per_case(table):
    shown = tables.spikepipe(THEORY)
    assert len(shown) * table["processors"].nunique() == len(table)
    first = table.iloc[0]
    shares = f"{100 * first['utilisation']:.0f} %, {100 * first['communication']:.1f} %"
    assert shown.iloc[0]["P=2"] == f"1.00 ({shares})"
