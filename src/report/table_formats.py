"""How a comparison table is written: Markdown, CSV, LaTeX (booktabs) and a picture."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from src.eval_metrics import Metric
from src.files import replacing, write_whole
from src.report.escapes import csv_text, drawn_text, latex, markdown
from src.report.significance import MAIN, Difference, p_text

if TYPE_CHECKING:
    from src.report.tables import Cell, Row, Table


def shown(metric: Metric, value: float, sign: str = "") -> str:
    """A number as a table shows it: accuracies and F1 in percent, errors and correlations as they are."""
    return f"{100 * value:{sign}z.1f}" if metric.percent else f"{value:{sign}z.3f}"


def cell_parts(metric: Metric, cell: "Cell", starred: bool = False) -> tuple[str, str, str]:
    """The measured text, its marks, and the published text of a cell; '' where there is none."""
    measured = ""
    if cell.mean is not None:
        measured = shown(metric, cell.mean) + (f" ± {shown(metric, cell.spread)}" if cell.spread is not None else "")
    elif cell.values:
        measured = "n/a"
    marks = "".join(mark for mark, on in (("↑", cell.beats), ("*", starred), ("†", cell.trivial)) if on)
    published = ""
    if cell.published is not None:
        published = (f"({shown(metric, cell.published)})" + ("‡" if cell.recalled else "")
                     + ("§" if cell.conflict is not None else ""))
    return measured, marks, published


def shows_parameters(table: "Table") -> bool:
    """Whether sizes have a column: where one is published."""
    return any(row.published_parameters for row in table.rows)


def metric_headings(table: "Table") -> list[str]:
    """The titles of the metrics with an arrow to the better side."""
    falling = table.task.lower_is_better
    return [f"{title} {'↓' if key in falling else '↑'}" for title, key in table.task.columns.items()]


def headings(table: "Table") -> list[str]:
    """The column titles."""
    return ["", "seeds", *(["parameters"] if shows_parameters(table) else []), *metric_headings(table)]


def text_rows(table: "Table", bold: Callable[[str], str], escape: Callable[[str], str] = str) -> list[list[str]]:
    """The rows as text, each escaped; `bold` decorates the best."""
    rows = []
    for row in table.rows:
        cells = []
        for key in table.task.columns.values():
            starred = row.starred and list(table.task.main[1]) == [key]
            parts = cell_parts(table.task.definitions[key], row.cells[key], starred)
            measured, marks, published = map(escape, parts)
            if row.cells[key].best:
                measured = bold(measured)
            cells.append(f"{measured}{marks} {published}".strip())
        sizes = [f"{row.runs[0]['parameters'] / 1e6:.2f} M" if row.runs else "",
                 f"({row.published_parameters / 1e6:.2f} M)" if row.published_parameters else ""]
        seeds = str(len(row.runs)) if row.runs else f"({row.published_seeds})" if row.published_seeds else ""
        size = [" ".join(filter(None, sizes))] if shows_parameters(table) else []
        rows.append([escape(row.label), seeds, *size, *cells])
    return rows


def difference_columns(table: "Table") -> dict[str, str]:
    """{title: key} of the differences: the metrics, led by the main one where it is the mean of several."""
    title, metrics = table.task.main
    return {**({title: MAIN} if len(metrics) > 1 else {}), **table.task.columns}


def definition_of(table: "Table", key: str) -> Metric:
    """The metric of a difference; of the main one, a metric of which it is a mean."""
    return table.task.definitions[table.task.main[1][0] if key == MAIN else key]


def difference_text(metric: Metric, found: Difference, star: str = "") -> str:
    """A difference, its mark and its interval."""
    value, low, high = (shown(metric, x, "+") for x in found[:3])
    return f"{value}{star} [{low}, {high}]" if math.isfinite(found.low + found.high) else "n/a"


def difference_rows(table: "Table") -> list[list[str]]:
    """Heading and rows of the differences with their intervals; nothing where there are none."""
    rows = []
    for row in (row for row in table.rows if row.less):
        cells = []
        for key in difference_columns(table).values():
            star = "*" if row.starred and (key == MAIN or [key] == list(table.task.main[1])) else ""
            cells.append(difference_text(definition_of(table, key), row.less[key], star))
        rows.append([row.label, "" if row.p_value is None else p_text(row.p_value), *cells])
    return [[f"{table.reference} less", f"p ({table.task.main[0]})", *difference_columns(table)], *rows] if rows else []


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of texts, in columns of even width."""
    lines = [head, ["---"] * len(head), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def to_markdown(table: "Table") -> str:
    """A Markdown document: title, table, differences, notes."""
    head = [*map(markdown, headings(table))]
    parts = [f"## {markdown(table.title)}",
             markdown_table(head, text_rows(table, lambda text: f"**{text}**", markdown))]
    if differing := difference_rows(table):
        of_names, *rows = [[*map(markdown, row[:1]), *row[1:]] for row in differing]
        parts.append(markdown_table([*map(markdown, of_names)], rows))
    return "\n\n".join([*parts, "\n".join(f"- {markdown(note)}" for note in table.notes)]) + "\n"


def to_latex(table: "Table") -> str:
    """Booktabs tables, that of the differences below, with their notes."""
    def tabular(rows: list[list[str]]) -> list[str]:
        head, *body = (" & ".join(row) + r" \\" for row in rows)
        return [f"\\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", r"\toprule", head, r"\midrule", *body,
                r"\bottomrule", r"\end{tabular}"]
    differing = [[*map(latex, row)] for row in difference_rows(table)]
    rows = text_rows(table, lambda text: f"\\textbf{{{text}}}", latex)
    return "\n".join([
        r"\begin{table}", r"\centering", f"\\caption{{{latex(table.title)}}}",
        *tabular([[*map(latex, headings(table))], *rows]),
        *([r"\par\medskip", *tabular(differing)] if differing else []),
        r"\par\footnotesize", latex(" ".join(table.notes)), r"\end{table}", "",
    ])


def to_csv(table: "Table") -> str:
    """A line a row and metric, with what has no place in the other formats: standard F1, test-selected figures.

    difference is the table's reference less the model of the row, p_value_holm that of the main metric.
    """
    rows: list[list[Any]] = [[
        "table", "row", "metric", "mean", "std", "seeds", "published", "published_recalled", "published_source",
        "p_value_holm", "no_better_than_trivial", "best", "published_otherwise", "difference", "interval_low",
        "interval_high", "parameters", "published_parameters",
    ]]
    for row in table.rows:
        sizes = [row.runs[0]["parameters"] if row.runs else None, row.published_parameters]
        for title, key in table.task.columns.items():
            cell = row.cells[key]
            p_value = row.p_value if list(table.task.main[1]) == [key] else None
            rows.append([table.name, row.label, title, cell.mean, cell.spread, len(row.runs), cell.published,
                         cell.recalled if cell.published is not None else None, row.source, p_value,
                         cell.trivial, cell.best, cell.conflict, *difference_fields(row, key), *sizes])
        if row.less and len(table.task.main[1]) > 1:
            rows.append([table.name, row.label, table.task.main[0], None, None, len(row.runs), None, None, None,
                         row.p_value, None, None, None, *difference_fields(row, MAIN), None, None])
        for name, values in unlisted_metrics(table, row.runs).items():
            mean = None if None in values else sum(values) / len(values)
            rows.append([table.name, row.label, name, mean, None, len(row.runs)] + [None] * 12)
    return csv_text(rows)


def difference_fields(row: "Row", key: str) -> list[float | None]:
    """The difference in a metric and the limits of its interval, None where there are none."""
    return [None if math.isnan(x) else float(x) for x in row.less[key][:3]] if row.less else [None] * 3


def unlisted_metrics(table: "Table", runs: list[dict[str, Any]]) -> dict[str, list]:
    """The metrics of runs that no column shows, and all those of the epoch that the test split would have chosen."""
    if not runs:
        return {}
    listed = {*table.task.columns.values(), "loss"}
    values = {f"{key} (not in the table)": [run["test"][key] for run in runs]
              for key in runs[0]["test"] if key not in listed}
    return values | {f"{key} (TEST-SELECTED epoch, not a result)": [run["test_selected"]["test"][key] for run in runs]
                     for key in runs[0]["test_selected"]["test"]}


def write_picture(table: "Table", path: Path) -> None:
    """The table, and that of the differences, as a PNG."""
    rows, differing = [headings(table), *text_rows(table, lambda text: text)], difference_rows(table)
    columns = list(table.task.columns.values())
    first = len(rows[0]) - len(columns)  # the column of the first metric
    best = {(i + 1, first + j) for i, row in enumerate(table.rows) for j, key in enumerate(columns)
            if row.cells[key].best}
    of_notes, of_differences, of_rows = 0.2 * len(table.notes), 0.28 * len(differing), 0.28 * len(rows)
    gap = 0.2 if differing else 0.0
    height = of_notes + of_differences + gap + of_rows
    width = 0.088 * max(95, *(sum(column_widths(block)) for block in (rows, differing) if block))
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    draw_rows(axes, rows, best, (of_notes + of_differences + gap) / height, of_rows / height)
    if differing:
        draw_rows(axes, differing, set(), of_notes / height, of_differences / height)
    axes.text(0, 0, "\n".join(table.notes), fontsize=7, va="bottom", linespacing=1.5, transform=axes.transAxes)
    axes.set_title(table.title, fontsize=10, loc="left")
    figure.savefig(path, format="png", dpi=150, bbox_inches="tight")


def column_widths(rows: list[list[str]]) -> list[int]:
    """The widths of columns of text in characters, with room for bold."""
    return [max(map(len, column)) + 3 for column in zip(*rows, strict=True)]


def draw_rows(axes: Any, rows: list[list[str]], bold: set[tuple[int, int]], bottom: float, height: float) -> None:
    """Draw rows of text, the first as their heading, over the whole width of axes, at a height from 0 to 1."""
    widths = column_widths(rows)
    drawn = axes.table(rows, colWidths=[w / sum(widths) for w in widths], cellLoc="right",
                       bbox=Bbox.from_bounds(0, bottom, 1, height))
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    for (i, j), cell in drawn.get_celld().items():
        cell.set_linewidth(0.6)
        cell.visible_edges = "TB" if i == 0 else "B" if i == len(rows) - 1 else ""
        if j == 0:
            cell.set_text_props(ha="left")
        if i == 0 or (i, j) in bold:
            cell.set_text_props(weight="bold")


def write_table(table: "Table", folder: Path) -> None:
    """Write a table's four files into a folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    renderings: dict[str, Callable[[Table], str]] = {".md": to_markdown, ".csv": to_csv, ".tex": to_latex}
    for suffix, render in renderings.items():
        write_whole(folder / f"{table.name}{suffix}", render(table).encode())
    with drawn_text(), replacing(folder / f"{table.name}.png") as temporary:
        write_picture(table, temporary)
