"""The page: its content as it is written, and as a browser shows it where there is one."""

import json
import re
from base64 import b64decode
from io import BytesIO
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.image import imread

import main as project
from src.report.page import samples
from src.report.page.content import confusion_of, points
from src.report.page.decisions import decided
from src.report.page.page import main, write_page
from src.runs.result import split_metrics
from src.tasks import Classification, EmotionClassification, ScoresRegression
from src.train import Evaluation
from tests.browser import CHROMIUM, Browser
from tests.run_files import result_content, write_run

EVIL = '<img src=x onerror="alert(1)">&"\'</script>'
LABELS = ("calm", EVIL, "angry")


def add_epochs(path, epochs=3):
    """Give a run of run_files.py the losses of some epochs."""
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps({**result, "epochs": epochs}))
    lines = [{"epoch": i, "train_loss": 2 / i, "valid_loss": 1.0, "test_loss": 1.2, "seconds": 1.0}
             for i in range(1, epochs + 1)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_classes_run(root, model, seed, folder="classes"):
    """A run on 40 samples of three classes, whose ids and labels hold HTML."""
    task, random = Classification(LABELS), np.random.default_rng([seed, len(model)])
    truth = np.arange(40).reshape(-1, 1) % 3
    predictions = 2 * np.eye(3)[truth[:, 0]] + random.normal(size=(40, 3))
    metrics = split_metrics(Evaluation(1.0, predictions, task.metrics(predictions, truth)))
    path = root / folder / "unaligned" / model / f"seed{seed}"
    path.mkdir(parents=True)
    np.savez(path / "predictions.npz", test_predictions=predictions, test_labels=truth,
             test_ids=[f"{EVIL}{i}" for i in range(40)])
    (path / "result.json").write_text(json.dumps(result_content(
        metrics, model=model, dataset=folder, seed=seed, task="classes", labels=LABELS,
        settings={"lr": 0.1 if model == "PMR" else 0.2, "name": EVIL, "data_path": EVIL, "batch_size": 8})))
    add_epochs(path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of MulT and PMR, three seeds each, on scores and on classes with hostile names."""
    root = tmp_path_factory.mktemp("page")
    for model in ("PMR", "MulT", "Linear"):
        for seed in (1, 2, 3):
            add_epochs(write_run(root / "results", model=model, seed=seed, noise=len(model) / 4))
            write_classes_run(root / "results", model, seed)
    return project.page(root / "results", root / "report")


def test_the_page_holds_all_and_asks_for_nothing(page):
    text = page.read_text()
    assert {path.name for path in page.parent.iterdir()} == {"index.html"}
    assert not re.search(r"https?:|//\w|@import|<link(?! rel=\"icon\" href=\"data:,\")", text.split("<body>")[0])
    assert not re.search(r'(src|href)="(?!#|data:,")', text)
    assert EVIL not in text
    assert "Left out" not in text
    assert text.count("onerror=\"") == 0
    for words in ("mosi, unaligned", "classes, unaligned", "PMR less", "Learning curves", "Confusion matrices",
                  "by seed 1: ", "with 95 % interval: ", '<td class="marked">0.1</td>', "python main.py --repeat ",
                  "Not recorded: MulT, PMR."):
        assert words in text, words


def noisy_decisions(model, random):
    """Decisions of the default sizes, which nothing makes smaller: of random numbers."""
    if model.startswith("PMR"):
        small = {f"alphas/layers.{i}.update": random.random((8, 3)) for i in range(4)}
        parts = [f"{part}reinforce.{m}" for part in ("", "update.") for m in "lav"]
        gates = [f"gates/layers.{i}.{part}.filter" for i in range(4) for part in parts]
        maps = [*(f"attention/layers.3.{part}" for part in parts), "attention/readout"]
    else:
        gates = []
        maps = [f"attention/trans_{t}_with_{s}.layers.4" for t, s in permutations("lav", 2)]
        small = {f"attention/trans_{m}_mem.layers.4": random.random((8, 1, 128)) for m in "lav"}
    return {"ids": [f"sample{i}" for i in range(8)], "steps": [50, 500, 500], **small,
            **{name: random.random((8, 128)).astype(np.float16) for name in gates},
            **{name: random.random((8, 48, 128)).astype(np.float16) for name in maps}}


def test_a_table_of_the_largest_data_set_is_a_sixth_of_the_page(tmp_path):
    random = np.random.default_rng(0)
    for model in ("PMR", "PMR-report", "MulT", "MulT-FFL", "EF-LSTM", "LF-LSTM", "Linear"):
        for seed in range(5):
            run = write_run(tmp_path / "results", "mosei", model=model, seed=seed, samples=4659)
            add_epochs(run, epochs=40)
            if model.startswith(("PMR", "MulT")):
                np.savez(run / "decisions.npz", **noisy_decisions(model, random))
    path, _ = write_page(tmp_path / "results", tmp_path / "report")
    assert path.stat().st_size < 5e6 / 6
    assert "3659 more, in which all models agree more closely, are left out" in (text := path.read_text())
    assert text.count("data:image/png") == 8 * 2 * (7 + 9)


def test_scores_of_several_labels_are_items_of_their_own():
    task = ScoresRegression(("joy", "fear"))
    predictions = {"A": np.array([[[1.0, 2.0]], [[3.0, 2.0]]]), "B": np.array([[[0.0, 2.0]], [[0.0, 2.0]]])}
    items = samples.of_scores(["x"], np.array([[1.0, 4.0]]), predictions, task)
    assert (items.names, items.labels, items.truths) == (["x", "x"], ["joy", "fear"], ["joy: 1.00", "fear: 4.00"])
    assert items.texts["A"] == ["2.00 ± 1.41", "2.00 ± 0.00"]
    np.testing.assert_array_equal(items.errors["A"], [1, 2])
    np.testing.assert_array_equal(items.gap("A", "B"), [2, 0])


def test_emotions_are_shown_as_the_probability_of_yes():
    task = EmotionClassification(("joy", "fear"))
    logits = np.log(np.array([[[0.2, 0.8, 0.5, 0.5]]]))
    items = samples.of_emotions(["x"], np.array([[0, 1]]), {"A": logits}, task.labels)
    assert (items.truths, items.texts["A"]) == (["joy: no", "fear: yes"], ["0.80", "0.50"])
    np.testing.assert_allclose(items.errors["A"], [0.8, 0.5])


def test_classes_are_as_far_apart_as_the_probability_that_moves():
    logits = {name: np.log(np.array([[chances]])) for name, chances in (("A", [0.7, 0.2, 0.1]), ("B", [0.1, 0.3, 0.6]))}
    items = samples.of_classes(["x"], np.array([1]), logits, ["a", "b", "c"])
    assert (items.texts["A"], items.texts["B"], items.truths) == (["a 0.70"], ["c 0.60"], ["b"])
    np.testing.assert_allclose(items.gap("A", "B"), 0.6)
    np.testing.assert_allclose(items.errors["A"], 0.8)


def test_confusions_of_emotions_are_counted_label_by_label():
    task = EmotionClassification(("joy", "fear"))
    yes, no = (0, 1), (1, 0)
    stored = {"predictions": np.array([[*yes, *no], [*no, *no], [*yes, *yes]]), "labels": [[1, 0], [1, 1], [0, 1]]}
    found = confusion_of(task, [SimpleNamespace(result={"predictions": stored})] * 2)
    assert found.columns == ["yes as yes", "yes as no", "no as yes", "no as no"]
    np.testing.assert_array_equal(found.counts, [[2, 2, 2, 0], [2, 2, 0, 2]])
    np.testing.assert_array_equal(found.shares, [[0.5, 0.5, 1, 0], [0.5, 0.5, 0, 1]])


def test_decisions_are_drawn_layer_by_layer(tmp_path):
    attention = np.zeros((2, 100, 300), np.float16)
    attention[:, :50] = 0.5
    np.savez(tmp_path / "decisions.npz", **{
        "ids": ["x", "y"], "steps": [3, 3, 3],
        **{f"gates/layers.{i}.reinforce.l.filter": np.full((2, 3), gate) for i, gate in ((0, 0), (2, 0.5), (10, 1))},
        "alphas/layers.0.update": [[0.25, 0.75], [1, 0]], "attention/trans_l_with_a.layers.0": attention * 0,
        "attention/trans_l_with_a.layers.1": attention})
    found = decided("PMR", {"folder": tmp_path, "seed": 3, "settings": {"modalities": "vl"}})
    assert found.modalities == ["language", "vision"]
    assert [sample.name for sample in found.samples] == ["x", "y"]
    gates, weights, ((title, picture),) = found.samples[0][1:]
    assert gates == [("language from the hub", ["0,120 120,120 240,120", "0,60 120,60 240,60", "0,0 120,0 240,0"])]
    assert (weights, title) == ([("layer 1", [0.25, 0.75])], "language from audio")
    pixels = imread(BytesIO(b64decode(picture.partition(",")[2])))
    assert pixels.shape == (24, 48, 4)
    assert (pixels[:12, :, 3].min(), pixels[12:, :, 3].max()) == (1, 0)
    assert decided("PMR", {"folder": tmp_path / "nowhere"}) is None


def test_a_single_step_is_a_line_across_the_panel():
    """A polyline of one point shows nothing: the vision of RAVDESS has one step."""
    assert points(np.array([0.5]), 0, 1, 1) == "0,60 240,60"
    assert points(np.array([0.5]), 0, 1, 5) == "0,60"


def test_an_id_that_utf8_does_not_have_is_shown(tmp_path):
    for model in ("PMR", "MulT"):
        add_epochs(write_run(tmp_path, model=model, seed=1, ids="a\ud800é{}".format))
    text = write_page(tmp_path, tmp_path)[0].read_text()
    (content,) = re.findall(r'<script type="application/json">(.*?)</script>', text)
    assert json.loads(content)["names"][59] == "a\ud800é59"
    assert r"a\ud800é5" in text


def test_runs_that_cannot_be_read_are_named(page, tmp_path, capsys):
    add_epochs(write_run(tmp_path / "results", seed=1))
    write_run(tmp_path / "results", model="MulT", seed=1)  # without metrics.jsonl
    for dataset in ("mosi", "iemocap"):
        add_epochs(damaged := write_run(tmp_path / "results", dataset, model="Linear", seed=1))
        with np.load(damaged / "predictions.npz") as arrays:
            np.savez(damaged / "predictions.npz", **{**arrays, "test_predictions": arrays["test_predictions"][:, :0]})
    assert main(["--results_dir", str(tmp_path / "results"), "--out", str(tmp_path)]) == 0
    said, text = capsys.readouterr().err.splitlines(), (tmp_path / "index.html").read_text()
    assert len(said) == 2
    for line, words in zip(said, ("iemocap/unaligned/Linear are damaged", "metrics.jsonl is missing"),
                           strict=True):
        assert line.startswith("# left out: ")
        assert words in line
        assert words in text


@pytest.mark.parametrize("arguments, words", [
    (["--results_dir", "nowhere"], "nowhere holds no finished run; train one first"),
    (["--out", __file__], "the page cannot be written to"), (["--cluster", "("], "is no regular expression"),
])
def test_errors_are_one_line(page, capsys, arguments, words):
    assert main(["--results_dir", str(page.parents[1] / "results"), *arguments]) == 2
    error = capsys.readouterr().err
    assert (error.startswith("error: "), error.count("\n"), words in error) == (True, 1, True)


CLASSES, SCORES = (f"document.querySelectorAll('.samples')[{i}]" for i in (0, 1))  # by the names of the data sets


def column(shown, table, number):
    """The texts of a column, counted from 0, in the body of the first table in an element of the page."""
    return shown.run(f"[...({table}).querySelector('tbody').rows].map(row => row.cells[{number}].textContent)")


def fill_in(shown, part, name, value):
    """Give a control of the samples a value, as a user would."""
    shown.run(f"""(() => {{ const field = {part}.querySelector('form').elements.{name};
        field.value = {json.dumps(value)}; field.dispatchEvent(new Event('input', {{bubbles: true}})) }})()""")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium or Chrome")
def test_in_a_browser(page, tmp_path):
    """Tables are sorted and samples filtered, nothing is asked for or goes wrong, and a narrow window is enough."""
    with Browser(tmp_path) as shown:
        shown.open(page)
        title = shown.run("[...document.querySelectorAll('#mosi_unaligned thead button')]"
                          ".findIndex(button => button.textContent === 'MAE ↓')")
        for order in (1, -1):
            shown.run(f"document.querySelectorAll('#mosi_unaligned thead button')[{title}].click()")
            texts = column(shown, "document.querySelector('#mosi_unaligned')", title)
            errors = [float(re.search(r"[\d.]+", text)[0]) for text in texts if text]
            assert errors == sorted(errors)[::order] != errors[::-1]
            assert texts[len(errors):] == [""] * (len(texts) - len(errors))

        assert len(column(shown, CLASSES, 0)) == 20
        fill_in(shown, CLASSES, "label", EVIL)
        assert column(shown, CLASSES, 1) == [EVIL] * 13
        fill_in(shown, CLASSES, "error_a", "0.2")
        found = column(shown, CLASSES, 0)
        assert 0 < len(found) < 13
        fill_in(shown, CLASSES, "id", found[-1])
        assert column(shown, CLASSES, 0) == [found[-1]]
        fill_in(shown, CLASSES, "error_b", "1.1")
        assert column(shown, CLASSES, 0) == []

        before = column(shown, SCORES, 3)
        fill_in(shown, SCORES, "b", "2")
        assert shown.run(f"{SCORES}.querySelectorAll('thead th')[3].textContent") == "Linear"
        assert column(shown, SCORES, 3) != before
        shown.run(f"{SCORES}.querySelector('.more').click()")
        apart = [float(text) for text in column(shown, SCORES, 4)]
        assert len(apart) == 40
        assert apart == sorted(apart, reverse=True)

        shown.resize(360)
        assert shown.run("document.documentElement.scrollWidth") <= 360
        assert (shown.errors, shown.requests) == ([], [page.as_uri()])


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium or Chrome")
def test_in_a_browser_without_scripts(page, tmp_path):
    with Browser(tmp_path) as shown:
        shown.open(page)
        with_scripts = column(shown, SCORES, 0)
        shown.call("Emulation.setScriptExecutionDisabled", value=True)
        shown.open(page)
        assert column(shown, SCORES, 0)[:5] == with_scripts[:5]
        assert len(with_scripts) == 20
        assert shown.run("getComputedStyle(document.querySelector('.controls')).display") == "none"
        assert shown.run("document.querySelectorAll('thead button').length") == 0
