"""The PyTorch PMR against the second, slow implementation in tests/reference, in float64 and with random parameters.

Every value that a batch of the model computes (prediction, hidden state, gates, alphas) must be what the equations of
PMR (Lv et al., CVPR 2021, section 3) give for each of its samples alone; gradients are compared with finite
differences of the reference.
"""

import numpy as np
import pytest
import torch

from modules import kernels
from modules.pmr_layer import (
    DynamicFilter,
    FullMessageWeights,
    LowRankMessageWeights,
    MessageUpdateModule,
    ModalityReinforcementUnit,
    ReinforcementLayer,
)
from modules.sequence import Sequence
from src.dataset import Split
from src.models import build_model
from tests.reference import pmr_reference

BATCH = 3
DIMS = {"l": 7, "a": 4, "v": 5}
LENS = {"l": 6, "a": 4, "v": 3}


def redraw(module, seed=0):
    """Give every parameter a random value, so that none hides behind an initial 0 or 1; float64, no dropout."""
    generator = torch.Generator().manual_seed(seed)
    module.double().eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
            if ("layer_norm" in name or "readout_norm" in name) and name.endswith("weight"):
                parameter.add_(1)
    return module


def arrays(module, name):
    """The parameters as float64 arrays, each under the name it would have in a module that holds this one as `name`."""
    return {f"{name}.{key}" if name else key: value.numpy().copy() for key, value in module.state_dict().items()}


