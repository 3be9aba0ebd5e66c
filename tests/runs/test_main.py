"""main.py as a user meets it: the files and lines of a run, its repetition and re-evaluation, and its errors."""

import hashlib
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from main import main
from src.data.specs import find_spec
from src.dataset import load_dataset
from src.report.compare import main as compare
from src.report.read_runs import read_run
from src.report.tables import write_tables
from src.runs.run_folder import read_metrics
from src.sealed import unseal
from src.tasks import SentimentRegression
from tests.data_files import make_mmsa_splits, make_splits, write_dataset
from tests.modules.test_models import TRANSFORMERS

SMALL = ["--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", "--num_epochs", "2", "--batch_size", "5",
         "--log_interval", "1"]
FORMS = [
    r"Epoch +\d+ \| Batch +\d+/ +\d+ \| Time/Batch\(ms\) +\d+\.\d\d \| Train Loss \d+\.\d{4}",
    r"-{50}",
    r"Epoch +\d+ \| Time \d+\.\d{4} sec \| Valid Loss \d+\.\d{4} \| Test Loss \d+\.\d{4}",
    r"# .*",
]
SENTIMENT_FORMS = [rf"{name}:  (-?\d+\.\d+(e-\d+)?|nan)" for name in (
    "MAE", "Correlation Coefficient", "mult_acc_7", "mult_acc_5", "F1 score", "Accuracy"
)]
EMOTION_FORMS = [r"(Neutral|Happy|Sad|Angry): ", r"  - F1 Score:  \d\.\d+", r"  - Accuracy:  \d\.\d+"]


@pytest.fixture
def folder(tmp_path):
    """A data folder with a sentiment set `mine`, aligned and not, and an IEMOCAP; results go beside it."""
    data = tmp_path / "data"
    data.mkdir()
    write_dataset(data, "mine", make_splits(), aligned=False)
    write_dataset(data, "mine", make_splits(lens=(7, 7, 7)), aligned=True)
    write_dataset(data, "iemocap", make_splits(task="emotion"), aligned=False)
    return tmp_path


def command(folder, *arguments, dataset="mine", results="results"):
    return ["--dataset", dataset, "--data_path", str(folder / "data"), "--results_dir", str(folder / results),
            "--device", "cpu", *SMALL, *arguments]


def metrics_without_time(run):
    lines = read_metrics(run)
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("model", TRANSFORMERS)
@pytest.mark.parametrize("arguments, run", [
    ([], "mine/unaligned/{}/seed1111"),
    (["--aligned", "--seed", "7", "--mask_padding"], "mine/aligned/{}/seed7"),
    (["--mask_padding", "--trim_padding", "--sort_batches"], "mine/unaligned/{}/seed1111"),
])
def test_a_run_leaves_a_whole_folder(folder, capsys, model, arguments, run):
    assert main(command(folder, "--model", model.lower(), *arguments)) == 0
    run = folder / "results" / run.format(model)
    assert {path.name for path in run.iterdir()} == {
        "config.json", "log.txt", "metrics.jsonl", "predictions.npz", "decisions.npz", "checkpoint.pt", "result.json"
    }
    assert (run / "log.txt").read_text() == capsys.readouterr().out

    config = json.loads((run / "config.json").read_text())
    assert config["settings"]["model"] == model
    assert (config["settings"]["embed_dim"], config["sources"]["embed_dim"]) == (8, "flag")
    assert (config["settings"]["lr"], config["sources"]["lr"]) == (1e-3, "stock default")

    epochs = metrics_without_time(run)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert {"train_loss", "valid_loss", "test_loss", "lr", "valid_mae", "test_f1_stock"} < set(epochs[0])

    result = json.loads((run / "result.json").read_text())
    best = min(epochs, key=lambda epoch: epoch["valid_loss"])
    assert result["selected_epoch"] == best["epoch"]
    assert result["test"] == {key.removeprefix("test_"): value for key, value in best.items() if "test_" in key}
    assert result["test_selected"]["test"]["loss"] == min(epoch["test_loss"] for epoch in epochs)
    state = torch.load(run / "checkpoint.pt", weights_only=True)["model"]
    assert 0 < result["parameters"] <= sum(tensor.numel() for tensor in state.values())

    predictions = np.load(run / "predictions.npz")
    assert list(predictions["test_ids"]) == load_ids(folder, arguments)
    error = np.abs(predictions["test_predictions"] - predictions["test_labels"]).mean()
    assert error == pytest.approx(result["test"]["mae"], rel=1e-6)


