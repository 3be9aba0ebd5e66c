"""The share of the gap that is left, its interval; claims are made where the numbers carry them, and nowhere else."""

import csv

import numpy as np
import pytest

from src.data.study import Studied
from src.report.gaps import Gap, as_csv, as_markdown, draw, limits, sentences

ONE, LATE, TWO = Studied(1, 0), Studied(1, 8), Studied(2, 0)


def gap(**models):
    """Oracle 0.2, train mean 2.2: an MAE of 0.2 + 2 s is the share s."""
    return Gap(0.2, 2.2, {name: {seed: 0.2 + 2 * share for seed, share in enumerate(shares)}
                          for name, shares in models.items()})


GAPS = {
    ONE: gap(A=(0.20, 0.21, 0.22), B=(0.30, 0.32, 0.31)),
    LATE: gap(A=(0.40, 0.42, 0.43), B=(0.30, 0.31, 0.32)),
    TWO: gap(A=(0.70, 0.71, 0.72), B=(0.80, 0.81, 0.82)),
}


def test_shares_and_their_intervals():
    assert GAPS[ONE].shares("A") == pytest.approx({0: 0.20, 1: 0.21, 2: 0.22})
    half_width = 4.302653 * 0.01 / 3**0.5  # Student's t of two degrees of freedom
    assert limits(GAPS[ONE].shares("A")) == pytest.approx((0.21, 0.21 - half_width, 0.21 + half_width))
    assert np.isnan(limits({1: 0.5})[1])


def test_claims_hold_where_the_interval_is_below_0_and_only_in_learned_settings():
    assert sentences(GAPS, "A", ["B"]) == [
        "Unlearned, no model closes half of the gap, so no claim: two hops, lag 0.",
        "A leaves less of the gap than B: one hop, lag 0. The opposite: one hop, lag 8. Not shown: 0 of 2 settings.",
        "A loses less to the lag than B: nowhere. The opposite: one hop, lag 8. Not shown: 0 of 1 settings.",
    ]


def test_two_seeds_support_no_claim():
    few = {ONE: gap(A=(0.20, 0.21), B=(0.30, 0.31), Linear=(0.9,))}
    assert sentences(few, "A", ["B", "Linear"]) == [
        "Every setting is learned: some model closes half of its gap.",
        "No two models are compared: that takes 3 seeds of both in a learned setting.",
    ]
    assert "| one hop, lag 0 | 0.200  | 2.200      | 0.205 [" in as_markdown(few, ["A", "B", "Linear"])


def test_a_difference_that_seeds_do_not_carry_is_not_shown():
    noisy = {ONE: gap(A=(0.1, 0.2, 0.3), B=(0.2, 0.3, 0.4))}
    assert sentences(noisy, "A", ["B"])[1] == "A leaves less of the gap than B: nowhere. Not shown: 1 of 1 settings."


def test_the_figure_and_the_csv_have_every_setting_and_model():
    figure = draw(GAPS, ["A", "B"])
    assert [axes.get_title() for axes in figure.axes] == ["one hop", "two hops"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["half of the gap", "A", "B"]
    rows = list(csv.DictReader(as_csv(GAPS).decode().splitlines()))
    assert len(rows) == 3 * 2 * 3
    assert float(rows[-1]["share_left"]) == pytest.approx(0.82)