def draw(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


def draw_mask(*shape, seed):
    """Random booleans; every step of sample 0 is real and every step of the last sample is padding."""
    mask = np.random.default_rng(seed).random(shape) < 0.4
    mask[0], mask[-1] = False, True
    return mask


def sequence(x, hidden=None):
    """Steps that `hidden` marks are not attended to."""
    return Sequence.of(torch.tensor(x))._replace(hidden=None if hidden is None else torch.tensor(hidden))


def assert_same(actual, expected):
    actual = actual.detach().numpy() if torch.is_tensor(actual) else actual
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


# ---- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learned", [True, False])
def test_dynamic_filter(learned):
    module = redraw(DynamicFilter(6, learned=learned))
    own, cross = draw(BATCH, 4, 6, seed=1), draw(BATCH, 4, 6, seed=2)
    out = module(torch.tensor(own), torch.tensor(cross))
    p = arrays(module, "filter")
    for b in range(BATCH):
        assert_same(out[b], pmr_reference.dynamic_filter(p, "filter", own[b], cross[b], learned))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("dynamic_filter", [True, False])
@pytest.mark.parametrize("source_len, target_len, heads", [(3, 6, 2), (6, 3, 4), (5, 5, 1), (1, 4, 8)])
def test_modality_reinforcement_unit(source_len, target_len, heads, dynamic_filter, residual, masked, causal):
    module = redraw(ModalityReinforcementUnit(8, heads, dynamic_filter=dynamic_filter, residual=residual,
                                              attn_mask=causal))
    source, target = draw(BATCH, source_len, 8, seed=1), draw(BATCH, target_len, 8, seed=2)
    source_mask, target_mask = draw_mask(BATCH, source_len, seed=3), draw_mask(BATCH, target_len, seed=4)
    out = module(sequence(source, source_mask if masked else None), sequence(target, target_mask if masked else None)).x
    p, lengths = arrays(module, "unit"), ([target_len], [source_len]) if causal else None
    for b in range(BATCH):
        hidden = (source_mask[b], target_mask[b]) if masked else (None, None)
        assert_same(out[b], pmr_reference.reinforcement_unit(p, "unit", source[b], target[b], heads, *hidden,
                                                             learned_filter=dynamic_filter, residual=residual,
                                                             lengths=lengths))


def draw_layer_inputs(modalities, width):
    """Z by modality, Z_C, and a mask for each, for a layer or a message update on its own."""
    Z = {m: draw(BATCH, LENS[m], width, seed=i) for i, m in enumerate(modalities)}
    masks = {m: draw_mask(BATCH, LENS[m], seed=10 + i) for i, m in enumerate(modalities)}
    hub_len = sum(LENS[m] for m in modalities)
    return Z, draw(BATCH, hub_len, width, seed=20), masks, draw_mask(BATCH, hub_len, seed=21)


def sequences(Z, masks, masked):
    return {m: sequence(x, masks[m] if masked else None) for m, x in Z.items()}


def units(modalities, width, heads, **options):
    return {m: ModalityReinforcementUnit(width, heads, **options) for m in modalities}


def message_update_module(modalities, width, heads, message_update="attention", message_form="lowrank", **options):
    length = sum(LENS[m] for m in modalities)
    weights = None if message_update == "mean" else {
        m: (FullMessageWeights(length, width, 5) if message_form == "full"
            else LowRankMessageWeights(length, width, 5, 3))
        for m in modalities
    }
    return MessageUpdateModule(units(modalities, width, heads, **options), weights, width, message_dim=5)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("modalities", ["lav", "av", "v"])
@pytest.mark.parametrize("message_form", ["lowrank", "full"])
@pytest.mark.parametrize("message_update", ["attention", "mean"])
def test_message_update_module(message_update, message_form, modalities, masked):
    module = redraw(message_update_module(modalities, 6, 2, message_update, message_form))
    Z, Z_C, masks, hub_mask = draw_layer_inputs(modalities, 6)
    out = module(sequences(Z, masks, masked), sequence(Z_C, hub_mask if masked else None)).x
    p = arrays(module, "update")
    for b in range(BATCH):
        hidden = ({m: masks[m][b] for m in modalities}, hub_mask[b]) if masked else (None, None)
        expected = pmr_reference.message_update(p, "update", {m: Z[m][b] for m in modalities}, Z_C[b], 2, *hidden,
                                                update=message_update, form=message_form)
        assert_same(out[b], expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("residual, dynamic_filter", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("message_update", ["attention", "mean", "none"])
def test_reinforcement_layer(message_update, residual, dynamic_filter, masked):
    options = {"residual": residual, "dynamic_filter": dynamic_filter}
    update = None if message_update == "none" else message_update_module("lav", 6, 3, message_update, **options)
    module = redraw(ReinforcementLayer(units("lav", 6, 3, **options), update))
    Z, Z_C, masks, hub_mask = draw_layer_inputs("lav", 6)
    new_Z, new_Z_C = module(sequences(Z, masks, masked), sequence(Z_C, hub_mask if masked else None))
    p = arrays(module, "layer")
    for b in range(BATCH):
        hidden = ({m: masks[m][b] for m in "lav"}, hub_mask[b]) if masked else (None, None)
        expected_Z, expected_Z_C = pmr_reference.reinforcement_layer(
            p, "layer", {m: Z[m][b] for m in "lav"}, Z_C[b], 3, *hidden, learned_filter=dynamic_filter,
            residual=residual, update=message_update)
        for m in "lav":
            assert_same(new_Z[m].x[b], expected_Z[m])
        assert_same(new_Z_C.x[b], expected_Z_C)


# ---- the whole model -------------------------------------------------------------------------------------------------


def draw_inputs(dims):
    """Sample 0 is full; sample 1 has front padding and an empty step inside; sample 2 has no vision at all."""
    x = {m: draw(BATCH, LENS[m], dims[m], seed=30 + i) for i, m in enumerate("lav")}
    x["l"][1, :2] = x["a"][1, :1] = x["v"][1, :1] = 0
    x["l"][1, 3] = x["a"][1, 2] = 0
    x["l"][2, :1] = 0
    x["v"][2] = 0
    return x


def make_model(dims=DIMS, embed_dim=8, num_heads=2, layers=2, **options):
    model = build_model("PMR", input_dims=tuple(dims.values()), input_lens=tuple(LENS.values()), output_dim=2,
                        embed_dim=embed_dim, num_heads=num_heads, layers=layers, **options)
    return redraw(model)


def reference_outputs(p, x, b, record=None, num_heads=2, layers=2, **options):
    for name in ("embed_dim", "kernel_sizes", "message_dim", "message_rank"):
        options.pop(name, None)  # visible in the shapes of the parameters
    sample = {m: x[m][b] for m in "lav"}
    return pmr_reference.pmr(p, sample, num_heads, layers, record=record, **options)


CASES = {
    "default": {},
    "update-mean": {"message_update": "mean"},
    "update-none": {"message_update": "none"},
    "no-filter": {"dynamic_filter": False},
    "no-residual": {"residual": False},
    "full": {"message_form": "full"},
    "message-sizes": {"message_dim": 3, "message_rank": 1},
    "pool-mean": {"pool": "mean"},
    "readout-2": {"readout_layers": 2},
    "no-mask": {"attn_mask": False},
    "no-mask-pool-mean": {"attn_mask": False, "pool": "mean"},
    "readout-norm": {"readout_norm": True, "readout_layers": 3},
    "deeper": {"layers": 3},
    "kernels-353": {"kernel_sizes": (3, 5, 3)},
    "kernels-531": {"kernel_sizes": (5, 3, 1)},
    "odd-width": {"embed_dim": 9, "num_heads": 3},
    "only-l": {"modalities": "l"},
    "only-a": {"modalities": "a"},
    "only-v": {"modalities": "v"},
    "pair-la": {"modalities": "la"},
    "pair-lv": {"modalities": "lv"},
    "pair-av": {"modalities": "av"},
    "pair-av-mean": {"modalities": "av", "pool": "mean", "message_update": "mean"},
    "tokens": {"hub_tokens": 2},
    "tokens-pool-mean": {"hub_tokens": 5, "pool": "mean", "readout_norm": True, "readout_layers": 2},
    "tokens-no-mask-full": {"hub_tokens": 3, "attn_mask": False, "message_form": "full"},
    "tokens-of-one": {"hub_tokens": 2, "modalities": "a"},
    "tokens-and-window": {"hub_tokens": 2, "self_window": 2, "message_update": "none"},
    "window": {"self_window": 3},
    "window-no-mask": {"self_window": 2, "attn_mask": False},
    "mixture": {
        "message_form": "full", "pool": "mean", "readout_layers": 2, "kernel_sizes": (3, 1, 5), "embed_dim": 9,
        "num_heads": 3, "residual": False,
    },
}


@pytest.mark.parametrize("mask_padding", [False, True], ids=["padding-seen", "padding-hidden"])
@pytest.mark.parametrize("case", CASES)
def test_model(case, mask_padding):
    options = dict(CASES[case], mask_padding=mask_padding)
    check_model(DIMS, options)


@pytest.mark.parametrize("kernel_sizes", [(1, 1, 1), (3, 3, 3)])
@pytest.mark.parametrize("widths", ["l", "v", "lav"])
def test_model_without_projection(widths, kernel_sizes):
    """A modality that already has the model's width, with kernel 1, is not projected; with a wider kernel it is."""
    dims = {m: 8 if m in widths else DIMS[m] for m in DIMS}
    check_model(dims, {"kernel_sizes": kernel_sizes})


@pytest.mark.parametrize("mask_padding", [False, True], ids=["padding-seen", "padding-hidden"])
@pytest.mark.parametrize("pool", ["last", "mean"])
def test_model_with_given_padding(pool, mask_padding):
    """Masks that are given count, whatever the inputs hold."""
    masks = {m: draw_mask(BATCH, LENS[m], seed=40 + i) for i, m in enumerate("lav")}
    check_model(DIMS, {"pool": pool, "mask_padding": mask_padding}, masks)


def check_model(dims, options, masks=None):
    """Compare prediction, hidden state, gates and alphas of each sample of a batch with the reference."""
    model, x, record = make_model(dims, **options), draw_inputs(dims), {}
    streams = [torch.tensor(x[m]) if masks is None else Sequence.of(torch.tensor(x[m]), torch.tensor(masks[m]))
               for m in "lav"]
    with torch.no_grad():
        prediction, hidden = model(*streams, decisions=record)
    p = arrays(model, "")
    modalities = options.get("modalities", "lav")
    assert hidden.shape == (BATCH, len(modalities) * options.get("embed_dim", 8))
    for b in range(BATCH):
        expected = pmr_reference.new_record()
        sample_padding = masks and {m: masks[m][b] for m in "lav"}
        expected_prediction, expected_hidden = reference_outputs(p, x, b, expected, padding=sample_padding, **options)
        assert_same(prediction[b], expected_prediction)
        assert_same(hidden[b], expected_hidden)
        if options.get("dynamic_filter", True):
            assert set(record["gates"]) == set(expected["gates"])
        if options.get("message_update", "attention") == "attention" and len(modalities) > 1:
            assert set(record["alphas"]) == set(expected["alphas"])
        for kind in ("gates", "alphas"):
            for name, value in record[kind].items():
                assert_same(value[b], expected[kind][name])


FRONT = {"l": 2, "a": 1, "v": 1}  # steps that the samples below share as padding in front


def cut_batch(x, dtype=torch.float64):
    """The streams of a batch, without the padding that its samples share."""
    features = tuple(torch.tensor(x[m], dtype=dtype) for m in "lav")
    split = Split(features, tuple((f == 0).all(dim=2) for f in features), torch.zeros(BATCH, 1), [])
    return split.batch(range(BATCH), trimmed=True)[0]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("empty", ["", "v", "av", "everywhere v"])
def test_model_of_a_cut_batch(case, empty):
    """The front padding that a batch shares is cut; a stream that is empty in all samples keeps its last step."""
    options = dict(CASES[case], mask_padding=True)
    model, x = make_model(**options), draw_inputs(DIMS)
    for m in "lav":
        x[m][:, :FRONT[m]] = 0
    for m in empty.removeprefix("everywhere "):
        x[m][slice(None) if "everywhere" in empty else 0] = 0
    streams = cut_batch(x)
    cut = {m: stream.length - stream.x.size(1) for m, stream in zip("lav", streams, strict=True)}
    assert cut == FRONT | ({"v": LENS["v"] - 1} if "everywhere" in empty else {})
    prediction, hidden = model(*streams)
    (prediction.sum() + hidden.sum()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    p = arrays(model, "")
    for b in range(BATCH):
        expected_prediction, expected_hidden = reference_outputs(p, x, b, **options)
        assert_same(prediction[b], expected_prediction)
        assert_same(hidden[b], expected_hidden)


@pytest.mark.parametrize("options", [{}, {"pool": "mean", "readout_layers": 2}, {"attn_mask": False},
                                     {"hub_tokens": 3, "self_window": 2}, {"self_window": 1, "attn_mask": False}])
def test_the_kernels_compute_the_same_model(options):
    """In float32, a cut batch with hidden padding: its outputs are the reference's, its gradients those of float64."""
    options, x = {**options, "mask_padding": True}, draw_inputs(DIMS)
    for m in "lav":
        x[m][:, :FRONT[m]] = 0
    models = {dtype: make_model(**options).to(dtype) for dtype in (torch.float64, torch.float32)}
    for dtype, model in models.items():
        prediction, _ = model(*cut_batch(x, dtype))
        prediction.sum().backward()
    assert kernels.usable(prediction)
    p = arrays(models[torch.float64], "")
    for b in range(BATCH):
        expected, _ = reference_outputs(p, x, b, **options)
        np.testing.assert_allclose(prediction[b].detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    for slow, fast in zip(*(model.parameters() for model in models.values()), strict=True):
        if slow.grad is not None:
            torch.testing.assert_close(fast.grad.double(), slow.grad, rtol=1e-3, atol=1e-4)


def test_gradients_by_finite_differences():
    """In each of these parameters, the element with the greatest gradient: d sum(prediction) / d element."""
    model, x = make_model(), draw_inputs(DIMS)
    model(*(torch.tensor(x[m]) for m in "lav"))[0].sum().backward()
    names = [
        "proj_l.weight",
        "proj_v.weight",
        "layers.0.reinforce.l.layer_norm.weight",
        "layers.0.reinforce.a.filter.w_self.weight",
        "layers.0.reinforce.v.filter.w_cross.bias",
        "layers.0.reinforce.a.self_attn.in_proj_bias",
        "layers.0.update.reinforce.v.cross_attn.in_proj_weight",
        "layers.0.update.weights.l.time",
        "layers.0.update.weights.a.feature",
        "layers.0.update.weights.v.bias",
        "layers.0.update.score.weight",
        "layers.0.update.ffn.fc1.weight",
        "layers.1.update.score.weight",
        "layers.1.reinforce.l.ffn.fc2.bias",
        "readout.layers.0.self_attn.out_proj.weight",
        "readout.layers.0.layer_norms.1.bias",
        "proj1.weight",
        "out_layer.weight",
    ]
    p, eps = arrays(model, ""), 1e-6
    parameters = dict(model.named_parameters())
    for name in names:
        gradient = parameters[name].grad.numpy()
        index = np.unravel_index(np.abs(gradient).argmax(), gradient.shape)
        assert abs(gradient[index]) > 1e-4, name
        sums = []
        for sign in (1, -1):
            moved = dict(p, **{name: p[name].copy()})
            moved[name][index] += sign * eps
            sums.append(sum(reference_outputs(moved, x, b)[0].sum() for b in range(BATCH)))
        numeric = (sums[0] - sums[1]) / (2 * eps)
        np.testing.assert_allclose(gradient[index], numeric, rtol=1e-5, atol=1e-7, err_msg=name)
