"""The figures: the numbers that they draw, the files that are written, and what is left out or refused."""

import json
import shutil
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import imread

import main as trainer
from src.report import drawing, plots
from src.report.escapes import drawn_text
from src.report.plots import find_runs, main
from src.runs.trained import load_trained
from src.sealed import unseal
from tests.data_files import give_data, make_splits, write_dataset

SMALL = ["--embed_dim", "8", "--num_heads", "2", "--nlevels", "2", "--num_epochs", "2", "--batch_size", "4",
         "--device", "cpu"]
LEARNED = ("attention", "gates", "messages")


def train(folder, *arguments, dataset="mine"):
    assert trainer.main(["--dataset", dataset, "--data_path", str(folder / "data"),
                         "--results_dir", str(folder / "results"), *SMALL, *arguments]) == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Runs on `mine`, unaligned: PMR of seeds 9 and 10, MulT of seed 9; and PMR on an aligned IEMOCAP."""
    folder = tmp_path_factory.mktemp("trained")
    give_data(folder)
    write_dataset(folder / "data", "iemocap", make_splits("emotion", lens=(7, 7, 7)), aligned=True)
    for model, seed in (("PMR", "10"), ("PMR", "9"), ("MulT", "9")):
        train(folder, "--model", model, "--seed", seed)
    train(folder, "--model", "PMR", "--aligned", dataset="iemocap")
    return folder


@pytest.fixture
def folder(trained, tmp_path):
    """A copy of the trained runs that a test may change."""
    shutil.copytree(trained / "results", tmp_path / "results")
    return tmp_path


@pytest.fixture
def unsaved(monkeypatch):
    """The names of the figures, which are not rendered: that takes most of the time."""
    saved = []
    monkeypatch.setattr(plots, "save", lambda figure, out, name: saved.append(name))
    return saved


def command(folder, *arguments):
    return ["--results_dir", str(folder / "results"), "--out", str(folder / "figures"), *arguments]


def written(folder):
    return sorted(path.name for path in (folder / "figures").glob("*"))


def names(stem, *kinds):
    return [f"{stem}_{kind}.png" for kind in kinds]


def pmr_of(trained, seed=9):
    model, dataset, *_ = load_trained(trained / f"results/mine/unaligned/PMR/seed{seed}")
    return model, dataset.splits["test"]


def test_every_figure_of_every_data_set_is_written_and_named(folder, capsys):
    assert main(command(folder)) == 0
    of_all = "attention", "bars", "curves", "gates", "messages"
    expected = names("iemocap_aligned", *of_all) + names("mine_unaligned", *of_all, "pairs")
    assert written(folder) == expected
    assert sorted(capsys.readouterr().out.split()) == [str(folder / "figures" / name) for name in expected]
    for name in expected:
        pixels = imread(folder / "figures" / name)
        height, width = pixels.shape[:2]
        assert (width, 400 < height < 1200) == (1050, True), name
        assert 0.01 < (pixels[..., :3].min(axis=2) < 0.9).mean() < 0.8, name  # neither blank nor black


def test_one_data_set_and_runs_moved_aside(folder, unsaved):
    runs = folder / "results/mine/unaligned/PMR"
    shutil.copytree(runs / "seed9", runs / "seed9.1")
    shutil.copytree(runs / "seed9", runs / "seedling")
    shutil.copytree(runs / "seed9", runs / "seed4")
    (runs / "seed4/result.json").unlink()  # not finished
    found, _ = find_runs(folder / "results", "mine")
    assert {key: {model: [run.result["seed"] for run in runs] for model, runs in models.items()}
            for key, models in found.items()} == {("mine", "unaligned", "MulT"): {"PMR": [9, 10], "MulT": [9]}}
    assert main(command(folder, "--dataset", "iemocap")) == 0
    assert sorted(unsaved) == [f"iemocap_aligned_{kind}" for kind in sorted((*LEARNED, "bars", "curves"))]


def test_curves_and_selected_epochs(folder):
    models = find_runs(folder / "results", "mine")[0]["mine", "unaligned", "MulT"]
    lines = models["MulT"][0].epochs
    figure = drawing.draw_curves("title", models, "mean absolute error")
    pmr, mult = figure.axes[:2]
    assert (pmr.get_title(), mult.get_title()) == ("PMR, 2 seeds", "MulT, 1 seed")
    assert pmr.get_xlabel() == "epoch"
    assert pmr.get_ylabel() == "loss (mean absolute error)"
    by_label = {line.get_label(): line for line in mult.lines}
    for label, split in (("training", "train"), ("validation", "valid"), ("test", "test")):
        assert list(by_label[label].get_xdata()) == [1, 2]
        assert list(by_label[label].get_ydata()) == [line[f"{split}_loss"] for line in lines]
    best = min(lines, key=lambda line: line["valid_loss"])
    assert by_label["selected epoch"].get_xydata().tolist() == [[best["epoch"], best["valid_loss"]]]
    low, high = mult.get_ylim()
    drawn = [y for axes in (pmr, mult) for line in axes.lines for y in line.get_ydata()]
    assert low < min(drawn) < max(drawn) < high


@pytest.mark.parametrize("spoil", [
    lambda result: result.write_text("{"),
    lambda result: edit_json(result, lambda x: x.pop("selected_epoch")),
    lambda result: edit_json(result, lambda x: x["test"].pop("acc7")),
    lambda result: edit_json(result, lambda x: x.update(model="X")),
])
def test_damaged_results_are_left_out_and_said_to_be(folder, capsys, unsaved, spoil):
    spoil(folder / "results/mine/unaligned/MulT/seed9/result.json")
    assert main(command(folder, "--dataset", "mine")) == 0
    assert "MulT/seed9/result.json is damaged" in capsys.readouterr().out
    assert "mine_unaligned_curves" in unsaved


def test_mean_curve_stops_with_the_shortest():
    assert drawing.mean_curve([np.array([1.0, 2.0, 9.0]), np.array([3.0, 6.0])]).tolist() == [2.0, 4.0]


def test_bars_stand_at_the_means_beside_the_baseline():
    columns = {"MAE": "mae", "Corr": "corr"}
    task = SimpleNamespace(columns=columns, lower_is_better={"mae"})
    def run(mae, corr):
        return SimpleNamespace(result={"test": {"mae": mae, "corr": corr}})
    models = {"PMR": [run(1.0, 0.5), run(1.2, 0.7)], "MulT": [run(1.5, None)]}
    heights = drawing.bar_heights(models, columns)
    assert heights["PMR"]["MAE"] == pytest.approx((1.1, 0.02**0.5))
    assert heights["MulT"]["MAE"] == pytest.approx((1.5, float("nan")), nan_ok=True)
    assert heights["MulT"]["Corr"] is None
    figure = drawing.draw_bars("title", models, task, {"name": "train mean", "test": {"mae": 1.4, "corr": None}})
    errors, scores = figure.axes
    assert [bar.get_height() for bar in errors.patches] == pytest.approx([1.1, 1.5])
    bars = next(drawn for drawn in errors.containers if drawn.get_label() == "PMR, 2 seeds")
    ((_, bottom), (_, top)), = bars.errorbar.lines[2][0].get_segments()
    assert (bottom, top) == pytest.approx((1.1 - 0.02**0.5, 1.1 + 0.02**0.5))
    assert [bar.get_height() for bar in scores.patches] == pytest.approx([0.6])
    assert [text.get_text() for text in scores.texts] == ["n/a"]
    baseline = [line.get_segments()[0][0][1] for line in errors.collections if line.get_label().startswith("train")]
    assert baseline == [1.4]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["PMR, 2 seeds", "MulT, 1 seed", "train mean (no Corr)"]


def test_errors_and_scores_have_panels_of_their_own_and_many_scores_several():
    assert drawing.bar_panels({"Acc": "acc2", "MAE": "mae", "F1": "f1"}, {"mae"}) == [["MAE"], ["Acc", "F1"]]
    assert [len(panel) for panel in drawing.bar_panels({str(i): f"{i}_acc" for i in range(12)}, set())] == [8, 4]


def test_mean_of_real_samples_leaves_padding_out():
    values = np.array([[9.0, 1.0, 2.0], [9.0, 9.0, 4.0]])
    padding = np.array([[True, False, False], [True, True, False]])
    np.testing.assert_array_equal(plots.mean_of_real_samples(values, padding), [np.nan, 1.0, 3.0])


def test_decisions_are_those_of_one_pass_over_the_split(trained):
    model, split = pmr_of(trained)
    gates, alphas = plots.decisions(model, split, batch_size=4)  # 6 samples: the batches differ in size
    with torch.no_grad():
        model(*(x[:] for x in split.features), decisions=(record := {}))
    curves = plots.gate_curves(gates, dict(zip("lav", (mask.numpy() for mask in split.padding), strict=True)))
    assert list(curves) == ["l", "a", "v"]
    for m, features in zip("lav", [x[:] for x in split.features], strict=True):
        for layer in range(2):
            gate = record["gates"][f"layers.{layer}.reinforce.{m}.filter"]
            for step in range(features.size(1)):  # samples 0 and 3 have no padding, so that every step is real in some
                real = [gate[i, step].mean().item() for i in range(6) if features[i, step].any()]
                assert curves[m][layer, step] == pytest.approx(sum(real) / len(real), rel=1e-5)
    assert len(alphas) == 2
    for layer, alpha in enumerate(alphas):
        np.testing.assert_allclose(alpha, record["alphas"][f"layers.{layer}.update"].numpy(), rtol=1e-5)


def test_gates_are_drawn_a_panel_a_modality_and_a_line_a_layer():
    curves = {"l": np.array([[0.1, 0.2], [0.3, 0.4]]), "v": np.array([[0.5, np.nan, 0.7], [0.6, 0.6, 0.6]])}
    language, vision = drawing.draw_gates("title", curves).axes
    assert (language.get_title(), vision.get_title()) == ("language", "vision")
    assert [line.get_label() for line in vision.lines] == ["layer 1", "layer 2"]
    assert len({line.get_linestyle() for line in vision.lines}) == 2
    assert list(vision.lines[0].get_xdata()) == [1, 2, 3]
    np.testing.assert_array_equal(vision.lines[0].get_ydata(), curves["v"][0])
    np.testing.assert_array_equal(language.lines[1].get_ydata(), curves["l"][1])


def test_messages_are_drawn_for_their_modality():
    alphas = [np.array([[0.2, 0.3, 0.5], [0.4, 0.3, 0.3]]), np.array([[0.1, 0.2, 0.7], [0.1, 0.4, 0.5]])]
    axes = drawing.draw_messages("title", alphas, ("l", "a", "v")).axes[0]
    drawn = {bars.get_label(): [bar.get_height() for bar in bars] for bars in axes.containers if len(bars) == 2}
    assert drawn["language"] == pytest.approx([0.3, 0.1])
    assert drawn["audio"] == pytest.approx([0.3, 0.3])
    assert drawn["vision"] == pytest.approx([0.4, 0.6])


def test_attention_is_that_of_the_sample_in_the_last_layer(trained):
    model, split = pmr_of(trained)
    with torch.no_grad():
        model(*(x[:] for x in split.features), decisions=(record := {}))
    maps = plots.attention_to_hub(model, split, 4)
    assert list(maps) == ["l", "a", "v"]
    for m, weights in maps.items():
        np.testing.assert_allclose(weights, record["attention"][f"layers.1.reinforce.{m}"][4].numpy(), rtol=1e-4)
    segments = plots.hub_segments(model)
    assert segments == {"l": (0, 6), "v": (6, 17), "a": (17, 26)}
    figure = drawing.draw_attention("title", "s", maps, segments)
    panels = [axes for axes in figure.axes if axes.images]
    assert [axes.get_ylabel() for axes in panels] == ["step of\nlanguage", "step of\naudio", "step of\nvision"]
    np.testing.assert_array_equal(panels[2].images[0].get_array(), maps["v"])
    labels = [(text.get_text(), text.get_position()[0]) for text in panels[-1].get_xticklabels()]
    assert labels == [("language\n1 to 6", 3.5), ("vision\n7 to 17", 12), ("audio\n18 to 26", 22)]
    assert sorted({line.get_xdata()[0] for line in panels[0].lines}) == [6.5, 17.5]


@pytest.mark.parametrize("arguments, index", [([], 0), (["--sample", "test3|3.5|4.25"], 3)])
def test_the_run_of_the_lowest_seed_and_the_sample_asked_for_are_shown(folder, monkeypatch, unsaved, arguments, index):
    shown = []
    monkeypatch.setattr(plots, "draw_attention", lambda title, sample, maps, _: shown.append((title, sample, maps)))
    assert main(command(folder, "--dataset", "mine", *arguments)) == 0
    ((title, sample, maps),) = shown
    assert title == "mine, unaligned, PMR, 1 seed (9)"
    assert sample == f"test{index}|{index}.5|{index + 1}.25"
    expected = plots.attention_to_hub(*pmr_of(folder), index)
    np.testing.assert_array_equal(maps["l"], expected["l"])


def test_an_ablation_has_no_figures_of_what_it_lacks(trained, tmp_path, capsys):
    (tmp_path / "data").symlink_to(trained / "data")
    train(tmp_path, "--model", "PMR", "--name", "plain", "--no_dynamic_filter", "--message_update", "none",
          "--modalities", "la")
    capsys.readouterr()
    assert main(command(tmp_path)) == 0
    assert written(tmp_path) == names("mine_unaligned", "attention-plain", "bars", "curves")
    left_out = [line for line in capsys.readouterr().out.splitlines() if line.startswith("# ")]
    assert left_out == [
        "# mine, unaligned, PMR-plain: no figure of gates, they are fixed (no_dynamic_filter)",
        "# mine, unaligned, PMR-plain: no figure of messages, they are not weighted (message_update none, "
        "modalities la)",
    ]


def test_a_run_of_an_earlier_format_has_no_figures_of_its_decisions(trained, tmp_path, capsys):
    """Its model would compute other numbers now; the figures of its numbers are drawn all the same."""
    (tmp_path / "data").symlink_to(trained / "data")
    train(tmp_path, "--model", "PMR", "--mask_padding")
    (checkpoint,) = tmp_path.glob("results/*/*/*/*/checkpoint.pt")
    torch.save(torch.load(checkpoint, weights_only=True) | {"format": 1}, checkpoint)
    capsys.readouterr()
    assert main(command(tmp_path)) == 0
    assert written(tmp_path) == names("mine_unaligned", "bars", "curves")
    assert "PMR: no figure of its decisions, " in capsys.readouterr().out


def test_a_sample_may_be_asked_for_where_there_is_attention_to_show(folder, unsaved, capsys):
    sample = "--sample", "test2|2.5|3.25"
    shutil.rmtree(folder / "results/mine/unaligned/PMR")
    assert main(command(folder, "--dataset", "mine", *sample)) == 0
    assert unsaved == ["mine_unaligned_curves", "mine_unaligned_bars", "mine_unaligned_pairs"]
    assert main(command(folder, "--dataset", "mine", "--sample", "other")) == 0
    assert "no attention was recorded for sample 'other'; there are test0|0.5|1.25, " in capsys.readouterr().out
    (folder / "results/mine/unaligned/MulT").rename(folder / "results/mine/unaligned/Linear")
    edit_json(folder / "results/mine/unaligned/Linear/seed9/result.json", lambda x: x.update(model="Linear"))
    assert main(command(folder, "--dataset", "mine", *sample)) == 2
    assert "--sample is for the attention of PMR and MulT" in capsys.readouterr().err


def test_streams_of_one_step_have_whole_ticks_and_names_that_do_not_overlap():
    """As in RAVDESS, whose language has 6 steps, vision one, and audio 80."""
    maps = {m: np.ones((steps, 87)) for m, steps in (("l", 6), ("a", 80), ("v", 1))}
    figure = drawing.draw_attention("title", "s", maps, {"l": (0, 6), "v": (6, 7), "a": (7, 87)})
    figure.draw_without_rendering()
    panels = [axes for axes in figure.axes if axes.images]
    names = [text.get_window_extent() for text in panels[2].get_xticklabels()]
    assert [a.overlaps(b) for a, b in combinations(names, 2)] == [False] * 3
    (pair,) = (axes for axes in drawing.draw_pairs("title", "s", {("l", "v"): np.ones((6, 1))}, {"l": 6, "v": 1}).axes
               if axes.images)
    for axis, steps in ((panels[2].yaxis, [1]), (pair.xaxis, [1]), (pair.yaxis, [2, 4, 6])):
        low, high = sorted(axis.get_view_interval())
        assert [tick for tick in axis.get_majorticklocs() if low <= tick <= high] == steps


def test_the_attention_of_a_mult_is_drawn_from_its_run_folder(folder, monkeypatch, capsys):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, out, name: drawn.append(figure) if "pairs" in name else None)
    run = folder / "results/mine/unaligned/MulT/seed9"
    with np.load(run / "decisions.npz") as arrays:
        recorded, ids = arrays["attention/trans_a_with_v.layers.1"], arrays["ids"].tolist()
    assert main(command(folder, "--dataset", "mine", "--sample", ids[3])) == 0
    panels = [axes for axes in drawn[0].axes if axes.images]
    labels = [(axes.get_ylabel(), axes.get_xlabel()) for axes in panels]
    assert labels == [(f"step of {target}", f"step of {source}") for target, source in (
        ("language", "audio"), ("language", "vision"), ("audio", "language"), ("audio", "vision"),
        ("vision", "language"), ("vision", "audio"))]
    np.testing.assert_array_equal(panels[3].images[0].get_array(), recorded[3].astype(np.float32))
    assert panels[3].images[0].get_extent() == [0.5, 11.5, 9.5, 0.5]
    (run / "decisions.npz").unlink()
    (run.parents[1] / "PMR/seed9/decisions.npz").unlink()
    capsys.readouterr()
    assert main(command(folder, "--dataset", "mine")) == 0
    left_out = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#")]
    assert left_out == ["# mine, unaligned, MulT, 1 seed (9): no figure of attention, it was not recorded; train the "
                        "run again"]  # PMR's is computed again


def test_data_that_has_moved_is_found_by_data_path(folder, trained, unsaved):
    (folder / "moved").mkdir()
    shutil.copy(trained / "data/mine_data_noalign.pkl", folder / "moved")
    checkpoint_path = folder / "results/mine/unaligned/PMR/seed9/checkpoint.pt"
    checkpoint = torch.load(checkpoint_path, weights_only=True)
    checkpoint["config"]["settings"]["data_path"] = str(folder / "gone")
    torch.save(checkpoint, checkpoint_path)
    assert main(command(folder, "--dataset", "mine")) == 2
    assert main(command(folder, "--dataset", "mine", "--data_path", str(folder / "moved"))) == 0
    assert {f"mine_unaligned_{kind}" for kind in LEARNED} < set(unsaved)


def test_a_dollar_in_a_sample_is_no_formula(folder):
    with drawn_text(**drawing.STYLE):
        figure = drawing.draw_attention(r"title", r"$\broken$", {"l": np.ones((2, 3))}, {"l": (0, 3)})
        assert plots.save(figure, folder, "dollar").is_file()


def edit_json(path, change):
    content = unseal(json.loads(path.read_text()))
    change(content)
    path.write_text(json.dumps(content))


def edit_checkpoint(path, change):
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_runs_of_another_task_are_left_out_and_named(folder, capsys):
    shutil.rmtree(folder / "results/iemocap")
    edit_json(folder / "results/mine/unaligned/PMR/seed9/result.json", lambda x: (
        x.update(task="emotions", labels=["A"]),
        x.update({split: {"loss": 1, "A_acc": 1, "A_f1": 1} for split in ("valid", "test")}),
        x["test_selected"].update(test=x["test"]), x["trivial_baseline"]["test"].update(A_acc=1, A_f1=1)
    ))
    assert main(command(folder)) == 0
    out = capsys.readouterr().out
    assert "left out: results/mine/unaligned/PMR/seed9 is of the task emotions of A," in out.replace(f"{folder}/", "")
    assert "give each task its own --results_dir" in out


@pytest.mark.parametrize("spoil, arguments, words", [
    (lambda run: None, ["--seed", "9"], "unrecognized arguments: --seed 9"),
    (lambda run: None, ["--dataset", "yours"], "holds no finished run on yours; train one first"),
    (lambda run: None, ["--results_dir", "nowhere"], "nowhere holds no finished run; train one first"),
    (lambda run: None, ["--sample", "test7"], "mine, unaligned, test has no sample 'test7'; its first is 'test0|0.5"),
    (lambda run: None, ["--out", __file__], "figures cannot be written to"),
    (lambda run: (run / "metrics.jsonl").unlink(), [], "metrics.jsonl is missing"),
    (lambda run: (run / "metrics.jsonl").write_text("{}\n{}\n"), [], "metrics.jsonl is damaged"),
    (lambda run: (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text().splitlines()[0]), [],
     "metrics.jsonl is damaged"),
    (lambda run: (run / "checkpoint.pt").unlink(), [], "checkpoint.pt is missing"),
    (lambda run: (run / "checkpoint.pt").write_bytes(b"PK"), [], "is damaged or not a checkpoint"),
    (lambda run: torch.save({"format": 1}, run / "checkpoint.pt"), [], "by another version of this code"),
    (lambda run: edit_checkpoint(run / "checkpoint.pt", lambda x: x["model"].popitem()), [],
     "checkpoint.pt does not fit the data or the code"),
])
def test_errors_are_one_line(folder, capsys, spoil, arguments, words):
    spoil(folder / "results/mine/unaligned/PMR/seed9")
    shutil.rmtree(folder / "results/iemocap")
    assert main(command(folder, *arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert words in error
