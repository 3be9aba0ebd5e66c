"""PMR-report against its description, computed one sample at a time with the blocks of the second PMR, in float64."""

import math

import numpy as np
import pytest
import torch

from main import main
from src.models import build_model
from tests.data_files import make_splits, write_dataset
from tests.modules.test_pmr_equations import arrays, redraw
from tests.reference import pmr_reference as reference

DIMS, LENS, KERNELS = (7, 4, 5), (6, 9, 4), (3, 5, 3)
SIZES = {"input_dims": DIMS, "input_lens": LENS, "output_dim": 2, "embed_dim": 6, "num_heads": 2,
         "kernel_sizes": KERNELS}
HUB_ORDER = "vla"


def valid_convolution(weight, x):
    """Without padding: step t of T - k + 1 is made of the steps t to t + k - 1."""
    kernel = weight.shape[2]
    return np.array([sum(weight[:, :, j] @ x[t + j] for j in range(kernel)) for t in range(len(x) - kernel + 1)])


def shared_unit(p, source, target):
    """One attention for both branches, causal over whole lengths; the gate gets them with the target added."""
    name = "layers.0.reinforce.l"
    normed_source, normed_target = (reference.layer_norm(p, f"{name}.layer_norm", x) for x in (source, target))
    cross, own = (
        target + reference.attention(p, f"{name}.cross_attn", normed_target, normed, 2, None, ([len(target)], [len(x)]))
        for normed, x in ((normed_source, source), (normed_target, target))
    )
    mixed = reference.dynamic_filter(p, f"{name}.filter", own, cross)
    return reference.feed_forward(p, f"{name}.ffn", f"{name}.ffn.layer_norm", mixed)


def renewed_hub(p, name, Z, Z_C):
    messages = [shared_unit(p, Z[m], Z_C) for m in "lav"]
    scores = []
    for m, message in zip("lav", messages, strict=True):
        inner = reference.message_matrix_times(p, f"{name}.weights.{m}", message, "lowrank")
        scores.append(float(p[f"{name}.score.weight"][0] @ np.tanh(inner + p[f"{name}.weights.{m}.bias"])))
    fused = sum(alpha * message for alpha, message in zip(reference.softmax(scores), messages, strict=True))
    return reference.feed_forward(p, f"{name}.ffn", f"{name}.ffn.layer_norm", fused)


def report(p, inputs, layers):
    Z = {}
    for m, x in inputs.items():
        weight = p[f"proj_{m}.weight"]
        padding = reference.find_padding(x)
        kept = [all(padding[t:t + weight.shape[2]]) for t in range(len(x) - weight.shape[2] + 1)]
        Z[m] = reference.add_positions(valid_convolution(weight, x), kept)
    Z_C = np.concatenate([Z[m] for m in HUB_ORDER])
    for i in range(layers):
        Z = {m: shared_unit(p, Z_C, Z[m]) for m in Z}
        Z_C = renewed_hub(p, f"layers.{i}.update", Z, Z_C)
    whole = np.concatenate([Z_C, *(Z[m] for m in HUB_ORDER)])
    state = reference.readout_encoder(p, "readout", whole, 2, layers, lengths=([len(whole)], [len(whole)]))[-1]
    inner = reference.linear(p, "proj2", np.maximum(reference.linear(p, "proj1", state), 0.0)) + state
    return reference.linear(p, "out_layer", inner), state


def test_it_computes_what_it_describes():
    model = redraw(build_model("PMR-report", layers=2, **SIZES))
    generator = np.random.default_rng(1)
    inputs = [generator.standard_normal((2, T, d)) for T, d in zip(LENS, DIMS, strict=True)]
    inputs[1][1, :7] = 0  # front padding, longer than the kernel
    prediction, hidden = model(*map(torch.tensor, inputs))
    p = arrays(model, "")
    for sample in range(2):
        of_sample = {m: x[sample] for m, x in zip("lav", inputs, strict=True)}
        expected = report(p, of_sample, layers=2)
        assert np.allclose(prediction[sample].detach(), expected[0], atol=1e-9)
        assert np.allclose(hidden[sample].detach(), expected[1], atol=1e-9)


def test_all_layers_have_one_unit():
    sizes = [sum(p.numel() for p in build_model("PMR-report", layers=n, **SIZES).parameters()) for n in (1, 2)]
    model = build_model("PMR-report", layers=1, **SIZES)
    added = sum(p.numel() for part in (model.layers[0].update.weights, model.layers[0].update.score,
                                       model.layers[0].update.ffn, model.readout.layers) for p in part.parameters())
    assert sizes[1] - sizes[0] == added


def test_input_and_scores_have_dropout():
    model = build_model("PMR-report", layers=1, embed_dropout=0.999, **SIZES)
    for m, width in zip("lav", DIMS, strict=True):
        assert math.isclose((model._project(m, torch.ones(4, 9, width)).x == 0).float().mean().item(), 1, abs_tol=0.2)
    model = build_model("PMR-report", layers=1, out_dropout=0.999, **SIZES)
    decisions = {"alphas": {}}
    model(*(torch.randn(4, T, d) for T, d in zip(LENS, DIMS, strict=True)), decisions)
    assert torch.allclose(decisions["alphas"]["layers.0.update"], torch.tensor(1 / 3), atol=1e-6)


@pytest.mark.parametrize("lengths, said", [((5, 2, 3), True), ((5, 5, 3), False)])
def test_a_stream_shorter_than_its_kernel_is_padded_and_the_log_says_so(tmp_path, monkeypatch, capsys, lengths, said):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_dataset(tmp_path / "data", "mine", make_splits(lens=lengths), aligned=False)
    arguments = ["--model", "PMR-report", "--dataset", "mine", "--num_epochs", "1", "--embed_dim", "8",
                 "--num_heads", "2", "--nlevels", "1", "--batch_size", "4", "--no_cuda"]
    assert main(arguments) == 0
    line = "# stream a has 2 steps, fewer than its kernel's 5: zeros are put in front"
    assert (line in capsys.readouterr().out) is said
