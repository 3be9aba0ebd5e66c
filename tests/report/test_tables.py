"""The six tables, in every format, with every kind of cell; and folders that hold something else."""

import csv
import json

import numpy as np
import pytest
from matplotlib.image import imread

from src.data.specs import find_spec
from src.errors import UserError
from src.eval_metrics import Metric
from src.report.read_runs import Group, collect, read_run
from src.report.significance import MAIN, holm, p_text
from src.report.table_formats import difference_columns, shown
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
        of_sizes = table.name in ("mosi_unaligned", "mosei_unaligned")  # sizes are published there
        of_main = len(table.task.main[1]) > 1  # a mean of columns is a column of the differences
        assert widths == {len(table.task.columns) + 3 + of_sizes, len(table.task.columns) + 3 + of_main}
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
    assert list(rows) == ["train mean", "CTC+EF-LSTM", "CTC+MCTN", "CTC+RAVEN", "MulT, a report's rerun",
                          "PMR, a report's rerun", "MulT", "MulT-FFL", "LF-LSTM", "PMR"]

    pmr, mult, ffl = (rows[name].cells for name in ("PMR", "MulT", "MulT-FFL"))
    assert pmr["mae"].best
    assert pmr["mae"].beats
    assert rows["MulT"].starred
    assert rows["MulT"].less["mae"].high < 0
    assert rows["MulT"].less["mae"].value == pytest.approx(pmr["mae"].mean - mult["mae"].mean, abs=1e-6)
    assert pmr["mae"].spread > 0
    assert not mult["mae"].trivial
    assert ffl["mae"].trivial
    assert ffl["mae"].spread is None
    assert rows["MulT-FFL"].less
    assert rows["MulT-FFL"].p_value is None  # it has one seed
    assert (mult["acc2"].published, mult["acc2"].recalled) == (pytest.approx(0.811), False)
    assert mult["mae"].recalled
    assert rows["LF-LSTM"].cells["f1_stock"].published == pytest.approx(0.778)
    assert not rows["LF-LSTM"].cells["f1_stock"].recalled
    assert rows["LF-LSTM"].cells["mae"].recalled
    assert pmr["corr"].published is None  # the paper reports none

    write_tables(tmp_path, tmp_path / "out")
    text = (tmp_path / "out/mosi_unaligned.md").read_text()
    lines = text.splitlines()
    line = next(line for line in lines if line.startswith("| PMR "))
    assert "**↑" in line
    assert "(82.4)" in line
    assert "1.23 M (2.14 M)" in line
    mult_line, mult_less = (line for line in lines if line.startswith("| MulT "))
    assert mult_line.count("*") == 1
    assert "* (0.889)‡" in mult_line
    assert "| (1)  " in next(line for line in lines if line.startswith("| PMR, a report's rerun"))
    low, high = rows["MulT"].less["mae"][1:3]
    assert mult_less.count("*") == 1
    assert f"* [{low:+.3f}, {high:+.3f}]" in mult_less
    assert f" {p_text(rows['MulT'].p_value)} " in mult_less
    assert "| PMR less | p (MAE) | Acc7" in text
    assert "and over 60 test samples, each alone since their ids tell no groups." in text
    assert "main metric, MAE, which was declared beforehand: p < 0.05, t-test, after Holm over MulT. Other" in text
    assert "the difference from MulT-FFL compares these trained models only and has no star" in text


def test_equal_models_are_not_significantly_different(tmp_path):
    for model in ("MulT", "PMR"):
        for seed in (1, 2, 3):
            write_run(tmp_path, model=model, seed=seed, noise=1.0)
    mult = rows_of(table_of(tmp_path))["MulT"]
    assert not mult.starred
    assert mult.p_value > 0.05
    assert all(found.low < 0 < found.high for found in mult.less.values())


