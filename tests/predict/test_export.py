"""The exported program answers as the runs do, for any number of clips, and its card tells what they are."""

import numpy as np
import pytest
import torch

from main import main
from src.__main__ import run as command
from src.errors import UserError, run_command
from src.models import MODELS, takes_unaligned
from src.predict.export import export_program
from src.predict.predictor import load_model
from tests.data_files import make_splits, write_dataset

KEYS = ("text", "audio", "vision")
SMALL = ("--num_epochs", "1", "--batch_size", "6", "--preset", "stock", "--device", "cpu")


def train(folder, model, *flags, kind="sentiment"):
    """The folder of a model's runs."""
    aligned = not takes_unaligned(model)
    (folder / "data").mkdir(exist_ok=True)
    write_dataset(folder / "data", "mine", make_splits(kind, (7, 7, 7) if aligned else (6, 9, 11)), aligned=aligned)
    sizes = ("--hidden_dim", "8") if "LSTM" in model else () if model == "Linear" else (
        "--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", *["--memory_layers", "1"] * ("MulT" in model),
        *["--modalities", "la"] * (model == "PMR"))
    assert main(["--model", model, "--dataset", "mine", *SMALL, *sizes, *["--aligned"] * aligned, *flags,
                 "--results_dir", str(folder / "results"), "--data_path", str(folder / "data")]) == 0
    return folder / "results/mine" / ("aligned" if aligned else "unaligned") / model


def check(runs, out):
    """The loaded program, after it was seen to answer as the runs do, before and after the export."""
    predictor = load_model(runs, device="cpu")
    of, random = predictor.trained_on, np.random.default_rng(0)
    clips = [random.normal(size=(5, steps, width)).astype("f4") for steps, width
             in zip(of.input_lens, of.input_dims, strict=True)]
    clips[0][1, :3] = clips[2][3] = 0  # padding in front, and a stream that is padding throughout
    assert command(["export", str(runs), str(out)]) == 0
    program = torch.export.load(out / "model.pt2").module()
    for count in (1, 5):
        expected = predictor.predict(*(x[:count] for x in clips)).values
        found = program(*(torch.from_numpy(x[:count]) for x in clips))
        assert found.shape == (len(predictor.runs), *expected.shape)
        assert np.allclose(found.mean(dim=0), expected, atol=2e-6)
    return program


@pytest.mark.parametrize("model", MODELS)
def test_every_model_is_exported(tmp_path, model):
    check(train(tmp_path, model), tmp_path / "out")


def test_a_hub_of_tokens_is_exported(tmp_path):
    check(train(tmp_path, "PMR", "--modalities", "l", "--hub_tokens", "3"), tmp_path / "out")


def test_emotions_are_exported_as_probabilities_in_float32(tmp_path):
    check(train(tmp_path, "LF-LSTM", "--precision", "float64", kind="emotion"), tmp_path / "out")
    assert "the probability of a label" in (tmp_path / "out/card.md").read_text()


def test_a_card_tells_of_the_runs(tmp_path, capsys):
    for seed in ("1", "2"):
        runs = train(tmp_path, "EF-LSTM", "--seed", seed)
    check(runs, tmp_path / "out")
    card = (tmp_path / "out/card.md").read_text()
    assert card.startswith("# EF-LSTM on mine") and "| text | (N, " in card and "mean of 2 runs" in card
    assert "- seed: 1, 2\n" in card
    assert "data_path" not in card
    (tmp_path / "file").write_text("")
    for out in (runs, runs / "seed1"):
        assert run_command(command, ["export", str(runs), str(out)]) == 2
        assert capsys.readouterr().err.endswith(f"error: OUT {out} has runs; name another folder after them\n")
    assert run_command(command, ["export", str(runs), str(tmp_path / "file/out")]) == 2
    assert run_command(command, ["export", str(tmp_path), str(tmp_path / "out")]) == 2
    wrong, no_run = capsys.readouterr().err.splitlines()[-2:]
    assert wrong.startswith("error: Not a directory: ") and "is not the folder of a finished run" in no_run


class Choosing(torch.nn.Module):
    """A model whose path depends on its numbers."""

    def forward(self, text, audio, vision):
        return (text if text.sum() > 0 else -text).sum(dim=(1, 2)), None


def test_a_model_that_cannot_be_exported_is_one_line(tmp_path):
    predictor = load_model(train(tmp_path, "Linear"))
    predictor.runs = [predictor.runs[0]._replace(model=Choosing())]
    with pytest.raises(UserError, match=r"^torch.export does not take Linear: .*data-dependent.*$"):
        export_program(predictor)
