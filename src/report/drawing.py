"""The figures of runs, data and searches: pure functions of numbers that return a matplotlib figure.

They can be read in print and in grey: dashes, markers and hatches tell apart what colours do.
"""

import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate, cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from src.files import replacing
from src.tasks import Task

MODALITY_NAMES = {"l": "language", "a": "audio", "v": "vision"}

WIDTH = 7  # inches
STYLE = {
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "legend.fontsize": 8, "figure.titlesize": 10, "axes.spines.top": False, "axes.spines.right": False,
    "hatch.linewidth": 0.6, "savefig.dpi": 150, "legend.frameon": False,
}
LINE_COLORS = ("#0072B2", "#E69F00", "#009E73", "#000000", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito's
BAR_COLORS = ("#56B4E9", "#F0E442", "#009E73", "#E69F00", "#CC79A7", "#D55E00", "#999999")  # black shows on them
HATCHES = ("", "////", "....", "xxxx", r"\\\\", "++++")  # one less than colours: no pair of them soon again
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SPLIT_LINES = {  # of the losses: label, colour and dashes by split
    "train": ("training", "#E69F00", ":"), "valid": ("validation", "#0072B2", "-"), "test": ("test", "black", "--"),
}
GROUPS_IN_A_ROW = 8  # of the bar chart
TRIAL_MARKS = {"complete": ("o", "#0072B2"), "pruned": ("x", "#D55E00")}  # by state: marker and colour


def line_styles() -> Iterator[dict[str, Any]]:
    """The style of one line after the other, without end."""
    for color, dashes, marker in zip(cycle(LINE_COLORS), cycle(LINES), cycle(MARKERS), strict=False):
        yield {"color": color, "ls": dashes, "lw": 1.5, "marker": marker, "mec": "black", "mew": 0.5, "ms": 4.5}


def heat_map(axes: Axes, values: ndarray, ticks: tuple[int, int], limits: tuple[float, float | None] = (0, None),
             shape: tuple[int, int] | None = None, **bar: Any) -> None:
    """Show a matrix in grey, with a bar. Columns and rows count from 1, up to `shape` if given; `ticks` at most."""
    rows, columns = shape or values.shape
    image = axes.imshow(values, cmap="Greys", vmin=limits[0], vmax=limits[1], aspect="auto", interpolation="nearest",
                        extent=(0.5, columns + 0.5, rows + 0.5, 0.5))
    for axis, most in zip((axes.xaxis, axes.yaxis), ticks, strict=True):
        axis.set_major_locator(whole_numbers(most))
    axes.spines[["top", "right"]].set_visible(True)
    axes.figure.colorbar(image, ax=axes, pad=0.02, **bar)


def loss_curves(epochs: Sequence[Mapping[str, Any]]) -> dict[str, ndarray]:
    """{split: (epochs,) array} of the lines of metrics.jsonl."""
    return {split: np.array([epoch[f"{split}_loss"] for epoch in epochs], dtype=float) for split in SPLIT_LINES}


def mean_curve(curves):
    """The mean of curves over the epochs that all of them have."""
    shortest = min(map(len, curves))
    return np.mean([curve[:shortest] for curve in curves], axis=0)


def mean_and_spread(values):
    """Mean and standard deviation, nan where a single value has none; None where a run left the metric undefined."""
    if None in values:
        return None
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else float("nan")


def bar_heights(models, columns):
    """{name of the model: {title of the column: mean and spread over seeds}} of test metrics."""
    return {
        name: {title: mean_and_spread([run.result["test"][key] for run in runs]) for title, key in columns.items()}
        for name, runs in models.items()
    }


def bar_panels(columns: Mapping[str, str], lower_is_better: Collection[str]) -> list[list[str]]:
    """The titles of columns, panel by panel: metrics that fall as a model gets better apart from those that rise."""
    falling = [title for title, key in columns.items() if key in lower_is_better]
    rising = [title for title in columns if title not in falling]
    chunks = [rising[i:i + GROUPS_IN_A_ROW] for i in range(0, len(rising), GROUPS_IN_A_ROW)]
    return ([falling] if falling else []) + chunks


def count_seeds(models):
    """'3 seeds', or '1 to 3 seeds' where models differ."""
    counts = sorted({len(runs) for runs in models.values()})
    return f"{' to '.join(map(str, dict.fromkeys((counts[0], counts[-1]))))} seed{'s' if counts[-1] > 1 else ''}"


def draw_curves(title: str, models: Mapping[str, list], loss_name: str) -> Figure:
    """Losses by epoch: a panel a model, a thin line a seed, a thick one their mean, a dot at each selected epoch."""
    columns = min(3, len(models))
    rows = -(-len(models) // columns)
    figure = Figure(figsize=(WIDTH, 0.7 + 2.4 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, (name, runs) in zip(panels.flat, models.items(), strict=False):
        curves = [loss_curves(run.epochs) for run in runs]
        for split, (label, color, dashes) in SPLIT_LINES.items():
            for curve in curves:
                axes.plot(range(1, len(curve[split]) + 1), curve[split], dashes, color=color, lw=0.6, alpha=0.6)
            mean = mean_curve([curve[split] for curve in curves])
            axes.plot(range(1, len(mean) + 1), mean, dashes, color=color, lw=1.8, label=label)
        selected = [run.result["selected_epoch"] for run in runs]
        axes.plot(selected, [curve["valid"][epoch - 1] for curve, epoch in zip(curves, selected, strict=True)], "o",
                  color="#0072B2", mec="black", ms=5.5, zorder=3, label="selected epoch")
        axes.set_title(f"{name}, {count_seeds({name: runs})}")
        axes.xaxis.set_major_locator(whole_numbers(6))
    for axes in panels.flat[len(models):]:
        axes.set_visible(False)
    for axes in panels.flat[max(0, len(models) - columns):len(models)]:  # those with no panel below
        axes.tick_params(labelbottom=True)
        axes.set_xlabel("epoch")
    for axes in panels[:, 0]:
        axes.set_ylabel(f"loss ({loss_name})")
    figure.suptitle(f"{title}, {count_seeds(models)}\nlosses: mean over seeds (thick) and each seed (thin)")
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_confusion(title: str, models: Mapping[str, ndarray], classes: Sequence[str]) -> Figure:
    """Confusion matrices (K, K) of counts: a panel a model, a row a true class, shaded by its share of the row."""
    columns = min(2 if len(classes) > 4 else 3, len(models))
    rows = -(-len(models) // columns)
    size = max(2.2, 0.45 * len(classes) + 1)
    figure = Figure(figsize=(max(WIDTH, columns * size), 0.6 + rows * size), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes, (name, counts) in zip(panels.flat, models.items(), strict=False):
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(shares, cmap="Greys", vmin=0, vmax=1)
        for (i, j), count in np.ndenumerate(counts):
            axes.text(j, i, f"{count}\n{100 * shares[i, j]:.0f} %", ha="center", va="center", fontsize=7,
                      color="white" if shares[i, j] > 0.5 else "black")
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(name)
    for axes in panels.flat[len(models):]:
        axes.set_visible(False)
    figure.suptitle(title)
    return figure


def draw_bars(title: str, models: Mapping[str, list], task: Task, trivial: Mapping[str, Any]) -> Figure:
    """Test metrics: a group a metric, a bar a model, error bars over seeds, a dashed line for the trivial baseline."""
    columns = task.columns
    heights, panels = bar_heights(models, columns), bar_panels(columns, task.lower_is_better)
    in_a_row = len(columns) <= GROUPS_IN_A_ROW
    figure = Figure(figsize=(WIDTH, 3.4 if in_a_row else 0.9 + 2.3 * len(panels)), layout="constrained")
    if in_a_row:
        all_axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=[0.5 + len(titles) for titles in panels])
    else:
        all_axes = figure.subplots(len(panels), 1, squeeze=False)
    width = 0.8 / len(models)
    undefined = [title for title, key in columns.items() if trivial["test"][key] is None]
    trivial_label = trivial["name"] + (f" (no {', '.join(undefined)})" if undefined else "")
    for axes, titles in zip(all_axes.flat, panels, strict=True):
        for j, (name, color, hatch) in enumerate(zip(models, cycle(BAR_COLORS), cycle(HATCHES), strict=False)):
            for i, group in enumerate(titles):
                x = i + (j - (len(models) - 1) / 2) * width
                if heights[name][group] is None:
                    axes.text(x, 0, "n/a", rotation=90, ha="center", va="bottom", fontsize=8)
                    continue
                mean, spread = heights[name][group]
                axes.bar(x, mean, 0.92 * width, yerr=spread, capsize=2.5, color=color, hatch=hatch, edgecolor="black",
                         lw=0.6, error_kw={"lw": 1}, label=f"{name}, {count_seeds({name: models[name]})}")
        for i, group in enumerate(titles):
            if group not in undefined:
                axes.hlines(trivial["test"][columns[group]], i - 0.47, i + 0.47, color="black", ls="--", lw=1.4,
                            clip_on=False, zorder=3, label=trivial_label)
        axes.set_xticks(range(len(titles)), [group.replace(" ", "\n") for group in titles])
        axes.tick_params(axis="x", length=0)
        axes.spines["bottom"].set_color("0.6")  # a baseline of 0 shows on it
        axes.set_xlim(-0.6, len(titles) - 0.4)
        falling = columns[titles[0]] in task.lower_is_better
        axes.set_ylabel(f"{'error, lower' if falling else 'score, higher'} is better")
    labelled: dict[str, Any] = {}
    for axes in all_axes.flat:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            labelled.setdefault(label, handle)
    labelled[trivial_label] = labelled.pop(trivial_label)  # last
    figure.suptitle(f"{title}, {count_seeds(models)}\ntest split, mean ± standard deviation over seeds")
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center",
                  ncols=4 if len(labelled) <= 4 else 3, handlelength=2.5)
    return figure


def draw_gates(title: str, curves: Mapping[str, ndarray]) -> Figure:
    """The mean gate over time: a panel a modality, a line a layer."""
    figure = Figure(figsize=(WIDTH, 3), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (m, layers) in zip(panels, curves.items(), strict=True):
        steps = np.arange(1, layers.shape[1] + 1)
        for i, (curve, style) in enumerate(zip(layers, line_styles(), strict=False)):
            axes.plot(steps, curve, markevery=max(1, len(steps) // 8), label=f"layer {i + 1}", **style)
        axes.set_title(MODALITY_NAMES[m])
        axes.set_xlabel("time step")
        axes.xaxis.set_major_locator(whole_numbers(6))
    panels[0].set_ylabel("mean gate G\n(1: self-attention, 0: hub)")
    figure.suptitle(f"{title}\ngates: mean over features and test samples, without padding")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, handlelength=3.5)
    return figure


def draw_messages(title: str, alphas: Sequence[ndarray], modalities: Sequence[str]) -> Figure:
    """The message weights: a group a layer, a bar a modality, error bars over samples."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(modalities)
    for j, (m, color, hatch) in enumerate(zip(modalities, BAR_COLORS, HATCHES, strict=False)):
        x = np.arange(len(alphas)) + (j - (len(modalities) - 1) / 2) * width
        means, spreads = zip(*((alpha[:, j].mean(), alpha[:, j].std()) for alpha in alphas), strict=True)
        axes.bar(x, means, 0.92 * width, yerr=spreads, capsize=3, color=color, hatch=hatch, edgecolor="black", lw=0.6,
                 error_kw={"lw": 1}, label=MODALITY_NAMES[m])
    axes.axhline(1 / len(modalities), color="black", ls="--", lw=1.2, label="equal weights")
    axes.set_xticks(range(len(alphas)), [f"layer {i + 1}" for i in range(len(alphas))])
    axes.tick_params(axis="x", length=0)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("message weight α")
    figure.suptitle(f"{title}\nmessage weights: mean ± standard deviation over test samples")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, handlelength=2.5)
    return figure


def whole_numbers(most: int) -> MaxNLocator:
    """Ticks at no more than so many whole numbers; one alone where there is only one step."""
    return MaxNLocator(integer=True, nbins=most, min_n_ticks=1)


def draw_attention(title: str, sample: str, maps: Mapping[str, ndarray],
                   segments: Mapping[str, tuple[int, int]]) -> Figure:
    """Crossmodal attention to the hub: a heat map a modality, the hub's segments marked."""
    figure = Figure(figsize=(WIDTH, 1.2 + 1.7 * len(maps)), layout="constrained")
    panels = figure.subplots(len(maps), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (m, weights) in zip(panels, maps.items(), strict=True):
        heat_map(axes, weights, (6, 6), label="weight")
        for _, end in list(segments.values())[:-1]:
            axes.axvline(end + 0.5, color="white", lw=3)
            axes.axvline(end + 0.5, color="black", ls="--", lw=1.2)
        axes.set_ylabel(f"step of\n{MODALITY_NAMES[m]}")
    middles = [(start + 1 + end) / 2 for start, end in segments.values()]
    panels[-1].set_xticks(
        middles, [f"{MODALITY_NAMES.get(m, m)}\n{start + 1} to {end}" for m, (start, end) in segments.items()])
    ticks, below = panels[-1].xaxis.get_major_ticks(), False
    for tick, here, before in zip(ticks[1:], middles[1:], middles[:-1], strict=False):
        if below := here - before < weights.shape[1] / 8 and not below:  # too near to stand side by side
            tick.set_pad(32)
    panels[-1].set_xlabel("segment and steps of the hub")
    figure.suptitle(f"{title}\nattention to the hub in the last layer, mean over heads\ntest sample {sample}")
    return figure


def draw_pairs(title: str, sample: str, maps: Mapping[tuple[str, str], ndarray], steps: Mapping[str, int]) -> Figure:
    """Crossmodal attention between pairs: a row a target, a heat map a source. maps: {(target, source): (T_t, T_s)}."""
    targets = list(dict.fromkeys(target for target, _ in maps))
    figure = Figure(figsize=(WIDTH, 1.2 + 1.9 * len(targets)), layout="constrained")
    panels = figure.subplots(len(targets), max(sum(t == target for t, _ in maps) for target in targets), squeeze=False)
    for axes_of_target, target in zip(panels, targets, strict=True):
        for axes, source in zip(axes_of_target, (s for t, s in maps if t == target), strict=True):
            heat_map(axes, maps[target, source], (5, 5), shape=(steps[target], steps[source]))
            axes.set_xlabel(f"step of {MODALITY_NAMES[source]}")
            axes.set_ylabel(f"step of {MODALITY_NAMES[target]}")
    figure.suptitle(f"{title}\ncrossmodal attention in the last layer, mean over heads\ntest sample {sample}")
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, whole or not at all."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def draw_streams(title: str, streams: Mapping[str, ndarray]) -> Figure:
    """The three streams of a sample: a heat map a modality, its padding, the steps of zeros, hatched.

    streams: {name: (T, d)}. Each feature is shown in standard deviations from its mean over the real steps.
    """
    figure = Figure(figsize=(WIDTH, 1.2 + 2 * len(streams)), layout="constrained")
    for axes, (name, stream) in zip(figure.subplots(len(streams), 1), streams.items(), strict=True):
        real = (stream != 0).any(axis=1)
        shown = np.full(stream.shape, np.nan)
        shown[real] = standard_scores(stream[real])
        heat_map(axes, shown.T, (8, 5), (-2, 2), label="standard deviations", extend="both")
        edges = np.flatnonzero(np.diff(np.concatenate([[True], real, [True]]))) + 0.5
        for start, end in edges.reshape(-1, 2):
            axes.axvspan(start, end, facecolor="#56B4E9", edgecolor="black", hatch="////", lw=0, alpha=0.5)
        axes.set_ylabel(f"feature of\n{name}")
    axes.set_xlabel("time step (hatched: padding)")
    figure.suptitle(title)
    return figure


def standard_scores(stream: ndarray) -> ndarray:
    """Each feature of (T, d) in standard deviations from its mean, over what is finite; 0 where it does not vary."""
    finite = np.where(np.isfinite(stream), stream, np.nan).astype(float)
    known = np.isfinite(finite)
    number = np.maximum(known.sum(axis=0), 1)
    centred = finite - np.where(known, finite, 0).sum(axis=0) / number
    spread = np.sqrt((np.where(known, centred, 0) ** 2).sum(axis=0) / number)
    return centred / np.where(spread > 0, spread, 1)


def draw_history(title: str, trials: Sequence[Mapping[str, Any]]) -> Figure:
    """The validation loss of every trial, {"trial", "state", "value"}, and the lowest of complete ones so far."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    for state, (marker, color) in TRIAL_MARKS.items():
        points = [(trial["trial"], trial["value"]) for trial in trials if trial["state"] == state]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=color, label=f"{state} ({len(points)})")
    complete = [(trial["trial"], trial["value"]) for trial in trials if trial["state"] == "complete"]
    numbers, values = zip(*complete, strict=True)
    axes.step(numbers, list(accumulate(values, min)), where="post", color="black", lw=1.2, label="lowest so far")
    if numbers[0] == 0:
        axes.axhline(values[0], color="0.5", ls="--", lw=1.2, label="the settings without a search (trial 0)")
    axes.xaxis.set_major_locator(whole_numbers(10))
    axes.set_xlabel("trial")
    axes.set_ylabel("validation loss, mean over seeds")
    figure.suptitle(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_importance(title: str, importance: Mapping[str, float]) -> Figure:
    """How much of the differences in loss each setting, {name: share}, explains."""
    figure = Figure(figsize=(WIDTH, 0.8 + 0.22 * len(importance)), layout="constrained")
    axes = figure.subplots()
    names = sorted(importance, key=importance.__getitem__)
    axes.barh(range(len(names)), [importance[name] for name in names], color="#56B4E9", edgecolor="black", lw=0.6)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("importance (PED-ANOVA), as a share of all")
    figure.suptitle(title)
    return figure
