"""decisions.npz: of the selected epoch, for fixed samples, small, and without a trace in the run's numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from main import main
from src.errors import UserError
from src.models import build_model
from src.runs.decisions import MOST_STEPS, last_layers, read_decisions, record_decisions
from src.runs.run_folder import RunFolder
from src.runs.trained import load_trained
from tests.data_files import make_splits, write_dataset

SMALL = ("--dataset", "mine", "--num_epochs", "3", "--batch_size", "4",
         "--preset", "stock", "--device", "cpu", "--lr", "0.05", "--seed", "1")
WIDTHS = ("--embed_dim", "8", "--num_heads", "2", "--nlevels", "2")


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Trains a model and returns the folder of its run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_dataset(tmp_path / "data", "mine", make_splits(), aligned=False)

    def train(model, *flags):
        assert main(["--model", model, *(flags or WIDTHS), *SMALL]) == 0
        return tmp_path / f"results/mine/unaligned/{model}/seed1"
    return train


@pytest.mark.parametrize("model, parts", [
    ("MulT", {"attention": {"trans_l_with_a.layers.1": (6, 6, 9), "trans_v_mem.layers.2": (6, 1, 11)}}),
    ("PMR", {"gates": {"layers.0.reinforce.l.filter": (6, 6), "layers.1.update.reinforce.a.filter": (6, 26)},
             "alphas": {"layers.1.update": (6, 3)}, "attention": {"layers.1.reinforce.v": (6, 11, 26)}}),
])
def test_they_are_those_of_the_selected_epoch(trained, model, parts):
    folder = trained(model)
    read = read_decisions(folder)
    assert read.steps == [6, 9, 11]
    rebuilt, dataset, *_ = load_trained(folder)
    split = dataset.splits["test"]
    assert read.ids == split.ids  # all six: no more than 8
    with torch.no_grad():
        rebuilt(*(x[:] for x in split.features), decisions=(record := {}))
    for kind, modules in parts.items():
        for name, shape in modules.items():
            expected = record[kind][name].numpy()
            expected = expected.mean(axis=2) if kind == "gates" else expected
            assert getattr(read, kind)[name].shape == shape
            np.testing.assert_allclose(getattr(read, kind)[name], expected, atol=1e-3)
    assert set(read.attention) == set(last_layers(list(record["attention"])))


def test_a_model_that_decides_nothing_has_none(trained):
    assert read_decisions(trained("LF-LSTM", "--hidden_dim", "8")) is None


def test_recording_leaves_torch_as_it_was(trained):
    model, dataset, *_ = load_trained(trained("PMR"))
    weights, state = {name: value.clone() for name, value in model.state_dict().items()}, torch.get_rng_state()
    assert record_decisions(model, dataset.splits["test"], torch.device("cpu"))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


def test_nothing_else_of_a_run_changes(trained, monkeypatch):
    ends, finish = [], RunFolder.finish

    def keep(folder, result):
        state = torch.load(folder.path / "last.pt", weights_only=True)["state"]
        ends.append([state["model"], state["optimizer"], state["random"], state["order"], torch.get_rng_state()])
        finish(folder, result)
    monkeypatch.setattr(RunFolder, "finish", keep)
    trained("PMR")
    monkeypatch.setattr("src.runs.run.makes_decisions", lambda name: False)
    without = trained("PMR")
    folder = without.with_name("seed1.1")  # moved aside
    assert {path.name for path in folder.iterdir()} - {path.name for path in without.iterdir()} == {"decisions.npz"}
    for name in ("predictions.npz", "checkpoint.pt"):
        assert (folder / name).read_bytes() == (without / name).read_bytes()
    torch.testing.assert_close(*ends, rtol=0, atol=0)


def test_a_run_that_dies_at_its_end_records_the_same(trained, monkeypatch):
    def die(*arguments):
        raise OSError("died")
    flags = ["--model", "MulT", *WIDTHS, *SMALL, "--resume"]
    for name in ("save_arrays", "finish"):
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, name, die)
            assert main(flags) == 2
    assert main(flags) == 0
    recorded = Path("results/mine/unaligned/MulT/seed1/decisions.npz").read_bytes()
    assert (trained("MulT") / "decisions.npz").read_bytes() == recorded


@pytest.mark.parametrize("model", ["MulT", "PMR"])
def test_long_streams_and_many_samples_stay_under_a_megabyte(tmp_path, model):
    class Long:
        """A split of 1,000 samples."""

        padding = tuple(torch.zeros(1000, T) for T in (50, 375, 500))
        ids = tuple(f"sample {i}" for i in range(1000))

        def __len__(self):
            return 1000

        def batch(self, indices, device):
            random = torch.Generator().manual_seed(indices[0])
            return tuple(torch.randn(1, T, 4, generator=random) for T in (50, 375, 500)), None

    network = build_model(model, input_dims=(4, 4, 4), input_lens=(50, 375, 500), output_dim=1, embed_dim=8,
                          num_heads=2, layers=4)
    arrays = record_decisions(network, Long(), torch.device("cpu"))
    assert arrays["ids"].tolist() == [f"sample {125 * i}" for i in range(8)]
    assert all(array.shape[1] <= MOST_STEPS[0] and array.shape[2] <= MOST_STEPS[1]
               for name, array in arrays.items() if name.startswith("attention/"))
    np.savez_compressed(tmp_path / "decisions.npz", **arrays)
    assert (tmp_path / "decisions.npz").stat().st_size < 1e6


def test_the_last_layers_keep_their_order():
    names = ["layers.2.reinforce.l", "layers.2.update", "layers.10.reinforce.l", "layers.10.update", "readout.layers.0"]
    assert last_layers(names) == names[2:]


@pytest.mark.parametrize("change", [
    {"ids": ["x"]}, {"steps": [3, 3]}, {"steps": ["a"] * 3}, {"gates/m": [[0.5]]}, {"attention/m": [[0.5], [0.5]]},
    {"alphas/m": [["a"], ["b"]]},
])
def test_a_damaged_file_is_one_line(tmp_path, change):
    whole = {"ids": ["x", "y"], "steps": [3, 3, 3], "alphas/l": [[0.5], [0.5]]}
    np.savez(tmp_path / "decisions.npz", **whole)
    assert read_decisions(tmp_path).ids == ["x", "y"]
    np.savez(tmp_path / "decisions.npz", **whole | change)
    with pytest.raises(UserError, match=r"decisions\.npz is damaged; train the run again"):
        read_decisions(tmp_path)