def test_stars_are_after_holm_over_the_rivals(tmp_path):
    """The rivals with enough seeds count; the main metric of emotions is a mean of columns."""
    for dataset in ("mosi", "iemocap"):
        for model, noise in (("MulT", 0.9), ("MulT-FFL", 1.2), ("PMR", 0.5)):
            for seed in (1, 2, 3):
                write_run(tmp_path, dataset, model=model, seed=seed, noise=noise)
    emotions, score = write_tables(tmp_path, tmp_path / "out")[0]
    for table in (emotions, score):
        rows = rows_of(table)
        raw = {name: rows[name].less[MAIN].p_value for name in ("MulT", "MulT-FFL")}
        assert {name: rows[name].p_value for name in raw} == holm(raw)
        assert any("after Holm over MulT, MulT-FFL. Other" in note for note in table.notes)
    assert list(difference_columns(emotions)) == ["mean F1", *emotions.task.columns]
    f1 = [rows_of(emotions)["MulT"].less[key].value for key in emotions.task.main[1]]
    assert rows_of(emotions)["MulT"].less[MAIN].value == pytest.approx(np.mean(f1))
    lines = (tmp_path / "out/iemocap_unaligned.md").read_text().splitlines()
    assert [line.count("*") for line in lines if line.startswith("| MulT ")] == [0, 1]  # below, at the mean alone
    assert "(59.7)‡§" in lines[next(i for i, line in enumerate(lines) if line.startswith("| MulT "))]
    assert "- § MulT: another source prints 59.1 for Neutral F1." in lines
    with (tmp_path / "out/iemocap_unaligned.csv").open() as file:
        fields = [line for line in csv.DictReader(file) if line["row"] == "MulT"]
    main = next(line for line in fields if line["metric"] == "mean F1")
    assert float(main["p_value_holm"]) == rows_of(emotions)["MulT"].p_value
    assert [line["metric"] for line in fields if line["p_value_holm"]] == ["mean F1"]
    neutral = next(line for line in fields if line["metric"] == "Neutral F1")
    assert float(neutral["interval_low"]) < float(neutral["difference"]) < float(neutral["interval_high"])
    assert (neutral["parameters"], float(neutral["published_otherwise"])) == ("1234567", pytest.approx(0.591))


def test_clusters_of_a_table(tmp_path):
    """The videos of the ids, those of --cluster, and a warning where there are few."""
    for model, noise in (("MulT", 1.0), ("PMR", 0.9)):
        for seed in (1, 2, 3):
            path = write_run(tmp_path, model=model, seed=seed, noise=noise) / "predictions.npz"
            arrays = dict(np.load(path))
            np.savez(path, **arrays | {"test_ids": [f"v{i % 12}|s{i % 4}|{i}" for i in range(60)]})
    notes = table_of(tmp_path).notes
    assert any("over 12 clusters of 60 test samples, named by their ids, such as v0." in note for note in notes)
    assert not any("Warning" in note for note in notes)
    (table,), _ = write_tables(tmp_path, tmp_path / "out", cluster=r"\|(s\d)\|")
    assert any("over 4 clusters of 60 test samples, named by their ids, such as s0." in note for note in table.notes)
    assert "Warning: only 4 clusters. With fewer than 10, the intervals are unreliable." in table.notes
    assert rows_of(table)["MulT"].less["mae"] != rows_of(table_of(tmp_path))["MulT"].less["mae"]


