"""The contract of build_model and what must hold for every model of the registry."""

import inspect

import pytest
import torch

from modules.multihead_attention import MultiheadAttention
from modules.position_embedding import PositionEmbedding
from modules.sequence import Sequence, mask, padding_mask
from src.models import MODELS, arguments_of, build_model, takes_unaligned

DIMS, LENS = (12, 5, 7), (6, 9, 11)
MOSEI = {"input_dims": (300, 74, 35), "output_dim": 1}


def small_model(name, **options):
    torch.manual_seed(0)
    sizes = {"input_dims": DIMS, "input_lens": LENS, "output_dim": 1, "embed_dim": 8, "num_heads": 2, "layers": 2}
    return build_model(name, **{key: size for key, size in sizes.items() if key in arguments_of(name)} | options)


def small_inputs(samples=4, seed=1):
    """Random text, audio and vision; the second sample has front padding and the third no vision at all."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(samples, T, d, generator=generator) for T, d in zip(LENS, DIMS, strict=True)]
    for x in inputs:
        x[1, :3] = 0
    inputs[2][2] = 0
    return inputs


UNALIGNED = [name for name in MODELS if takes_unaligned(name)]
every_model = pytest.mark.parametrize("name", UNALIGNED)
TRANSFORMERS = [name for name in MODELS if "mask_padding" in arguments_of(name)]
every_transformer = pytest.mark.parametrize("name", TRANSFORMERS)
every_padding = pytest.mark.parametrize("mask_padding", [False, True], ids=["padding-seen", "padding-hidden"])


@every_model
@pytest.mark.parametrize("output_dim", [1, 8])
def test_shapes(name, output_dim):
    model = small_model(name, output_dim=output_dim)
    prediction, hidden = model(*small_inputs())
    assert prediction.shape == (4, output_dim)
    widths = {"PMR": 24, "PMR-report": 8, "LF-LSTM": 3 * 240, "Linear": 2 * sum(DIMS) + 3}
    assert hidden.shape == (4, widths.get(name, 48))


@every_model
def test_name_in_any_case(name):
    assert type(small_model(name.lower())) is type(small_model(name.upper())) is MODELS[name]


@every_transformer
def test_every_parameter_learns(name):
    """The message-update weights of a published PMR re-implementation never did."""
    model = small_model(name, attn_dropout=0.1, embed_dropout=0.1)
    before = {key: p.clone() for key, p in model.named_parameters()}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    prediction, _ = model(*small_inputs())
    prediction.square().sum().backward()
    optimizer.step()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.abs().max() > 0, key
        assert not torch.equal(p, before[key]), key


PMR_VARIANTS = [
    {"message_update": "mean"}, {"message_update": "none"}, {"dynamic_filter": False}, {"residual": False},
    {"message_form": "full"}, {"modalities": "l"}, {"modalities": "av"}, {"pool": "mean"}, {"readout_layers": 2},
    {"readout_norm": True}, {"attn_mask": False}, {"hub_tokens": 3, "self_window": 2},
]


@pytest.mark.parametrize("name, options", [
    *(("PMR", options) for options in PMR_VARIANTS),
    *((name, {"only": only}) for name in ("MulT", "MulT-FFL") for only in ("lonly", "aonly", "vonly")),
    *((name, {"memory_layers": 1}) for name in ("MulT", "MulT-FFL")),
])
def test_every_trainable_parameter_of_a_variant_has_a_gradient(name, options):
    model = small_model(name, **options)
    model(*small_inputs())[0].sum().backward()
    assert [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@every_transformer
@every_padding
def test_batched_equals_one_by_one(name, mask_padding):
    model, inputs = small_model(name, mask_padding=mask_padding).double().eval(), small_inputs()
    inputs = [x.double() for x in inputs]
    batched = model(*inputs)[0]
    alone = torch.cat([model(*(x[i:i + 1] for x in inputs))[0] for i in range(4)])
    torch.testing.assert_close(batched, alone, rtol=1e-12, atol=1e-12)


@every_transformer
@every_padding
@pytest.mark.parametrize("empty", range(3))
def test_empty_stream_gives_no_nan(name, empty, mask_padding):
    model, inputs = small_model(name, mask_padding=mask_padding), small_inputs()
    inputs[empty][:] = 0
    prediction, _ = model(*inputs)
    prediction.sum().backward()
    assert prediction.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@every_transformer
@every_padding
def test_padding_is_taken_from_the_inputs_unless_given(name, mask_padding):
    model, inputs = small_model(name, mask_padding=mask_padding).eval(), small_inputs()
    prediction = model(*inputs)[0]
    derived = [Sequence.of(x, padding_mask(x)) for x in inputs]
    assert torch.equal(model(*derived)[0], prediction)
    nothing = [stream._replace(padding=torch.zeros_like(stream.padding)) for stream in derived]
    assert not torch.allclose(model(*nothing)[0], prediction)


@every_transformer
def test_hidden_padding_does_not_matter(name):
    """With mask_padding, what stands in a padded source step has no influence; without, as in the original, it has."""
    def change_of_prediction(mask_padding):
        model, inputs = small_model(name, mask_padding=mask_padding).eval(), small_inputs()
        streams = [Sequence.of(x, padding_mask(x)) for x in inputs]
        before = model(*streams)[0]
        inputs[1][1, 0] = 5  # a padded step of audio
        return (model(*streams)[0] - before).abs().max()
    assert change_of_prediction(mask_padding=True) < 1e-6
    assert change_of_prediction(mask_padding=False) > 1e-4


@every_transformer
def test_dropout_is_off_in_evaluation(name):
    rates = dict.fromkeys(("attn_dropout", "attn_dropout_a", "attn_dropout_v", "relu_dropout", "embed_dropout",
                           "res_dropout", "out_dropout"), 0.3)
    model, inputs = small_model(name, **rates), small_inputs()
    assert not torch.equal(model(*inputs)[0], model(*inputs)[0])
    model.eval()
    assert torch.equal(model(*inputs)[0], model(*inputs)[0])


@pytest.mark.parametrize("input_dims, output_dim, parameters", [
    ((300, 74, 35), 1, 1_073_731), ((300, 5, 20), 1, 1_071_211), ((300, 74, 35), 8, 1_074_998),
])
def test_mult_has_the_original_size(input_dims, output_dim, parameters):
    model = build_model("MulT", input_dims=input_dims, input_lens=(50, 50, 50), output_dim=output_dim, embed_dim=30,
                        num_heads=5, layers=5)
    assert sum(p.numel() for p in model.parameters()) == parameters


@pytest.mark.parametrize("chosen, layers", [(0, 3), (1, 1), (4, 4)])
def test_mult_has_as_many_memory_layers_as_chosen(chosen, layers):
    assert len(small_model("MulT", memory_layers=chosen).trans_l_mem.layers) == layers


@pytest.mark.parametrize("input_lens", [(50, 50, 50), (50, 500, 500)])
def test_pmr_is_below_its_published_size(input_lens):
    model = build_model("PMR", **MOSEI, input_lens=input_lens, embed_dim=40, num_heads=8, layers=4,
                        kernel_sizes=(1, 3, 3))
    assert sum(p.numel() for p in model.parameters()) < 2_150_000


@pytest.mark.parametrize("name, options, words", [
    ("MulT", {"message_rank": 2}, "MulT has no use for message_rank=2 (an option of PMR)"),
    ("PMR", {"only": "lonly"}, "PMR has no use for only='lonly' (an option of MulT, MulT-FFL)"),
    ("PMR", {"only": "lonly"}, "PMR has no use for only='lonly'"),
    ("MulT-FFL", {"colour": "red"}, "MulT-FFL has no use for colour='red'"),
    ("LSTM", {}, "no model is called 'LSTM'; there are PMR, PMR-report, MulT, MulT-FFL, EF-LSTM, LF-LSTM, Linear"),
    ("MulT", {"only": "text"}, "only is 'text'"),
    ("MulT", {"num_heads": 3}, "width 8 cannot be divided into 3 attention heads"),
    ("PMR", {"modalities": "lt"}, "modalities is 'lt'"),
    ("PMR", {"modalities": "ll"}, "modalities is 'll'"),
    ("PMR", {"message_update": "sum"}, "message_update is 'sum'"),
    ("PMR", {"message_form": "sparse"}, "message_form is 'sparse'"),
    ("PMR", {"pool": "max"}, "pool is 'max'"),
])
def test_wrong_options_are_named(name, options, words):
    with pytest.raises(ValueError) as error:
        small_model(name, **options)
    assert words in str(error.value)


def test_inputs_that_do_not_fit_are_named():
    text, audio, vision = small_inputs()
    with pytest.raises(ValueError, match="modality v has 5 features; the model takes 7"):
        small_model("MulT")(text, audio, audio)
    with pytest.raises(ValueError, match=r"sequences of .* steps given to a PMR that was built for"):
        small_model("PMR")(text[:, 1:], audio, vision)


def test_frozen_models_compute_the_same():
    options = {"input_dims": (8, 5, 8), "kernel_sizes": (1, 1, 3)}  # text is skipped, vision is not
    inputs = [torch.randn(2, T, d) for T, d in zip(LENS, options["input_dims"], strict=True)]
    model = small_model("MulT", **options).eval()
    prediction = model(*inputs)[0]
    for trainable in (False, True):
        assert torch.equal(model.requires_grad_(trainable)(*inputs)[0], prediction)


@every_padding
def test_attention_weights_are_those_of_the_forward_pass(mask_padding):
    torch.manual_seed(0)
    attention, x, y = MultiheadAttention(6, 2).double(), torch.randn(2, 4, 6).double(), torch.randn(2, 5, 6).double()
    hidden = torch.arange(5) < torch.tensor([[2], [5]])  # sample 1 has nothing to see
    seen = mask(Sequence.of(x), Sequence.of(y)._replace(hidden=hidden if mask_padding else None))
    q, k, v = attention._heads(x, y, y)
    weighed = torch.einsum("bhts,bshc->bthc", attention.weights(q, k, seen), v)
    torch.testing.assert_close(attention(x, y, y, seen), attention.out_proj(weighed.flatten(2)))


def test_attention_dropout_is_unbiased():
    torch.manual_seed(0)
    attention = MultiheadAttention(8, 2, attn_dropout=0.4)
    x = torch.randn(1, 5, 8).expand(20000, 5, 8)
    dropped, kept = attention(x, x, x), attention.eval()(x[:1], x[:1], x[:1])
    error_of_mean = dropped.std(dim=0) / len(x) ** 0.5
    assert ((dropped.mean(dim=0) - kept[0]).abs() < 5 * error_of_mean).all()
    assert error_of_mean.min() > 0


def test_positions():
    embed = PositionEmbedding(6)
    x = torch.zeros(1, 3, 6)
    t = torch.tensor([1.0, 2.0, 3.0])
    rates = torch.tensor([1.0, 10000 ** -0.5, 1e-4])
    table = torch.cat([(t[:, None] * rates).sin(), (t[:, None] * rates).cos()], dim=1)
    torch.testing.assert_close(embed(Sequence.of(x))[0], table)
    padding = torch.tensor([[True, False, True]])
    expected = table * torch.tensor([[0.0], [1.0], [0.0]])
    torch.testing.assert_close(embed(Sequence.of(x, padding))[0], expected)
    torch.testing.assert_close(embed(Sequence.of(x[:, 1:], padding[:, 1:], cut=1))[0], expected[1:])
    assert (PositionEmbedding(5)(Sequence.of(torch.zeros(1, 3, 5)))[..., -1] == 0).all()


def test_mult_ffl_attends_to_transformed_sources():
    """It is MulT, but for the source layers: with those silent, and only with those silent, the two agree."""
    mult, ffl, inputs = small_model("MulT").eval(), small_model("MulT-FFL").eval(), small_inputs()
    ffl.load_state_dict(mult.state_dict(), strict=False)
    assert not torch.allclose(ffl(*inputs)[0], mult(*inputs)[0], atol=1e-4)
    for key, p in ffl.named_parameters():
        if "source_layers" in key and ".fc2." in key:
            torch.nn.init.zeros_(p)
    torch.testing.assert_close(ffl(*inputs)[0], mult(*inputs)[0])


def test_mult_ffl_source_layers_are_progressive():
    """Layer i attends to source_{i+1} = source_i + FFN_i(LN(source_i)), starting from the embedded source."""
    encoder = small_model("MulT-FFL").double().eval().get_submodule("trans_l_with_a")
    target, source = (Sequence.of(torch.randn(2, T, 8).double()) for T in (6, 9))
    x, transformed = encoder.embed(target), encoder.embed(source)
    allowed = mask(target, source, causal=True)
    for layer, ffn in zip(encoder.layers, encoder.source_layers, strict=True):
        transformed = transformed + ffn.fc2(ffn.fc1(ffn.layer_norm(transformed)).relu())
        x = layer(x, transformed, transformed, allowed)
    torch.testing.assert_close(encoder(target, source), encoder.layer_norm(x))


def test_pmr_hands_out_its_decisions():
    model, inputs, record = small_model("PMR"), small_inputs(), {}
    prediction = model(*inputs, decisions=record)[0]
    assert record["gates"]["layers.1.reinforce.a.filter"].shape == (4, LENS[1], 8)
    torch.testing.assert_close(record["alphas"]["layers.0.update"].sum(dim=1), torch.ones(4))
    attention = record["attention"]["layers.0.reinforce.v"]  # from the hub to vision
    assert attention.shape == (4, LENS[2], sum(LENS))
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(4, LENS[2]))
    assert len(record["gates"]) == 12
    assert torch.equal(model(*inputs)[0], prediction)


def test_only_the_decisions_that_are_asked_for_are_handed_out():
    record = {"alphas": {}}
    small_model("PMR")(*small_inputs(), decisions=record)
    assert {kind: list(values) for kind, values in record.items()} == {
        "alphas": ["layers.0.update", "layers.1.update"]}


@pytest.mark.parametrize("name", ["MulT", "MulT-FFL"])
def test_mult_hands_out_its_attention(name):
    record = {}
    small_model(name)(*small_inputs(), decisions=record)
    attention = record["attention"]["trans_l_with_v.layers.1"]
    assert attention.shape == (4, LENS[0], LENS[2])
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(4, LENS[0]))
    band = torch.ones(LENS[0], LENS[2]).tril(LENS[2] - LENS[0])
    assert (attention[:, band == 0] == 0).all()
    assert record["attention"]["trans_l_mem.layers.2"].shape == (4, 1, LENS[0])  # the step that is read


def test_constructors_take_what_build_model_promises():
    promised = {"attn_mask": True, "only": None, "kernel_sizes": (1, 1, 1), "attn_dropout": 0.0, "attn_dropout_a": 0.0,
                "attn_dropout_v": 0.0, "relu_dropout": 0.0, "embed_dropout": 0.0, "res_dropout": 0.0,
                "out_dropout": 0.0}
    parameters = inspect.signature(MODELS["MulT"]).parameters
    assert {name: parameters[name].default for name in promised} == promised