def load_ids(folder, arguments):
    return load_dataset(find_spec("mine"), folder / "data", "--aligned" in arguments).splits["test"].ids


@pytest.mark.parametrize("dataset, forms", [("mine", SENTIMENT_FORMS), ("iemocap", EMOTION_FORMS)])
def test_every_line_of_the_log_has_the_original_form_or_a_hash(folder, dataset, forms):
    assert main(command(folder, dataset=dataset)) == 0
    lines = next((folder / "results").glob("*/*/*/*/log.txt")).read_text().splitlines()
    for line in lines:
        assert any(re.fullmatch(form, line) for form in FORMS + forms), line
    for form in FORMS + forms:
        assert any(re.fullmatch(form, line) for line in lines), form
    # 12 samples in batches of 5: 3 batches, of which the original counts 2; batch 0 has no line
    batches = [line.split("|")[1] for line in lines if "| Batch" in line]
    assert batches == [" Batch   1/  2 ", " Batch   2/  2 "] * 2


def test_a_run_tells_its_data(folder):
    """Which file, by what it holds, and where it was read from, which makes no difference to the run."""
    for results, cache in (("one", []), ("two", []), ("three", ["--cache_dir", str(folder / "caches")])):
        assert main(command(folder, *cache, results=results)) == 0
    one, two, three = (next((folder / name).glob("*/*/*/*")) for name in ("one", "two", "three"))
    path = folder / "data/mine_data_noalign.pkl"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for run in (one, two):
        config, result = (json.loads((run / name).read_text()) for name in ("config.json", "result.json"))
        assert config["data_file"] == {"file": str(path), "sha256": digest, "read_from": f"{path}.cache"}
        assert config["protocol"] == result["protocol"] == "MulT"
        line = f"# {path}: MulT splits, SHA-256 {digest}; read from {path}.cache onto cpu"
        assert line in (run / "log.txt").read_text().splitlines()
    assert metrics_without_time(one) == metrics_without_time(two) == metrics_without_time(three)
    assert list((folder / "caches").iterdir())
    (folder / "data").rename(moved := folder / "moved")
    assert main(["--eval", str(three), "--data_path", str(moved), "--cache_dir", str(folder / "caches")]) == 0


def write_mmsa(folder, path, splits):
    path = folder / "data" / path
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps(splits))


def test_sims_is_a_data_set_of_its_own(folder, capsys):
    """From MMSA's file by its own name to a table with MMSA's metrics, and a log that compares."""
    write_mmsa(folder, "SIMS/Processed/unaligned_39.pkl", make_mmsa_splits(bound=1))
    assert main(command(folder, dataset="SIMS")) == 0
    run = folder / "results/sims/unaligned/MulT/seed1111"
    result = json.loads((run / "result.json").read_text())
    assert (result["protocol"], set(result["test"])) == ("MMSA", {"loss", "mae", "corr", "acc2", "acc3", "acc5", "f1"})
    log = (run / "log.txt").read_text()
    assert "unaligned_39.pkl: MMSA splits, SHA-256 " in log
    assert re.search(r"^Mult_acc_5:  0\.\d+\nF1_score:  0\.\d+\nMAE:  0\.\d+\nCorr:  -?0\.\d+$", log, re.M)
    assert main(["--eval", str(run)]) == 0
    of_folder, of_log = read_run(run), read_run(run / "log.txt")
    assert of_log["metrics"] == pytest.approx(of_folder["metrics"])
    assert of_log["protocol"] == of_folder["protocol"] == "MMSA"
    (table,), problems = write_tables(folder / "results", folder / "tables")
    assert (table.name, problems) == ("sims_mmsa_unaligned", [])


def test_sims_is_on_its_own_scale(folder, capsys):
    write_mmsa(folder, "SIMS/Processed/unaligned_39.pkl", make_mmsa_splits(bound=3))
    assert main(command(folder, dataset="sims")) == 2
    assert "sentiment goes from -1 to 1; rescale" in capsys.readouterr().err


