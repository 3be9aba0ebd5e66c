"""Where a setting comes from, and what is refused."""

import pytest
import torch

from src.errors import UserError
from src.models import build_model, defaults_of
from src.runs.result import parameter_count
from src.settings import make_parser, parse_flags, resolve
from src.training.machine import find_data_device

ORIGINAL_DEFAULTS = {
    "attn_dropout": 0.1, "attn_dropout_a": 0.0, "attn_dropout_v": 0.0, "relu_dropout": 0.1, "embed_dropout": 0.25,
    "res_dropout": 0.1, "out_dropout": 0.0, "nlevels": 5, "num_heads": 5, "attn_mask": True, "batch_size": 24,
    "clip": 0.8, "lr": 1e-3, "optim": "Adam", "num_epochs": 40, "when": 20, "batch_chunk": 1, "log_interval": 30,
    "seed": 1111, "embed_dim": 30, "kernel_l": 1, "kernel_a": 1, "kernel_v": 1,
}


def settings_of(line):
    return resolve(parse_flags(line.split()))


def test_stock_is_the_original_command_line():
    settings, sources = settings_of("--dataset mosi --preset stock")
    recorded = settings.recorded()
    assert {name: recorded[name] for name in ORIGINAL_DEFAULTS} == ORIGINAL_DEFAULTS
    assert sources["lr"] == "stock default"
    assert (settings.model, settings.preset) == ("MulT", "stock")


@pytest.mark.parametrize("dataset, row", [
    ("mosei", {"batch_size": 16, "lr": 1e-3, "num_heads": 8, "clip": 1.0, "num_epochs": 20, "embed_dropout": 0.3,
               "attn_dropout": 0.1, "kernel_l": 1, "kernel_a": 3, "kernel_v": 3}),
    ("mosi", {"batch_size": 128, "lr": 1e-3, "num_heads": 10, "clip": 0.8, "num_epochs": 100, "embed_dropout": 0.2,
              "attn_dropout": 0.2, "kernel_l": 1, "kernel_a": 3, "kernel_v": 3}),
    ("iemocap", {"batch_size": 32, "lr": 2e-3, "num_heads": 10, "clip": 0.8, "num_epochs": 30, "embed_dropout": 0.3,
                 "attn_dropout": 0.25, "kernel_l": 3, "kernel_a": 5, "kernel_v": 3}),
])
@pytest.mark.parametrize("model", ["PMR", "MulT", "MulT-FFL"])
def test_known_data_sets_take_their_row_of_table_5(dataset, row, model):
    settings, sources = settings_of(f"--dataset {dataset} --model {model}")
    row |= {"embed_dim": 40, "nlevels": 4, "out_dropout": 0.1}
    own = {name: value for name, value in defaults_of(model).items() if name in row}
    assert {name: getattr(settings, name) for name in row} == row | own
    assert all(sources[name].startswith(f"default of {model}" if name in own else "MulT Table 5") for name in row)
    assert settings.preset == "paper"


def test_flags_win_and_say_so():
    settings, sources = settings_of("--dataset mosi --lr 0.5 --model pmr --pool mean")
    assert (settings.lr, sources["lr"]) == (0.5, "flag")
    assert (settings.model, settings.options["pool"], sources["pool"]) == ("PMR", "mean", "flag")
    assert (settings.options["message_form"], sources["message_form"]) == ("lowrank", "default of PMR")


@pytest.mark.parametrize("preset, least, most", [
    ("published_size", 2_100_000, 2_250_000), ("mult_size", 1_073_731, 1_549_321),  # MulT's by stock and by paper
])
def test_presets_of_pmr_have_the_sizes_that_they_name(preset, least, most):
    settings, sources = settings_of(f"--dataset mosei --model PMR --preset {preset}")
    model = build_model("PMR", input_dims=(300, 74, 35), input_lens=(50, 500, 500), output_dim=1,
                        **settings.model_arguments())
    assert least < parameter_count(model) < most
    assert sources["embed_dim"] == f"preset {preset}"
    assert sources["lr"].startswith("MulT Table 5")  # the rest is as without it


@pytest.mark.parametrize("preset", ["", "--preset paper", "--preset stock"])
def test_pmr_has_the_defaults_that_the_protocol_chose(preset):
    settings, sources = settings_of(f"--dataset mosei --model PMR {preset}")
    recorded = settings.recorded()
    chosen = {"attn_mask": False, "mask_padding": True, "embed_dim": 60, "num_heads": 5, "nlevels": 4}
    assert {name: (recorded[name], sources[name]) for name in chosen} == {
        name: (value, "default of PMR") for name, value in chosen.items()}
    assert settings_of("--dataset mosei --model PMR --embed_dim 10")[0].embed_dim == 10


@pytest.mark.parametrize("dataset", ["mosei", "demo"])
@pytest.mark.parametrize("model, chosen", [
    ("PMR", {"attn_mask": False, "mask_padding": True, "embed_dim": 60, "num_heads": 5, "nlevels": 4}),
    ("MulT", {"attn_mask": True, "mask_padding": True, "embed_dim": 40, "num_heads": 5}),
    ("MulT-FFL", {"attn_mask": True, "mask_padding": False}),
])
def test_the_preset_tuned_has_what_the_protocol_chose(dataset, model, chosen):
    recorded = settings_of(f"--dataset {dataset} --model {model} --preset tuned")[0].recorded()
    assert {name: recorded[name] for name in chosen} == chosen
    with pytest.raises(UserError, match="--preset tuned is for PMR, MulT, MulT-FFL: give that --model, "
                                        "or LF-LSTM another"):
        settings_of("--model LF-LSTM --preset tuned")


