"""MulT and the metrics against numbers that the original code computed (tests/golden/README.md)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from src.eval_metrics import EMOTIONS, measure, scores, sentiment
from src.models import build_model
from src.tasks import EmotionClassification

GOLDEN = Path(__file__).parents[1] / "golden"
SINGLE_STEP = ("mult_unaligned", "mult_aligned_nomask", "mult_iemocap", "mult_vonly", "mult_fresh")


def draw_case(name):
    """The stored numbers of a case, its configuration, the model, the inputs (L, A, V) and the labels."""
    stored = np.load(GOLDEN / f"{name}.npz")
    config = json.loads(str(stored["config"]))
    model = build_model(
        "MulT", input_dims=config["orig_dims"], input_lens=config["lens"], only=config["only"],
        **{key: config[key] for key in ("output_dim", "embed_dim", "num_heads", "layers", "attn_mask")},
    )
    random = np.random.RandomState(config["seed"])

    def tensor(values):
        return torch.from_numpy(np.asarray(values, dtype=np.float32))

    state = {}
    for key, old in sorted(model.state_dict().items()):
        if old.dim() > 1:
            bound = np.prod(old.shape[1:]) ** -0.5
            state[key] = tensor(random.uniform(-bound, bound, old.shape))
        else:
            is_norm_weight = "layer_norm" in key and key.endswith("weight")
            drawn = random.uniform(-0.1, 0.1, old.shape)
            state[key] = tensor((0 * drawn if config.get("fresh") else drawn) + is_norm_weight)
    model.load_state_dict(state, strict=True)

    samples = config["batch"] * config.get("steps", 1)
    inputs = [
        tensor(random.uniform(-2, 2, (samples, steps, width)))
        for steps, width in zip(config["lens"], config["orig_dims"], strict=True)
    ]
    inputs[0][0, :2] = inputs[1][0, :3] = inputs[2][1, -2:] = 0
    if config.get("fresh"):  # without biases, steps that are padding in every modality stay 0 up to the memory encoders
        for x in inputs:
            x[2, :2] = 0
    if config["output_dim"] == 8:
        labels = torch.from_numpy(random.randint(0, 2, (samples, 4)))
    else:
        labels = tensor(random.uniform(-3, 3, (samples, 1)))
    return stored, config, model, inputs, labels


def loss_of(prediction, labels):
    if prediction.size(1) == 8:
        return F.cross_entropy(prediction.view(-1, 2), labels.view(-1))
    return F.l1_loss(prediction, labels)


def assert_close(ours, golden, tolerance):
    """Within the tolerance relative to the largest golden number."""
    ours, golden = np.asarray(ours), np.asarray(golden)
    assert ours.shape == golden.shape
    assert np.abs(ours - golden).max() <= tolerance * np.abs(golden).max()


@pytest.mark.parametrize("name", SINGLE_STEP)
def test_outputs_and_gradients(name):
    golden, _, model, inputs, labels = draw_case(name)
    for x in inputs:
        x.requires_grad_()
    prediction, hidden = model(*inputs)
    loss = loss_of(prediction, labels)
    loss.backward()

    assert_close(prediction.detach(), golden["prediction"], 1e-5)
    assert_close(hidden.detach(), golden["hidden"], 1e-5)
    assert_close(loss.item(), golden["loss"], 1e-5)
    for x, key in zip(inputs, ("grad_text", "grad_audio", "grad_vision"), strict=True):
        assert_close(x.grad, golden[key], 1e-4)
    norms = {key: p.grad.norm().item() for key, p in model.named_parameters() if p.grad is not None}
    assert set(norms) == set(golden["grad_norm_names"])
    for key, norm in zip(golden["grad_norm_names"], golden["grad_norms"], strict=True):
        assert norms[key] == pytest.approx(norm, rel=1e-4), key


def test_training():
    golden, config, model, inputs, labels = draw_case("mult_training")
    optimizer = torch.optim.Adam(model.parameters(), lr=config["lr"])
    batches = [slice(i, i + config["batch"]) for i in range(0, len(labels), config["batch"])]
    for batch, loss_then, norm_then in zip(batches, golden["losses"], golden["grad_norms"], strict=True):
        optimizer.zero_grad()
        loss = loss_of(model(*(x[batch] for x in inputs))[0], labels[batch])
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config["clip"])
        optimizer.step()
        assert loss.item() == pytest.approx(loss_then, rel=1e-4)
        assert norm.item() == pytest.approx(norm_then, rel=1e-4)
    model.eval()
    assert_close(model(*(x[batches[0]] for x in inputs))[0].detach(), golden["final_prediction"], 1e-4)


PRINTED = {"MAE": "mae", "Correlation Coefficient": "corr", "mult_acc_7": "acc7", "mult_acc_5": "acc5",
           "F1 score": "f1_stock", "Accuracy": "acc2"}


@pytest.mark.parametrize("case", json.loads((GOLDEN / "metrics.json").read_text()))
def test_metrics_are_exactly_the_original(case):
    if case["task"] == "sentiment":
        ours = measure(sentiment(case["exclude_zero"]), *scores(case["predictions"], case["truths"]))
        printed = dict(case["printed"])
        # The last digits of a float64 correlation are the summation order of the processor's BLAS kernel.
        assert ours["corr"] == pytest.approx(printed.pop("Correlation Coefficient"), rel=1e-14)
        assert {name: ours[key] for name, key in PRINTED.items() if name in printed} == printed
    else:
        ours = EmotionClassification().metrics(case["logits"], case["truths"])
        assert {emotion: {"F1 Score": ours[f"{emotion}_f1"], "Accuracy": ours[f"{emotion}_acc"]}
                for emotion in EMOTIONS} == case["printed"]