def test_sims_that_is_missing_is_mmsas(folder, capsys):
    assert main(command(folder, dataset="sims")) == 2
    assert "get SIMS/Processed/unaligned_39.pkl of MMSA's data at https://" in capsys.readouterr().err


def test_runs_on_the_splits_of_others_are_not_compared(folder, capsys):
    write_dataset(folder / "data", "mosi", make_splits(), aligned=False)
    assert main(command(folder, dataset="mosi")) == 0
    (folder / "data/mosi_data_noalign.pkl").unlink()
    write_mmsa(folder, "MOSI/Processed/unaligned_50.pkl", make_mmsa_splits())
    assert main(command(folder, dataset="mosi", results="other")) == 0
    assert load_dataset(find_spec("mosi"), folder / "data").task.columns == SentimentRegression("MMSA").columns
    paths = [folder / results / "mosi/unaligned/MulT/seed1111" for results in ("results", "other")]
    capsys.readouterr()
    for ours, theirs in (paths, [path / "log.txt" for path in paths]):
        assert compare([str(ours), str(theirs)]) == 2
        assert "A is on the splits of MulT, B on the splits of MMSA" in capsys.readouterr().err
    assert compare(["--seeds", *(str(path.parent) for path in paths)]) == 2
    assert "on the splits of MulT, " in capsys.readouterr().err


def test_the_trivial_baseline_stands_beside_the_result(folder, capsys):
    main(command(folder, "--lr", "1e-12"))  # learns nothing
    result = json.loads((folder / "results/mine/unaligned/MulT/seed1111/result.json").read_text())
    labels = make_splits()
    mean, truth = labels["train"]["labels"].mean(), labels["test"]["labels"]
    assert result["trivial_baseline"]["test"]["mae"] == pytest.approx(np.abs(truth - mean).mean(), rel=1e-5)
    assert result["no_better_than_trivial"] is True
    assert "# NO BETTER than the train mean baseline in: acc" in capsys.readouterr().out


def test_a_split_that_leaves_metrics_undefined_is_reported_all_the_same(folder, capsys):
    splits = make_splits(sizes=(5, 1, 1))
    splits["test"]["labels"][:] = 0
    write_dataset(folder / "data", "mine", splits, aligned=False)
    assert main(command(folder)) == 0
    assert "# train mean baseline on test: mae 0." in capsys.readouterr().out
    result = json.loads((folder / "results/mine/unaligned/MulT/seed1111/result.json").read_text())
    assert result["test"]["acc2"] is None
    assert main(["--eval", str(folder / "results/mine/unaligned/MulT/seed1111")]) == 0


@pytest.mark.parametrize("model", TRANSFORMERS)
def test_the_same_seed_gives_the_same_run(folder, model):
    dropout = ["--model", model, "--attn_dropout_a", "0.2"]
    for results, seed in (("one", "5"), ("two", "5"), ("three", "6")):
        assert main(command(folder, *dropout, "--seed", seed, results=results)) == 0
    one, two, three = (
        metrics_without_time(next((folder / name).glob("*/*/*/*"))) for name in ("one", "two", "three")
    )
    assert one == two
    assert one != three


@pytest.mark.parametrize("dataset", ["mine", "iemocap"])
@pytest.mark.parametrize("model", TRANSFORMERS)
def test_eval_needs_the_checkpoint_alone(folder, capsys, model, dataset):
    main(command(folder, "--model", model, dataset=dataset))
    run = next((folder / "results").glob("*/*/*/*"))
    original = [line for line in capsys.readouterr().out.splitlines() if re.match("MAE|  - F1", line)]
    assert main(["--eval", str(run)]) == 0
    again = capsys.readouterr().out
    assert original == [line for line in again.splitlines() if re.match("MAE|  - F1", line)]
    assert "# reproduces result.json" in again
    for path in run.iterdir():
        if path.name != "checkpoint.pt":
            path.unlink()
    assert main(["--eval", str(run)]) == 0
    assert "nothing to compare with" in capsys.readouterr().out


