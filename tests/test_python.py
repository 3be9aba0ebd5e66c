"""The calls from Python: the walk of docs/guide/python.md runs as it stands, in a thread, and leaves torch alone."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from src.errors import UserError

GUIDE = Path(__file__).parents[1] / "docs/guide/python.md"


def test_the_walk_runs_in_a_thread_and_leaves_torch_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names, errors = {}, []

    def walk():
        try:
            for block in blocks:
                exec(block, names)
        except BaseException as error:
            errors.append(error)

    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_default_dtype(torch.float64)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    try:
        thread = threading.Thread(target=walk)
        thread.start()
        thread.join()
        assert errors == []
        assert torch.equal(torch.get_rng_state(), state)
        assert (torch.get_default_dtype(), torch.get_num_threads()) == (torch.float64, threads)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_default_dtype(torch.float32)
    assert names["result"]["folder"] == Path("results/demo/unaligned/MulT/seed1111")
    rows = {row["model"]: row for row in names["tables"]["demo_unaligned"]}
    assert rows["MulT"]["MAE"] == pytest.approx(names["result"]["test"]["mae"])
    assert (rows["LF-LSTM"]["seeds"], rows["train mean"]["seeds"]) == (1, 0)
    assert names["page"] == Path("report/index.html")
    assert names["found"].values.shape == (5, 1)
    assert np.allclose(names["same"].values, names["found"].values, atol=1e-6)


def test_the_numbers_are_those_of_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = {"model": "MulT", "dataset": "demo", "aligned": True, "num_epochs": 1, "embed_dim": 8, "num_heads": 2,
                "nlevels": 1, "device": "cpu"}
    by_call = main.train(**settings, results_dir="calls")
    flags = [text for name, value in settings.items() for text in ([f"--{name}"] + [str(value)] * (value is not True))]
    assert main.main([*flags, "--results_dir", "commands"]) == 0
    again = main.train(**settings, results_dir="commands", resume=True)  # it is finished, and so it is read
    assert by_call["test"] == again["test"]


@pytest.mark.parametrize("settings, words", [
    ({"colour": 1}, "--colour cannot be given here"), ({"lr": "fast"}, "lr"), ({"dataset": "mine"}, "is missing"),
    ({"model": "LSTM"}, "no model is called 'LSTM'"),
])
def test_what_is_wrong_is_a_user_error(tmp_path, monkeypatch, settings, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        main.train(**settings)
    assert list(tmp_path.iterdir()) == []
