"""The six tables, in every format, with every kind of cell; and folders that hold something else."""

import csv
import json

import numpy as np
import pytest
from matplotlib.image import imread

from src.data.specs import find_spec
from src.report.read_runs import Group, collect
from src.report.tables import PUBLISHED, build_table, main, published_rows, write_tables
from src.tasks import SentimentRegression
from tests.run_files import write_run

INFINITE = float("inf")


def table_of(root, dataset="mosi", alignment="unaligned", protocol="MulT"):
    groups, _ = collect(root)
    group = Group(dataset, alignment, protocol)
    return build_table(group, groups[group])


def rows_of(table):
    return {row.label: row for row in table.rows}


def test_six_tables_in_every_format(tmp_path):
    results, out = tmp_path / "results", tmp_path / "tables"
    for dataset in ("mosi", "mosei", "iemocap"):
        for aligned in (False, True):
            for model, noise in (("MulT", 2.0), ("MulT-FFL", INFINITE), ("PMR", 0.3)):
                for seed in (1, 2):
                    write_run(results, dataset, aligned, model, seed, noise)
    tables, problems = write_tables(results, out)
    assert (len(tables), problems) == (6, [])
    for table in tables:
        assert {path.suffix for path in out.glob(f"{table.name}.*")} == {".md", ".csv", ".tex", ".png"}
        picture = imread(out / f"{table.name}.png")
        assert min(picture.shape[:2]) > 200
        assert (picture[..., :3].min(), np.median(picture[..., :3])) == (0, 1)  # dark text on white
        latex = (out / f"{table.name}.tex").read_text()
        assert r"\toprule" in latex
        assert "±" not in latex
        widths = {line.count("|") for line in (out / f"{table.name}.md").read_text().splitlines() if "|" in line}
        assert widths == {len(table.task.columns) + 3}
    assert len(list(out.iterdir())) == 24
    assert list(tables[0].task.columns) == ["Happy Acc", "Happy F1", "Sad Acc", "Sad F1", "Angry Acc", "Angry F1",
                                       "Neutral Acc", "Neutral F1"]


def test_every_kind_of_cell(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, model="MulT", seed=seed, noise=1.0)
        write_run(tmp_path, model="PMR", seed=seed, noise=0.2)
    write_run(tmp_path, model="MulT-FFL", noise=INFINITE)  # one seed, no better than trivial
    table = table_of(tmp_path)
    rows = rows_of(table)
    assert list(rows) == ["train mean", "CTC+EF-LSTM", "LF-LSTM", "CTC+MCTN", "CTC+RAVEN", "MulT", "MulT-FFL", "PMR"]

    pmr, mult, ffl = (rows[name].cells for name in ("PMR", "MulT", "MulT-FFL"))
    assert pmr["mae"].best
    assert pmr["mae"].beats
    assert pmr["mae"].significant
    assert pmr["mae"].spread > 0
    assert not mult["mae"].trivial
    assert ffl["mae"].trivial
    assert ffl["mae"].spread is None
    assert (mult["acc2"].published, mult["acc2"].recalled) == (pytest.approx(0.811), True)
    assert rows["LF-LSTM"].cells["f1_stock"].published == pytest.approx(0.778)
    assert not rows["LF-LSTM"].cells["f1_stock"].recalled
    assert rows["LF-LSTM"].cells["mae"].recalled
    assert pmr["corr"].published is None  # the paper reports none

    write_tables(tmp_path, tmp_path / "out")
    text = (tmp_path / "out/mosi_unaligned.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| PMR"))
    assert "**↑*" in line
    assert "(82.4)‡" in line
    assert "60 test samples x 3 seeds" in text


def test_equal_models_are_not_significantly_different(tmp_path):
    for model in ("MulT", "PMR"):
        for seed in (1, 2):
            write_run(tmp_path, model=model, seed=seed, noise=1.0)
    assert not any(cell.significant for cell in rows_of(table_of(tmp_path))["PMR"].cells.values())


@pytest.mark.parametrize("spoil", [
    lambda path: (path / "predictions.npz").unlink(),
    lambda path: (path / "predictions.npz").write_bytes(b"PK"),
    lambda path: np.savez(path / "predictions.npz", test_predictions=np.zeros((60, 1)), test_labels=np.zeros((60, 1)),
                          test_ids=[f"other{i}" for i in range(60)]),
])
def test_no_significance_without_the_same_samples(tmp_path, spoil):
    write_run(tmp_path, model="MulT", noise=2.0)
    spoil(write_run(tmp_path, model="PMR", noise=0.2))
    table = table_of(tmp_path)
    assert rows_of(table)["PMR"].cells["mae"].p_value is None
    assert any("No test of significance" in note for note in table.notes)


def test_missing_models_leave_their_published_figures(tmp_path):
    write_run(tmp_path, model="PMR")
    mult = rows_of(table_of(tmp_path))["MulT"]
    assert mult.runs == []
    assert mult.cells["acc2"].mean is None
    assert mult.cells["acc2"].published == pytest.approx(0.811)


def test_csv_names_what_is_not_in_the_table(tmp_path):
    write_run(tmp_path)
    write_tables(tmp_path, tmp_path / "out")
    with (tmp_path / "out/mosi_unaligned.csv").open() as file:
        metrics = {line["metric"] for line in csv.DictReader(file) if line["row"] == "PMR"}
    assert {"F1", "f1 (not in the table)", "mae (TEST-SELECTED epoch, not a result)"} <= metrics


