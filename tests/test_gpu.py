"""What a GPU must give: the CPU's numbers, the same numbers twice, and a line where its memory is full.

They are skipped where there is no GPU. `python -m src gpu_check` runs them and writes a page.
"""

import json

import numpy as np
import pytest
import torch

from main import main
from src.models import arguments_of
from src.training.machine import choose_arithmetic
from tests.data_files import give_data
from tests.modules.test_models import TRANSFORMERS, UNALIGNED, small_inputs, small_model

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
SHORT = ["--num_epochs", "2", "--batch_size", "5"]
SMALL = ["--embed_dim", "8", "--num_heads", "2", "--nlevels", "1"]


@pytest.fixture(autouse=True)
def as_found():
    """A run chooses torch's arithmetic for its process, which is that of the other tests too."""
    yield
    choose_arithmetic(False)
    torch.cuda.set_per_process_memory_fraction(1.0)


def train(folder, results, *arguments, model="PMR"):
    """The folder of a finished run."""
    if not (folder / "data").exists():
        give_data(folder)
    code = main(["--dataset", "mine", "--data_path", str(folder / "data"), "--results_dir", str(folder / results),
                 "--device", "cuda", "--model", model, *SHORT, *(SMALL if model in TRANSFORMERS else ()), *arguments])
    assert code == 0
    return next((folder / results).glob("*/*/*/seed*"))


def losses(run):
    return [[line[key] for key in ("train_loss", "valid_loss", "test_loss") if key in line]
            for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())]


def predictions(run):
    return np.load(run / "predictions.npz")["test_predictions"]


@pytest.mark.parametrize("hidden", [False, True], ids=["padding-seen", "padding-hidden"])
@pytest.mark.parametrize("name", UNALIGNED)
def test_a_model_gives_the_numbers_of_the_cpu(name, hidden):
    options = {"mask_padding": hidden} if "mask_padding" in arguments_of(name) else {}
    found = {}
    for device in ("cpu", "cuda"):
        model = small_model(name, **options).double().to(device)  # in training: cuDNN's LSTM has no backward else
        prediction, _ = model(*(x.double().to(device) for x in small_inputs()))
        prediction.square().sum().backward()
        gradients = [p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None]
        found[device] = torch.cat([prediction.detach().flatten().cpu(), *gradients])
    torch.testing.assert_close(found["cuda"], found["cpu"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("model", UNALIGNED)
def test_every_model_trains_and_its_run_is_evaluated_on_a_cpu(tmp_path, capsys, model):
    run = train(tmp_path, "results", model=model)
    result = json.loads((run / "result.json").read_text())
    assert result["environment"]["device"] == torch.cuda.get_device_name()
    capsys.readouterr()
    assert main(["--eval", str(run), "--device", "cpu"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("model", TRANSFORMERS)
def test_deterministic_runs_are_equal(tmp_path, model):
    one, two = (train(tmp_path, name, "--deterministic", model=model) for name in ("one", "two"))
    assert losses(one) == losses(two)
    np.testing.assert_array_equal(predictions(one), predictions(two))


def test_data_on_the_gpu_and_on_the_cpu_give_the_same(tmp_path):
    one, two = (train(tmp_path, place, "--deterministic", "--data_device", place) for place in ("cpu", "cuda"))
    np.testing.assert_array_equal(predictions(one), predictions(two))


@pytest.mark.parametrize("arguments", [["--precision", "tf32"], ["--precision", "bfloat16"], ["--compile"]],
                         ids=["tf32", "bfloat16", "compile"])
@pytest.mark.parametrize("model", ["MulT", "PMR"])
def test_faster_ways_give_nearly_the_same(tmp_path, model, arguments):
    without_dropout = [text for name in ("attn", "relu", "res", "embed", "out") for text in (f"--{name}_dropout", "0")]
    plain = train(tmp_path, "plain", *without_dropout, model=model)
    faster = train(tmp_path, "faster", *without_dropout, *arguments, model=model)
    np.testing.assert_allclose(losses(faster), losses(plain), rtol=0.02)


def test_too_little_memory_is_one_line(tmp_path, capsys):
    give_data(tmp_path)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(2e8 / torch.cuda.get_device_properties(0).total_memory)
    code = main(["--dataset", "mine", "--data_path", str(tmp_path / "data"), "--results_dir", str(tmp_path / "results"),
                 "--device", "cuda", *SHORT, *SMALL, "--embed_dim", "1024", "--model", "MulT"])
    assert code == 2
    assert "out of memory" in capsys.readouterr().err.splitlines()[-1]
