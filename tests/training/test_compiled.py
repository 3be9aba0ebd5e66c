"""--compile: the repeated layers alone, once for each kind and not again for other sizes, with the same numbers.

torch's compiler itself is tried in the slow tests; elsewhere its first half, which finds what must be compiled again.
"""

import logging
from functools import partial

import pytest
import torch
from torch._dynamo.utils import counters

from modules.sequence import padding_mask
from src.dataset import Split
from src.errors import UserError
from src.training.compiled import compile_layers
from src.training.machine import explained
from src.training.state import make_optimizer
from tests.modules.test_models import UNALIGNED, small_inputs, small_model

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh():
    logging.getLogger("torch.__trace").propagate = False  # pytest would make it write
    torch.compiler.reset()
    counters.clear()
    yield
    torch.compiler.reset()


@pytest.fixture
def half(monkeypatch):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def losses(model, steps):
    """Of training steps, then of an evaluation."""
    torch.manual_seed(0)
    optimizer, values, labels = make_optimizer(model, "Adam", 1e-2), [], torch.randn(4, 1)
    for step in range(steps + 1):
        model.train(step < steps)
        with torch.set_grad_enabled(step < steps):
            loss = (model(*small_inputs())[0] - labels).abs().mean()
        values.append(loss.item())
        if step < steps:
            optimizer.zero_grad(set_to_none=False)
            loss.backward()
            optimizer.step()
    return values


def compiled(name, **options):
    model = small_model(name, **options)
    compile_layers(model, CPU)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", UNALIGNED)
def test_losses_of_twenty_compiled_steps(name):
    torch.testing.assert_close(losses(compiled(name), 20), losses(small_model(name), 20), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name, options", [("MulT", {}), ("PMR", {}), ("PMR", {"hub_tokens": 3, "self_window": 2})])
def test_other_sizes_give_the_same_and_compile_nothing_again(name, options, half):
    model, as_it_is = (make(name, layers=1, mask_padding=True, **options) for make in (compiled, small_model))
    features = tuple(small_inputs(8))
    for x in features:
        x[:, :1] = x[4:, :3] = 0
    split = Split(features, tuple(map(padding_mask, features)), torch.zeros(8, 1), list("abcdefgh"))
    graphs = []
    for indices in ([0, 5, 2], [4, 5, 6, 7], [4, 6], [0, 1, 2, 3, 4], [5, 7, 6]):
        streams, _ = split.batch(indices, trimmed=True)
        torch.testing.assert_close(model(*streams), as_it_is(*streams))
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs == [graphs[0]] * len(graphs)
    assert graphs[0] > 0 == len(counters["graph_break"])


def test_layers_that_record_decisions_are_not_compiled(half):
    model, decisions = compiled("PMR"), {}
    model(*small_inputs(), decisions=decisions)
    assert decisions["gates"]
    assert counters["stats"]["unique_graphs"] == 1  # the feed-forward of the message update, which decides nothing


def test_a_compiler_that_fails_is_one_line(monkeypatch):
    def fail(graph, inputs):
        raise RuntimeError("no such compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=fail))
    with pytest.raises(UserError, match=r"^--compile fails here, leave it out: .*no such"), explained("advice"):
        compiled("MulT")(*small_inputs())


def test_a_trimmed_stream_has_one_of_few_lengths():
    features = tuple(torch.ones(100, T, 2) for T in (10, 50, 500))
    for x in features:
        for i in range(100):
            x[i, :i * x.size(1) // 100] = 0
    split = Split(features, tuple(map(padding_mask, features)), torch.zeros(100, 1), [""] * 100, few_lengths=True)
    lengths = {tuple(stream.x.size(1) for stream in split.batch([i], trimmed=True)[0]) for i in range(100)}
    assert len({a for a, _, _ in lengths}) <= 4
    assert {c for _, _, c in lengths} == {500, 375, 250, 125}
    assert all(stream.padding[0].sum() == i * stream.length // 100 - stream.length + stream.x.size(1)
               for i in range(100) for stream in split.batch([i], trimmed=True)[0])
