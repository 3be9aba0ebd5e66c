"""Weights out of checkpoints: whole pickled modules and state dicts, in both formats of torch; nothing in them runs."""

import json
import pickle
import zipfile

import pytest
import torch
from torch import nn

from main import main
from src.errors import UserError
from src.models import build_model
from src.runs.stock_checkpoint import initialise, load_state
from tests.data_files import make_splits, write_dataset

DIMS = {"input_dims": (12, 5, 8), "input_lens": (6, 9, 11), "output_dim": 1, "embed_dim": 8, "num_heads": 2}
OLD_FORMAT = {"_use_new_zipfile_serialization": False}
pytestmark = pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")


def small_model(name="MulT", seed=0, layers=1):
    torch.manual_seed(seed)
    return build_model(name, **DIMS, layers=layers)


def original_model():
    """MulT with what the original's modules carry besides: buffers, and tensors that are no part of the state."""
    model = small_model()
    for encoder in (model.trans_l_with_a, model.trans_l_mem):
        encoder.register_buffer("version", torch.Tensor([2]))
        encoder.embed.register_buffer("_float_tensor", torch.FloatTensor(1))
        encoder.embed.weights = {-1: torch.ones(3, 4)}
    return model


def assert_equal(state, expected):
    assert set(state) == set(expected)
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("options", [{}, OLD_FORMAT], ids=["zip", "legacy"])
@pytest.mark.parametrize("content", [
    lambda model: model, lambda model: model.state_dict(), nn.DataParallel, lambda model: {"model": model.state_dict()},
    lambda model: nn.DataParallel(model).state_dict(), lambda model: {"model_state_dict": model.state_dict()},
    lambda model: {"state_dict": nn.ModuleDict({"model": model}).state_dict(), "epoch": 3},
    lambda model: nn.ModuleDict({"_orig_mod": nn.ModuleDict({"Model": model})}).state_dict(),
], ids=["module", "state_dict", "parallel", "checkpoint", "parallel_state_dict", "named", "Lightning", "compiled_MMSA"])
def test_the_tensors_of_every_form(tmp_path, content, options):
    torch.save(content(original_model()), tmp_path / "model.pt", **options)
    assert_equal(load_state(tmp_path / "model.pt"), small_model().state_dict())


@pytest.mark.parametrize("options", [{}, OLD_FORMAT], ids=["zip", "legacy"])
def test_classes_need_not_exist(tmp_path, options, monkeypatch):
    class MULTModel(nn.Linear):
        pass
    monkeypatch.setattr("src.models.MULTModel", MULTModel, raising=False)
    MULTModel.__module__, MULTModel.__qualname__ = "src.models", "MULTModel"
    model = MULTModel(3, 2)
    model.weight = nn.Parameter(torch.arange(12.0).view(4, 3)[::2])  # a view with a stride of its own
    torch.save(model, tmp_path / "model.pt", **options)
    monkeypatch.undo()
    with pytest.raises(AttributeError):
        torch.load(tmp_path / "model.pt", weights_only=False)
    assert_equal(load_state(tmp_path / "model.pt"), model.state_dict())


class Attack:
    """Runs as soon as it is unpickled: writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return exec, (f"open({self.path!r}, 'w').close()",)


@pytest.mark.parametrize("options", [{}, OLD_FORMAT], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["attribute", "parameter", "buffers", "child", "whole"])
def test_nothing_runs(tmp_path, place, options):
    ran, path = tmp_path / "ran", tmp_path / "model.pt"
    model = original_model()
    attack = Attack(ran)
    content = attack if place == "whole" else model
    if place == "attribute":
        model.extra = attack
    elif place == "parameter":
        model.proj_l._parameters["extra"] = attack
    elif place == "buffers":
        model.proj_l._buffers = attack
    elif place == "child":
        model._modules["extra"] = attack
    torch.save(content, path, **options)
    try:
        load_state(path)
    except UserError:
        assert place in ("buffers", "child", "whole")  # no model without them
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists(), "the attack does not work, so that it proves nothing"


def test_a_plain_pickle_is_refused_and_not_run(tmp_path):
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Attack(tmp_path / "ran")))
    with pytest.raises(UserError, match="no checkpoint of torch"):
        load_state(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


def compressed(path):
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def circular(path):
    content = {}
    content["model"] = content
    torch.save(content, path)


@pytest.mark.parametrize("spoil, words", [
    (lambda path: path.unlink(), "is missing"),
    (lambda path: path.write_bytes(b""), "damaged or no checkpoint"),
    (lambda path: path.write_bytes(path.read_bytes()[:3000]), "damaged or no checkpoint"),
    (lambda path: torch.save({"lr": 1}, path), "neither a model nor a state dict"),
    (lambda path: torch.save([torch.ones(1)], path), "neither a model nor a state dict"),
    (compressed, "compressed"),
    (circular, "recursion"),
])
def test_damaged_files_are_refused_in_one_line(tmp_path, spoil, words):
    path = tmp_path / "model.pt"
    torch.save(small_model(), path)
    spoil(path)
    with pytest.raises(UserError, match=words) as error:
        load_state(path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("cut", [0.3, 0.9, 0.999])
def test_a_legacy_file_that_is_cut_short_is_refused(tmp_path, cut):
    path = tmp_path / "model.pt"
    torch.save(small_model(), path, **OLD_FORMAT)
    path.write_bytes(path.read_bytes()[:int(path.stat().st_size * cut)])
    with pytest.raises(UserError, match="damaged"):
        load_state(path)


@pytest.mark.parametrize("other, words", [
    (lambda: small_model(layers=4), "it has besides trans_l_with_a.layers.1"),
    (lambda: small_model("PMR"), "it lacks .* and others; it has besides .* and others; of another shape are proj1"),
    (lambda: build_model("MulT", **{**DIMS, "input_dims": (12, 5, 9)}, layers=1),
     r"of another shape are proj_v.weight \(8, 9, 1\), here \(8, 8, 1\)"),
])
def test_another_models_weights_are_refused(tmp_path, other, words):
    torch.save(other(), tmp_path / "model.pt")
    model, before = small_model(), small_model().state_dict()
    with pytest.raises(UserError, match=words) as error:
        initialise(model, tmp_path / "model.pt")
    assert str(error.value).isprintable()
    assert_equal(model.state_dict(), before)


def test_a_run_starts_from_it(tmp_path):
    write_dataset(tmp_path, "mine", make_splits(), aligned=False)
    torch.save(original_model(), tmp_path / "model.pt")
    def train(*flags):
        return main(["--dataset", "mine", "--data_path", str(tmp_path), "--results_dir", str(tmp_path / "results"),
                     "--device", "cpu", "--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", "--num_epochs", "1",
                     "--lr", "1e-12", "--batch_size", "5", "--init_from", str(tmp_path / "model.pt"), *flags])
    assert train("--kernel_l", "3") == 2
    assert not (tmp_path / "results").exists()
    assert train() == 0
    run = tmp_path / "results/mine/unaligned/MulT/seed1111"
    trained = torch.load(run / "checkpoint.pt", weights_only=True)["model"]
    for name, tensor in small_model().state_dict().items():
        torch.testing.assert_close(trained[name], tensor, rtol=0, atol=1e-9)
    assert json.loads((run / "config.json").read_text())["settings"]["init_from"] == str(tmp_path / "model.pt")
    (tmp_path / "model.pt").unlink()
    assert main(["--eval", str(run)]) == 0