def test_eval_says_when_numbers_differ(folder, capsys):
    main(command(folder))
    write_dataset(folder / "data", "mine", make_splits(seed=9), aligned=False)
    run = folder / "results/mine/unaligned/MulT/seed1111"
    assert main(["--eval", str(run)]) == 2
    assert "is not reproduced: valid loss was" in capsys.readouterr().err


def test_a_second_run_keeps_the_first(folder):
    for lr in ("1e-3", "2e-3"):
        assert main(command(folder, "--lr", lr)) == 0
    runs = folder / "results/mine/unaligned/MulT"
    rates = {run.name: json.loads((run / "config.json").read_text())["settings"]["lr"] for run in runs.iterdir()}
    assert rates == {"seed1111.1": 1e-3, "seed1111": 2e-3}


@pytest.mark.parametrize("spoil, words", [
    (lambda run: (run / "checkpoint.pt").unlink(), "checkpoint.pt is missing"),
    (lambda run: (run / "checkpoint.pt").write_bytes(b""), "is damaged or not a checkpoint"),
    (lambda run: (run / "checkpoint.pt").write_bytes((run / "checkpoint.pt").read_bytes()[:900]), "is damaged"),
    (lambda run: torch.save({"format": 0}, run / "checkpoint.pt"), "has format 0; this version reads 1 to 3"),
    (lambda run: torch.save(torch.nn.Linear(1, 1), run / "checkpoint.pt"), "is damaged or not a checkpoint"),
    (lambda run: (run / "result.json").write_text('{"format": 1,'), "result.json is damaged"),
])
def test_damaged_runs_are_not_evaluated(folder, capsys, spoil, words):
    main(command(folder))
    run = folder / "results/mine/unaligned/MulT/seed1111"
    spoil(run)
    assert main(["--eval", str(run)]) == 2
    assert words in capsys.readouterr().err


def test_command_line_exit_code_and_no_bar_in_a_pipe(folder):
    """Through the real interpreter: importing does nothing, errors end with 2, and a pipe gets plain lines."""
    script = Path(__file__).parents[2] / "main.py"
    def run(*arguments):
        return subprocess.run([sys.executable, script, *arguments], cwd=folder, capture_output=True, text=True,
                              check=False)
    missing = run("--dataset", "mosei")
    assert (missing.returncode, missing.stdout, missing.stderr.count("\n")) == (2, "", 1)
    assert missing.stderr.startswith("error: ")
    finished = run(*command(folder))
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "\r" not in finished.stdout


def test_runs_of_the_first_format_are_read(folder, capsys):
    """One that would come out with other numbers now is not evaluated again, but it is tabulated."""
    for name, flags, code in (("plain", [], 0), ("masked", ["--mask_padding"], 2)):
        assert main(command(folder, *flags, results=name)) == 0
        run = folder / name / "mine/unaligned/MulT/seed1111"
        for path in (run / "config.json", run / "result.json"):
            path.write_text(json.dumps(unseal(json.loads(path.read_text())) | {"format": 1}))
        torch.save(torch.load(run / "checkpoint.pt", weights_only=True) | {"format": 1}, run / "checkpoint.pt")
        assert main(["--eval", str(run)]) == code
        assert main(["--repeat", str(run)]) == code
        assert main(command(folder, *flags, "--resume", results=name)) == code  # it is finished
        (table,), problems = write_tables(folder / name, folder / "tables")
        assert problems == []
        assert "| MulT " in (folder / "tables" / f"{table.name}.md").read_text()


def test_a_checkpoint_that_names_no_task_is_evaluated_as_sentiment(folder, capsys):
    """In the first format, one number a sample was always sentiment, also where the labels leave it open now."""
    splits = make_splits()
    for split in splits.values():
        split["labels"] = (split["labels"] > 0).astype("f4")
    write_dataset(folder / "data", "mine", splits, aligned=False)
    assert main(command(folder, "--task", "sentiment")) == 0
    (checkpoint,) = (folder / "results").glob("*/*/*/*/checkpoint.pt")
    saved = torch.load(checkpoint, weights_only=True) | {"format": 1}
    for name in ("task", "labels"):
        del saved["config"][name]
    del saved["config"]["settings"]["task"]
    torch.save(saved, checkpoint)
    assert main(["--eval", str(checkpoint.parent)]) == 0
    assert "# reproduces result.json" in capsys.readouterr().out
