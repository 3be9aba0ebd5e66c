"""A model is added by its own file and one line of the registry: settings, search, grid and tables follow."""

import importlib
import json

import pytest

from main import main
from src.errors import UserError
from src.grid import grid, plan
from src.models import MODELS, ablations_of, arguments_of, options_of
from src.report.tables import write_tables
from src.search import tune
from src.search.space import search_space
from src.settings import SELDOM, make_parser, parse_flags, presettable, resolve
from tests.data_files import give_data

TOY = '''
import torch
from torch import nn

from src.options import Choices, Option, count


class Toy(nn.Module):
    """The mean over time of each stream, then a linear layer of some width."""

    options = (
        Option("width", "width of the hidden layer", count(1, 64), search=Choices((2, 4), "our choice")),
        Option("pool", "how a stream is pooled", search=Choices(("mean", "sum"), "our choice")),
        Option("readout_layers", "linear layers in between", count(0, 2)),
        Option("bias", switches={"--no_bias": (False, "leave out the bias")}),
    )
    ablations = {"no_bias": ("without a bias", ("--no_bias",))}

    def __init__(self, *, input_dims, input_lens, output_dim, out_dropout=0.0, width=4, pool="mean",
                 readout_layers=0, bias=True):
        super().__init__()
        if pool not in ("mean", "sum"):
            raise ValueError(f"pool is {pool!r}; it can be mean or sum")
        self.pool = pool
        self.hidden, self.dropout = nn.Linear(sum(input_dims), width, bias=bias), nn.Dropout(out_dropout)
        between = [nn.Linear(width, width) for _ in range(readout_layers)]
        self.out = nn.Sequential(*between, nn.Linear(width, output_dim))

    def forward(self, text, audio, vision):
        streams = [getattr(stream, "x", stream) for stream in (text, audio, vision)]
        x = torch.cat([getattr(stream, self.pool)(dim=1) for stream in streams], dim=-1)
        hidden = self.dropout(self.hidden(x))
        return self.out(hidden), hidden
'''
TOY_RUN = ["--model", "toy", "--dataset", "mine", "--device", "cpu", "--num_epochs", "2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with data and the toy's own file; the registry has its line."""
    monkeypatch.chdir(tmp_path)
    give_data(tmp_path, sizes=(30, 6, 6))
    (tmp_path / "toy_model.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(MODELS, "Toy", importlib.import_module("toy_model").Toy)
    return tmp_path


def complaint(capsys, *line):
    assert main([*TOY_RUN, *line]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_a_new_model_is_trained_and_evaluated_again(folder, capsys):
    assert main([*TOY_RUN, "--width", "3", "--no_bias"]) == 0
    run = folder / "results/mine/unaligned/Toy/seed1111"
    config = json.loads((run / "config.json").read_text())
    assert {name: config["settings"][name] for name in options_of("Toy")} == {
        "width": 3, "pool": "mean", "readout_layers": 0, "bias": False}
    assert (config["sources"]["width"], config["sources"]["pool"]) == ("flag", "default of Toy")
    assert {"num_heads", "nlevels", "kernel_l", "attn_dropout", "message_dim", "only"}.isdisjoint(config["settings"])
    assert main(["--eval", str(run)]) == 0
    assert "# reproduces result.json" in capsys.readouterr().out


def test_a_new_model_is_searched(folder):
    settings, _ = resolve(parse_flags(TOY_RUN))
    assert set(search_space(settings, {"lr"}, 30)) == {"width", "pool", "out_dropout", "batch_size", "clip"}
    assert tune.main([*TOY_RUN, "--seeds", "1", "--trials", "2"]) == 0
    preset = "studies/mine/unaligned/Toy/preset.json"
    found = json.loads((folder / preset).read_text())["settings"]
    assert set(found) == set(presettable("Toy")) - set(SELDOM) >= {"width", "pool", "bias", "out_dropout", "lr"}
    assert main([*TOY_RUN[:-2], "--preset", preset, "--seed", "1"]) == 0
    result = json.loads((folder / "results/mine/unaligned/Toy/seed1/result.json").read_text())
    assert {name: result["settings"][name] for name in found} == found


def test_a_new_model_is_in_the_grid_and_the_tables(folder):
    assert "Toy" in grid.parse_arguments(["demo"]).models
    runs, _ = plan.plan(["mine"], "unaligned", ["Toy", "MulT"], [1], ("--num_epochs", "1"), ablations=True)
    assert [run.title for run in runs[:2]] == ["mine unaligned Toy seed1", "mine unaligned MulT seed1"]
    toys = [run for run in runs if run.settings.model == "Toy"]
    assert [run.settings.name for run in toys] == [None, "no_bias"]
    for run in toys:
        assert main(list(run.flags)) == 0
    tables, problems = write_tables("results", "tables", ablations=True)
    assert problems == []
    assert {table.name: [row.label for row in table.rows[1:]] for table in tables} == {
        "mine_unaligned": ["Toy"], "mine_unaligned_toy_ablations": ["Toy", "without a bias"]}


def test_the_help_names_a_new_model_and_its_options(folder):
    text = " ".join(make_parser().format_help().split())
    assert "PMR, PMR-report, MulT, MulT-FFL, EF-LSTM, LF-LSTM, Linear or Toy, in any case" in text
    assert "--width WIDTH width of the hidden layer (default: 4)" in text
    assert "--no_bias leave out the bias" in text


def test_two_models_may_share_the_name_of_an_option(folder, monkeypatch, capsys):
    text = " ".join(make_parser().format_help().split())
    assert ("--pool POOL PMR: what is read of each segment: last (step) or mean (default: last); "
            "Toy: how a stream is pooled (default: mean)") in text
    assert resolve(parse_flags(["--model", "PMR", "--pool", "mean"]))[0].options["pool"] == "mean"
    assert resolve(parse_flags(["--model", "Toy", "--pool", "sum"]))[0].options["pool"] == "sum"
    assert "pool is 'last'; it can be mean or sum" in complaint(capsys, "--pool", "last")
    assert resolve(parse_flags(["--model", "Toy", "--readout_layers", "0"]))[0].options["readout_layers"] == 0
    with pytest.raises(UserError, match="readout_layers: 0 is out of range; it must be from 1"):
        resolve(parse_flags(["--model", "PMR", "--readout_layers", "0"]))
    with pytest.raises(UserError, match="readout_layers: 3 is out of range; it must be from 0 to 2"):
        resolve(parse_flags(["--model", "Toy", "--readout_layers", "3"]))
    with pytest.raises(UserError, match="argument --readout_layers: 2000 is out of range"):
        parse_flags(["--readout_layers", "2000"])


@pytest.mark.parametrize("line, words", [
    ("--width 0", "0 is out of range; it must be from 1 to 64"),
    ("--num_heads 2", "Toy has no use for num_heads=2 (an option of PMR, PMR-report, MulT, MulT-FFL)"),
    ("--message_dim 2", "Toy has no use for message_dim=2 (an option of PMR)"),
    ("--model MulT --no_bias", "MulT has no use for bias=False (an option of Toy)"),
])
def test_wrong_options_of_a_new_model_are_named(folder, capsys, line, words):
    assert words in complaint(capsys, *line.split())
    assert not (folder / "results").exists()


@pytest.mark.parametrize("model", MODELS)
def test_what_a_model_declares_fits_its_class(model):
    for name, option in options_of(model).items():
        option.check(default := arguments_of(model)[name], default)
        assert bool(option.help) != bool(option.switches)
        for value in getattr(option.search, "values", ()):
            option.check(value, default)
    for _, flags in ablations_of(model).values():
        resolve(parse_flags(["--model", model, *flags]))