@pytest.mark.parametrize("dataset", ["demo", "asynchrony-lag4-hops1"])
def test_models_have_the_same_size_on_made_up_data(dataset):
    for model in ("PMR", "MulT", "MulT-FFL", "PMR-report"):
        settings, sources = settings_of(f"--dataset {dataset} --model {model}")
        assert (settings.embed_dim, settings.num_heads, settings.nlevels) == (24, 4, 2)
        assert sources["embed_dim"] == "this project's choice for its demo"
    assert settings_of(f"--dataset {dataset} --model PMR")[0].mask_padding
    assert settings_of(f"--dataset {dataset} --model PMR --preset stock")[0].embed_dim == 60


@pytest.mark.parametrize("name", ["aligned", "mask_padding", "compile", "deterministic"])
def test_every_switch_has_its_opposite(name):
    assert getattr(settings_of(f"--{name}")[0], name) is True
    assert getattr(settings_of(f"--no_{name}")[0], name) is False


@pytest.mark.parametrize("name", ["residual", "dynamic_filter", "readout_norm"])
def test_every_switch_of_a_model_has_its_opposite(name):
    assert settings_of(f"--model PMR --{name}")[0].options[name] is True
    assert settings_of(f"--model PMR --no_{name}")[0].options[name] is False
    with pytest.raises(UserError, match="not allowed with"):
        settings_of(f"--model PMR --{name} --no_{name}")


def test_unknown_data_sets_start_from_stock():
    settings, _ = settings_of("--dataset mine")
    assert (settings.preset, settings.batch_size) == ("stock", 24)


@pytest.mark.parametrize("name", ["mosei", "mosei_senti", "MOSEI"])
def test_mosei_has_one_results_folder(name):
    settings, _ = settings_of(f"--dataset {name} --model pmr --aligned --seed 3 --results_dir out --name trial")
    assert settings.run_path.as_posix() == "out/mosei/aligned/PMR-trial/seed3"


@pytest.mark.parametrize("line, expected", [
    ("", True), ("--attn_mask", False), ("--no_attn_mask", False), ("--causal_mask", True),
    ("--no_causal_mask", False), ("--model PMR --causal_mask", True), ("--model PMR --attn_mask", False),
])
def test_attn_mask_keeps_the_polarity_of_the_original(line, expected):
    assert settings_of(f"{line}")[0].options["attn_mask"] is expected
    assert "OFF" in make_parser().format_help()


def test_records_hold_only_what_the_model_has():
    mult, pmr = (settings_of(f"--model {model}")[0].recorded() for model in ("MulT", "PMR"))
    assert "message_update" in pmr
    assert "message_update" not in mult
    assert "only" in mult
    assert "only" not in pmr


@pytest.mark.parametrize("line, words", [
    ("--learning_rate 1", "unrecognized arguments: --learning_rate"),
    ("--drop 0.1", "unrecognized arguments"),
    ("--lonly --aonly", "argument --aonly: not allowed with argument --lonly"),
    ("--no_cuda --device cuda", "--no_cuda contradicts --device cuda"),
    ("--res_dropout 1", "1 is not a dropout rate"),
    ("--embed_dropout -0.1", "-0.1 is not a dropout rate"),
    ("--relu_dropout nan", "nan is not a dropout rate"),
    ("--num_epochs 0", "0 is out of range; it must be from 1"),
    ("--seed 99999999999999999999", "is out of range"),
    ("--name a/b", "'a/b' cannot be part of a folder's name"),
    ("--batch_size 2.5", "invalid"),
    ("--lr 0", "0 is not a positive number"),
    ("--clip inf", "inf is not a positive number"),
    ("--optim Adamm", "invalid choice"),
    ("--model LSTM", "no model is called 'LSTM'"),
    ("--dataset ../mosi", "is not a name"),
    ("--dataset mosi_data.pkl", "is the name of a file; give --dataset mosi --aligned, and its folder by --data_path"),
    ("--dataset data/x_data_noalign.pkl", "is the name of a file; give --dataset x, and its folder"),
    ("--trim_padding", "--trim_padding works only with --mask_padding"),
    ("--mask_padding --sort_batches", "--sort_batches works only with --trim_padding"),
    ("--model MulT --preset published_size", "--preset published_size is for PMR"),
    ("--dataset mine --preset paper", "MulT's Table 5 has no row for 'mine'"),
])
def test_wrong_flags_are_named(line, words):
    with pytest.raises(UserError) as error:
        settings_of(line)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name, device, size, expected", [
    ("auto", "cpu", 0, "cpu"), ("cpu", "cpu", 0, "cpu"),
    ("auto", "cuda:1", 50, "cuda:1"), ("auto", "cuda:1", 51, "cpu"),
    ("cuda", "cuda:1", 100, "cuda:1"), ("cpu", "cuda:1", 0, "cpu"),
])
def test_where_data_is_held(name, device, size, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", {torch.device("cuda:1"): (100, 1000)}.get)
    assert find_data_device(name, torch.device(device), size) == torch.device(expected)


@pytest.mark.parametrize("device, size, words", [("cpu", 0, "the model is on cpu"), ("cuda:1", 101, "has 0.0 GB free")])
def test_where_data_cannot_be_held(device, size, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", {torch.device("cuda:1"): (100, 1000)}.get)
    with pytest.raises(UserError, match=words):
        find_data_device("cuda", torch.device(device), size)
