"""How a comparison table is written: Markdown, CSV, LaTeX (booktabs) and a picture."""

import csv
import io
import os

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox


def shown(metric, value):
    """A number as a table shows it: accuracies and F1 in percent, errors and correlations as they are."""
    return f"{100 * value:.1f}" if metric.percent else f"{value:.3f}"


def cell_parts(metric, cell):
    """The measured text, its marks, and the published text of a cell; '' where there is none."""
    measured = ""
    if cell.mean is not None:
        measured = shown(metric, cell.mean) + (f" ± {shown(metric, cell.spread)}" if cell.spread is not None else "")
    elif cell.values:
        measured = "n/a"
    marks = "".join(mark for mark, on in (("↑", cell.beats), ("*", cell.significant), ("†", cell.trivial)) if on)
    published = ""
    if cell.published is not None:
        published = f"({shown(metric, cell.published)})" + ("‡" if cell.recalled else "")
    return measured, marks, published


def headings(table):
    """The column titles with an arrow to the better side."""
    falling = table.task.lower_is_better
    return ["", "seeds", *(f"{title} {'↓' if key in falling else '↑'}" for title, key in table.task.columns.items())]


def text_rows(table, bold):
    """The rows as text; `bold` decorates the best."""
    rows = []
    for row in table.rows:
        cells = []
        for key in table.task.columns.values():
            measured, marks, published = cell_parts(table.task.definitions[key], row.cells[key])
            if row.cells[key].best:
                measured = bold(measured)
            cells.append(f"{measured}{marks} {published}".strip())
        rows.append([row.label, str(len(row.runs)) if row.runs else "", *cells])
    return rows


def markdown_table(head, rows):
    """A Markdown table of texts, in columns of even width."""
    lines = [head, ["---"] * len(head), *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def to_markdown(table):
    """A Markdown document: title, table, notes."""
    body = markdown_table(headings(table), text_rows(table, lambda text: f"**{text}**"))
    notes = "\n".join(f"- {note}" for note in table.notes)
    return f"## {table.title}\n\n{body}\n\n{notes}\n"


def to_latex(table):
    """A booktabs table with its notes below."""
    special = {"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "†": r"$\dagger$", "‡": r"$\ddagger$",
               "%": r"\%", "#": r"\#", "$": r"\$", "_": r"\_", "<": "$<$", "&": r"\&"}
    def escape(text):
        return "".join(special.get(character, character) for character in text)
    rows = [headings(table), *text_rows(table, lambda text: f"\\textbf{{{text}}}")]
    head, *body = (" & ".join(map(escape, row)) + r" \\" for row in rows)
    return "\n".join([
        r"\begin{table}", r"\centering", f"\\caption{{{escape(table.title)}}}",
        f"\\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule",
        r"\end{tabular}", r"\par\footnotesize", escape(" ".join(table.notes)), r"\end{table}", "",
    ])


def to_csv(table):
    """A line a row and metric, with what has no place in the other formats: standard F1, test-selected figures."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["table", "row", "metric", "mean", "std", "seeds", "published", "published_recalled",
                     "published_source", "p_value_holm", "no_better_than_trivial", "best"])
    for row in table.rows:
        for title, key in table.task.columns.items():
            cell = row.cells[key]
            writer.writerow([table.name, row.label, title, cell.mean, cell.spread, len(row.runs), cell.published,
                             cell.recalled if cell.published is not None else None, row.source, cell.p_value,
                             cell.trivial, cell.best])
        for name, values in unlisted_metrics(table, row.runs).items():
            mean = None if None in values else sum(values) / len(values)
            writer.writerow([table.name, row.label, name, mean, None, len(row.runs)] + [None] * 6)
    return out.getvalue()


def unlisted_metrics(table, runs):
    """The metrics of runs that no column shows, and all those of the epoch that the test split would have chosen."""
    if not runs:
        return {}
    listed = {*table.task.columns.values(), "loss"}
    values = {f"{key} (not in the table)": [run["test"][key] for run in runs]
              for key in runs[0]["test"] if key not in listed}
    return values | {f"{key} (TEST-SELECTED epoch, not a result)": [run["test_selected"]["test"][key] for run in runs]
                     for key in runs[0]["test_selected"]["test"]}


def write_picture(table, path):
    """The table as a PNG."""
    rows = [headings(table), *text_rows(table, lambda text: text)]
    columns = list(table.task.columns.values())
    widths = [max(map(len, column)) + 3 for column in zip(*rows, strict=True)]  # bold is wider than plain
    notes = "\n".join(table.notes)
    width, height = 0.088 * max(sum(widths), 95), 0.28 * len(rows) + 0.2 * len(table.notes)
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    drawn = axes.table(rows, colWidths=[w / sum(widths) for w in widths], cellLoc="right", bbox=Bbox.from_bounds(
        0, 0.2 * len(table.notes) / height, 1, 0.28 * len(rows) / height))
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(9)
    for (i, j), cell in drawn.get_celld().items():
        cell.set_linewidth(0.6)
        cell.visible_edges = "TB" if i == 0 else "B" if i == len(rows) - 1 else ""
        if j == 0:
            cell.set_text_props(ha="left")
        if i == 0 or (j > 1 and table.rows[i - 1].cells[columns[j - 2]].best):
            cell.set_text_props(weight="bold")
    axes.text(0, 0, notes, fontsize=7, va="bottom", linespacing=1.5, transform=axes.transAxes)
    axes.set_title(table.title, fontsize=10, loc="left")
    figure.savefig(path, dpi=150, bbox_inches="tight")


def write_table(table, folder):
    """Write a table's four files into a folder, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    def write(suffix, save):
        temporary = folder / f".{table.name}.tmp{suffix}"
        save(temporary)
        os.replace(temporary, folder / f"{table.name}{suffix}")
    for suffix, render in ((".md", to_markdown), (".csv", to_csv), (".tex", to_latex)):
        write(suffix, lambda path, render=render: path.write_text(render(table), encoding="utf-8"))
    write(".png", lambda path: write_picture(table, path))