def test_wrong_patterns_of_clusters_are_errors(tmp_path, capsys):
    write_run(tmp_path)
    for pattern, words in (("v", "has no group"), ("(", "is no regular expression"), ("", "has no group")):
        assert main(["--results_dir", str(tmp_path), "--out", str(tmp_path / "out"), "--cluster", pattern]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize("spoil", [
    lambda path: (path / "predictions.npz").unlink(),
    lambda path: (path / "predictions.npz").write_bytes(b"PK"),
    lambda path: np.savez(path / "predictions.npz", **dict(np.load(path / "predictions.npz"))
                          | {"test_ids": [f"other{i}" for i in range(60)]}),
])
def test_no_difference_without_the_same_samples(tmp_path, spoil):
    write_run(tmp_path, model="MulT", noise=2.0)
    spoil(write_run(tmp_path, model="PMR", noise=0.2))
    table = table_of(tmp_path)
    assert rows_of(table)["MulT"].less == {}
    assert any("No difference from MulT" in note for note in table.notes)


@pytest.mark.parametrize("change", [{"mae": -5.0}, {"acc7": 500.0}, {"corr": None}, {"f1": 0.123}])
def test_metrics_that_do_not_follow_from_the_predictions_are_left_out(tmp_path, change):
    write_run(tmp_path, model="MulT")
    path = write_run(tmp_path, model="PMR")
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps(result | {"test": result["test"] | change}))
    groups, (problem,) = collect(tmp_path)
    assert list(*groups.values()) == ["MulT"]
    assert problem.startswith(f"{path}/result.json does not follow from predictions.npz: test {next(iter(change))} is ")
    (path / "metrics.jsonl").touch()
    with pytest.raises(UserError, match="does not follow"):
        read_run(path)


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
    for protocol, seeds in (("MulT", (1, 2, 3)), ("MMSA", (4, 5, 6))):
        for model, noise in (("MulT", 2.0), ("PMR", 0.3)):
            for seed in seeds:
                write_run(tmp_path, "mosi", False, model, seed, noise, protocol=protocol)
    write_run(tmp_path, "sims", protocol="MMSA")
    tables, problems = write_tables(tmp_path, tmp_path / "out")
    assert problems == []
    assert [table.name for table in tables] == ["mosi_mmsa_unaligned", "mosi_unaligned", "sims_mmsa_unaligned"]
    mmsa, mult, sims = map(rows_of, tables)
    for rows, seeds in ((mmsa, [4, 5, 6]), (mult, [1, 2, 3])):
        assert [run["seed"] for run in rows["PMR"].runs] == seeds
        assert rows["MulT"].starred
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
    assert rows_of(tables[1])["no dynamic filter, G = 1/2"].less
    assert "No differences: they need runs of PMR and of another model." in tables[0].notes


def test_published_figures_are_complete_and_say_where_they_are_from():
    records = json.loads(PUBLISHED.read_text())["rows"]
    for record in records:
        assert record["source"]
        assert record["read"] == "all" or set(record["read"]) <= set(record["test"])
        assert all(0 < value <= 100 for value in record["test"].values())
        of_protocol = find_spec(record["dataset"]).task.of_protocol(record["protocol"])
        assert set(record["test"]) <= set(of_protocol.columns.values())
        assert set(record.get("conflicts", ())) <= set(record["test"])
    for dataset in ("mosi", "mosei", "iemocap"):
        for alignment in ("aligned", "unaligned"):
            rows = published_rows(Group(dataset, alignment, "MulT"), find_spec(dataset).task)
            reruns = {f"{model}, a report's rerun" for model in ("MulT", "PMR")}
            assert {"MulT", "PMR"} | reruns < set(rows)
            assert {rows[name]["seeds"] for name in reruns} == {1}
            assert all({"mae", "corr", "Neutral_f1"} >= set(rows[name]["test"]) - set(rows[name]["read"])
                       for name in ("MulT", "PMR") if rows[name]["read"] != "all")
    conflicts = [(record["dataset"], record["aligned"], record["model"], record["conflicts"])
                 for record in records if "conflicts" in record]
    assert conflicts == [("iemocap", False, "MulT", {"Neutral_f1": 59.1})]
    sizes = {record["model"]: record["parameters"] for record in records
             if "parameters" in record and record["dataset"] == "mosei"}
    assert sizes == {"PMR": 2150000, "MulT": 1070000, "MISA": 15900000, "LMF-MulT": 860000, "LF-LSTM": 1220000,
                     "CTC+RAVEN": 1200000, "CTC+EF-LSTM": 560000, "CTC+MCTN": 500000, "LMR-CBT": 410000}
    assert published_rows(Group("mosei", "aligned", "MulT"), SentimentRegression())["PMR"]["test"] == pytest.approx(
        {"acc7": 0.525, "acc2": 0.833, "f1_stock": 0.826}
    )


@pytest.mark.parametrize("percent, texts", [(True, ["0.0", "+0.0", "-0.1"]), (False, ["0.000", "+0.000", "-0.001"])])
def test_no_zero_has_a_sign_of_its_own(percent, texts):
    metric = Metric(None, None, percent=percent)
    assert [shown(metric, -0.0001), shown(metric, -0.0001, "+"), shown(metric, -0.001)] == texts