def test_what_does_not_belong_is_reported_and_left_out(tmp_path, capsys):
    write_run(tmp_path, model="MulT", seed=1)
    write_run(tmp_path, model="MulT", seed=2)
    write_run(tmp_path, model="MulT", seed=1, folder="seed1.1", noise=9.0)  # moved aside
    (write_run(tmp_path, model="MulT", seed=3) / "result.json").write_text('{"format": 1, "test"')
    write_run(tmp_path, model="PMR", seed=1, lr=0.1)
    write_run(tmp_path, model="PMR", seed=2, lr=0.2)
    misplaced = write_run(tmp_path, "mosei")
    misplaced.rename(tmp_path / "mosi/unaligned/MulT/seed9")
    (tmp_path / "mosi/unaligned/stray.txt").write_text("?")
    assert main(["--results_dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    err = capsys.readouterr().err
    assert "MulT/seed3/result.json is damaged" in err
    assert "PMR mixes settings (lr is 0.1 and 0.2)" in err
    assert "seed9/result.json is of mosei unaligned" in err
    assert len(err.splitlines()) == 3
    rows = rows_of(table_of(tmp_path))
    assert len(rows["MulT"].runs) == 2
    assert rows["PMR"].runs == []


def test_protocols_never_share_a_column(tmp_path):
    """Runs on MMSA's splits have a table of their own, with MMSA's metrics and published figures."""
    for protocol, seeds in (("MulT", (1, 2)), ("MMSA", (3, 4))):
        for model, noise in (("MulT", 2.0), ("PMR", 0.3)):
            for seed in seeds:
                write_run(tmp_path, "mosi", False, model, seed, noise, protocol=protocol)
    write_run(tmp_path, "sims", protocol="MMSA")
    tables, problems = write_tables(tmp_path, tmp_path / "out")
    assert problems == []
    assert [table.name for table in tables] == ["mosi_mmsa_unaligned", "mosi_unaligned", "sims_mmsa_unaligned"]
    mmsa, mult, sims = map(rows_of, tables)
    for rows, seeds in ((mmsa, [3, 4]), (mult, [1, 2])):
        assert [run["seed"] for run in rows["PMR"].runs] == seeds
        assert rows["PMR"].cells["mae"].significant
    columns = ["Acc7", "Acc5", "Has0 Acc2", "Has0 F1", "Non0 Acc2", "Non0 F1", "MAE", "Corr"]
    assert list(tables[0].task.columns) == columns
    assert list(mmsa) == ["train mean", "LF-DNN", "TFN", "LMF", "MISA", "Self-MM", "CENET", "MulT", "PMR"]
    published = {key: cell.published for key, cell in mmsa["MulT"].cells.items()}
    assert published == pytest.approx({"acc7": 0.3691, "acc5": 0.4268, "acc2_has0": 0.7971, "f1_has0": 0.7963,
                                       "acc2": 0.8098, "f1": 0.8095, "mae": 0.8799, "corr": 0.7022})
    assert "f1" not in mult["MulT"].cells
    assert sims["MulT"].cells["acc5"].published == pytest.approx(0.3794)
    assert "MMSA's metrics" in (tmp_path / "out/mosi_mmsa_unaligned.md").read_text()
    assert "## mosi (MMSA), unaligned" in (tmp_path / "out/mosi_mmsa_unaligned.md").read_text()


def test_results_without_a_protocol_are_of_mult(tmp_path):
    path = write_run(tmp_path) / "result.json"
    result = json.loads(path.read_text())
    del result["protocol"]
    path.write_text(json.dumps(result))
    assert rows_of(table_of(tmp_path))["PMR"].runs[0]["protocol"] == "MulT"
    path.write_text(json.dumps(result | {"protocol": "theirs"}))
    assert collect(tmp_path) == ({}, [f"{path} is damaged (its protocol is not a protocol's name); delete it or "
                                       "train the run again"])


def test_nothing_to_show_is_an_error(tmp_path, capsys):
    assert main(["--results_dir", str(tmp_path)]) == 2
    assert "holds no finished run" in capsys.readouterr().err


def test_ablations_have_their_own_table(tmp_path):
    write_run(tmp_path)
    write_run(tmp_path, model="PMR-no_filter")
    tables, _ = write_tables(tmp_path, tmp_path / "out", ablations=True)
    assert [table.name for table in tables] == ["mosi_unaligned", "mosi_unaligned_ablations"]
    assert list(rows_of(tables[1])) == ["train mean", "PMR", "no dynamic filter, G = 1/2"]


def test_published_figures_are_complete_and_say_where_they_are_from():
    records = json.loads(PUBLISHED.read_text())["rows"]
    for record in records:
        assert record["source"]
        assert record["read"] == "all" or set(record["read"]) <= set(record["test"])
        assert all(0 < value <= 100 for value in record["test"].values())
        of_protocol = find_spec(record["dataset"]).task.of_protocol(record["protocol"])
        assert set(record["test"]) <= set(of_protocol.columns.values())
    for dataset in ("mosi", "mosei", "iemocap"):
        for alignment in ("aligned", "unaligned"):
            assert {"MulT", "PMR"} < set(published_rows(Group(dataset, alignment, "MulT"), find_spec(dataset).task))
    assert published_rows(Group("mosei", "aligned", "MulT"), SentimentRegression())["PMR"]["test"] == pytest.approx(
        {"acc7": 0.525, "acc2": 0.833, "f1_stock": 0.826}
    )
