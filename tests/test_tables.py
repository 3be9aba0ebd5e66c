"""The comparison table: cells, marks, and folders that are not runs."""

import json

from src.tables import comparison_table, main, read_results


def write_result(root, model="PMR", seed=1, aligned=False, test=None, no_better_on=(), folder=None):
    alignment = "aligned" if aligned else "unaligned"
    path = root / "mine" / alignment / model / (folder or f"seed{seed}")
    path.mkdir(parents=True)
    metrics = {"loss": 1.0, "mae": 1.0, "corr": 0.5, "acc7": 0.3, "acc2": 0.7, "f1_stock": 0.6} | (test or {})
    trivial = {"mae": 1.4, "corr": None, "acc7": 0.2, "acc2": 0.5, "f1_stock": 0.4}
    (path / "result.json").write_text(json.dumps({
        "format": 1, "model": model, "seed": seed, "aligned": aligned, "test": metrics,
        "no_better_on": list(no_better_on), "trivial_baseline": {"name": "train mean", "test": trivial},
    }))


def cells(table, row):
    line = next(line for line in table.splitlines() if line.startswith(f"| {row}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_cells(tmp_path):
    for seed, mae in ((1, 1.0), (2, 1.2)):
        write_result(tmp_path, "PMR", seed, test={"mae": mae})
    write_result(tmp_path, "MulT", aligned=True, test={"corr": None}, no_better_on=["acc2"])
    write_result(tmp_path, "PMR", seed=1, folder="seed1.1", test={"mae": 99.0})  # moved aside by a later run
    table = comparison_table(read_results(tmp_path, "mine"))
    assert cells(table, "unaligned, PMR")[:4] == ["unaligned, PMR", "2", "1.100 ± 0.141", "0.500 ± 0.000"]
    assert cells(table, "unaligned, train mean")[1:5] == ["", "1.400", "n/a", "0.200"]
    assert cells(table, "aligned, MulT")[1:] == ["1", "1.000", "n/a", "0.300", "0.700†", "0.600"]
    assert "MAE ↓" in table
    assert "Corr ↑" in table


def test_emotions_have_their_columns(tmp_path):
    write_result(tmp_path)
    (result,) = read_results(tmp_path, "mine")
    result["test"] = {"loss": 0.5, "Happy_acc": 0.8, "Happy_f1": 0.7}
    result["trivial_baseline"]["test"] = {"Happy_acc": 0.6, "Happy_f1": 0.5}
    table = comparison_table([result])
    assert cells(table, "unaligned, PMR")[2:] == ["0.800", "0.700"]
    assert "Happy Acc ↑" in table


def test_nothing_to_show_and_damage_are_errors(tmp_path, capsys):
    arguments = ["--dataset", "mine", "--results_dir", str(tmp_path)]
    assert main(arguments) == 2
    assert "holds no finished run on mine" in capsys.readouterr().err
    write_result(tmp_path)
    assert main(arguments) == 0
    (tmp_path / "mine/unaligned/PMR/seed1/result.json").write_text("{")
    assert main(arguments) == 2
    assert "result.json is damaged" in capsys.readouterr().err
