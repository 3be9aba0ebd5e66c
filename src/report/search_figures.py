"""The figures of a search: pure functions of its trials that return a matplotlib figure."""

from itertools import accumulate

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from src.report.drawing import WIDTH

MARKS = {"complete": ("o", "#0072B2"), "pruned": ("x", "#D55E00")}  # by state: marker and colour


def draw_history(title, trials):
    """The validation loss of every trial, {"trial", "state", "value"}, and the lowest of complete ones so far."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axes = figure.subplots()
    for state, (marker, color) in MARKS.items():
        points = [(trial["trial"], trial["value"]) for trial in trials if trial["state"] == state]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=color, label=f"{state} ({len(points)})")
    complete = [(trial["trial"], trial["value"]) for trial in trials if trial["state"] == "complete"]
    numbers, values = zip(*complete, strict=True)
    axes.step(numbers, list(accumulate(values, min)), where="post", color="black", lw=1.2, label="lowest so far")
    if numbers[0] == 0:
        axes.axhline(values[0], color="0.5", ls="--", lw=1.2, label="the settings without a search (trial 0)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel("validation loss, mean over seeds")
    figure.suptitle(title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_importance(title, importance):
    """How much of the differences in loss each setting, {name: share}, explains."""
    figure = Figure(figsize=(WIDTH, 0.8 + 0.22 * len(importance)), layout="constrained")
    axes = figure.subplots()
    names = sorted(importance, key=importance.get)
    axes.barh(range(len(names)), [importance[name] for name in names], color="#56B4E9", edgecolor="black", lw=0.6)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("importance (PED-ANOVA), as a share of all")
    figure.suptitle(title)
    return figure
