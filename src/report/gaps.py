"""The study of asynchrony: the share of the gap between the train mean and the oracle that a trained model leaves.

    share = (model - oracle) / (train mean - oracle), each the test MAE: 0 is as good as the oracle, 1 as the train mean

A setting is learned if some model closes half of its gap, by its mean over seeds. One that is not supports no claim.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import ttest_1samp, ttest_ind

from src.data.study import Studied
from src.report.drawing import WIDTH, line_styles
from src.report.escapes import csv_text
from src.report.significance import FEWEST_SEEDS
from src.report.table_formats import markdown_table

HALF = 0.5  # of the gap
LEAVES, LOSES = "leaves less of the gap", "loses less to {}"  # than another model

EASIER: dict[str, dict[str, Any]] = {  # the setting that a loss is against
    "the lag": {"lag": 0}, "the second hop": {"hops": 1}, "the control": {"control": ""},
}

Values = dict[int, float]  # by seed
Effect = tuple[str, str]  # the words of a claim and the title of a setting
Limits = tuple[float, float, float]  # a mean over seeds and its 95 % interval, nan where one seed has none


class Gap(NamedTuple):
    """Test MAE in a setting."""

    oracle: float
    train_mean: float
    models: dict[str, Values]

    def shares(self, model: str) -> Values:
        """The shares of the gap that a model leaves."""
        return {seed: (mae - self.oracle) / (self.train_mean - self.oracle) for seed, mae in self.models[model].items()}

    @property
    def learned(self) -> bool:
        """Whether a model closes half of the gap."""
        return any(limits(self.shares(model))[0] <= HALF for model in self.models)


Gaps = Mapping[Studied, Gap]


def limits(values: Values) -> Limits:
    """The mean over seeds."""
    numbers = list(values.values())
    interval = ttest_1samp(numbers, 0).confidence_interval() if len(numbers) > 1 else (np.nan, np.nan)
    return float(np.mean(numbers)), float(interval[0]), float(interval[1])


def difference(one: Values, other: Values) -> Limits:
    """One model less the other; their seeds are separate draws."""
    a, b = list(one.values()), list(other.values())
    low, high = ttest_ind(a, b, equal_var=False).confidence_interval()
    return float(np.mean(a) - np.mean(b)), float(low), float(high)


def effects(gaps: Gaps, model: str) -> dict[Effect, Values]:
    """What learned settings show of a model: the share that it leaves, and how much more that is than without the lag,
    the second hop or the control.
    """
    shares = {studied: gap.shares(model) for studied, gap in gaps.items() if gap.learned and model in gap.models}
    found: dict[Effect, Values] = {(LEAVES, studied.title): values for studied, values in shares.items()}
    for what, easier in EASIER.items():
        for studied, values in shares.items():
            base = studied._replace(**easier)
            if base != studied and base in shares:
                found[LOSES.format(what), studied.title] = {
                    seed: values[seed] - shares[base][seed] for seed in values.keys() & shares[base].keys()}
    return found


def differences(gaps: Gaps, reference: str, other: str) -> dict[Effect, Limits]:
    """The effects on the reference less those on another model, where both have enough seeds."""
    of_reference, of_other = effects(gaps, reference), effects(gaps, other)
    return {effect: difference(of_reference[effect], of_other[effect]) for effect in of_reference
            if effect in of_other and min(len(of_reference[effect]), len(of_other[effect])) >= FEWEST_SEEDS}


def sentences(gaps: Gaps, reference: str, others: Sequence[str]) -> list[str]:
    """Which settings are learned, and which claims hold of the reference beside each other model."""
    unlearned = [studied.title for studied, gap in gaps.items() if not gap.learned]
    lines = [f"Unlearned, no model closes half of the gap, so no claim: {'; '.join(unlearned)}." if unlearned else
             "Every setting is learned: some model closes half of its gap."]
    for other in others:
        found = differences(gaps, reference, other)
        for claim in dict.fromkeys(claim for claim, _ in found):
            of_claim = {title: low_high for (of, title), (_, *low_high) in found.items() if of == claim}
            holds = [title for title, (_, high) in of_claim.items() if high < 0]
            opposite = [title for title, (low, _) in of_claim.items() if low > 0]
            lines.append(f"{reference} {claim} than {other}: {'; '.join(holds) or 'nowhere'}"
                         + (f". The opposite: {'; '.join(opposite)}" if opposite else "")
                         + f". Not shown: {len(of_claim) - len(holds) - len(opposite)} of {len(of_claim)} settings.")
    if len(lines) == 1:
        lines.append(f"No two models are compared: that takes {FEWEST_SEEDS} seeds of both in a learned setting.")
    return lines


def shown(found: Limits, sign: str = "") -> str:
    """0.251 [0.220, 0.282]"""
    mean, low, high = found
    return f"{mean:{sign}.3f}" + ("" if np.isnan(low) else f" [{low:{sign}.3f}, {high:{sign}.3f}]")


def as_markdown(gaps: Gaps, models: Sequence[str]) -> str:
    """The tables and what they support; the first model is compared with the others."""
    reference, *others = models
    rows = [[studied.title, f"{gap.oracle:.3f}", f"{gap.train_mean:.3f}",
             *(shown(limits(gap.shares(model))) if model in gap.models else "" for model in models),
             "yes" if gap.learned else "no"] for studied, gap in gaps.items()]
    parts = ["# Asynchrony: the share of the gap that is left",
             "(model - oracle) / (train mean - oracle) of the test MAE: 0 is the oracle, 1 the train mean. Mean over "
             "seeds [95 % interval].",
             markdown_table(["", "oracle", "train mean", *models, "learned"], rows)]
    compared = {other: found for other in others if (found := differences(gaps, reference, other))}
    if compared:
        effects_of_all = dict.fromkeys(effect for found in compared.values() for effect in found)
        rows = [[claim, title, *(shown(found[claim, title], "+") if (claim, title) in found else ""
                                 for found in compared.values())] for claim, title in effects_of_all]
        parts += [f"{reference} less each other model [95 % interval over seeds, each by itself]. A claim holds where "
                  "the interval is below 0.", markdown_table(["claim", "setting", *compared], rows)]
    return "\n\n".join([*parts, "\n".join(f"- {line}" for line in sentences(gaps, reference, others))]) + "\n"


def as_csv(gaps: Gaps) -> bytes:
    """A line for each run."""
    rows: list[list[Any]] = [["hops", "lag", "control", "model", "seed", "mae", "oracle_mae", "train_mean_mae",
                              "share_left"]]
    for studied, gap in gaps.items():
        for model, by_seed in gap.models.items():
            shares = gap.shares(model)
            rows += [[*studied, model, seed, mae, gap.oracle, gap.train_mean, shares[seed]]
                     for seed, mae in by_seed.items()]
    return csv_text(rows).encode()


def draw(gaps: Gaps, models: Sequence[str]) -> Figure:
    """The share left over the lag: a panel for each number of hops, a line a model, bars for the intervals."""
    plain = {studied: gap for studied, gap in gaps.items() if not studied.control}
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    titles = list(dict.fromkeys(studied.words_of_hops for studied in plain))
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, title in zip(panels, titles, strict=True):
        inside = {studied.lag: gap for studied, gap in plain.items() if studied.words_of_hops == title}
        for i, (model, style) in enumerate(zip(models, line_styles(), strict=False)):
            points = {lag: limits(gap.shares(model)) for lag, gap in inside.items() if model in gap.models}
            means = [mean for mean, _, _ in points.values()]
            half_widths = [(high - low) / 2 for _, low, high in points.values()]
            axes.errorbar([lag + 0.18 * (i - (len(models) - 1) / 2) for lag in points], means, half_widths,
                          capsize=2.5, label=model, **style)
        axes.axhline(HALF, color="0.5", lw=1, label="half of the gap")
        axes.set_xticks(list(inside))
        axes.set_xlabel("lag of vision in frames (audio: half of it)")
        axes.set_title(title)
    panels[0].set_ylim(bottom=min(0, panels[0].get_ylim()[0]))
    panels[0].set_ylabel("share of the gap left\n(0: oracle, 1: train mean)")
    figure.suptitle("Asynchrony: mean and 95 % interval over seeds")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, handlelength=3.5)
    return figure
