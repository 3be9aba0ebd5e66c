"""trim_padding computes what mask_padding alone computes, from fewer steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modules.multihead_attention import MultiheadAttention, attention_mask
from modules.trimming import kept_steps
from src.data.specs import find_spec
from src.dataset import Dataset, load_dataset
from src.models import MODELS, build_model
from src.train import fit
from src.training.state import TrainingState
from tests.data_files import make_splits, write_dataset

DIMS, UNALIGNED, ALIGNED = (6, 4, 5), (5, 14, 17), (9, 9, 9)
VARIANTS = [
    *((name, {}) for name in MODELS),
    ("MulT", {"attn_mask": False}), ("MulT", {"only": "aonly"}),
    ("PMR", {"message_form": "full"}), ("PMR", {"message_update": "mean"}), ("PMR", {"message_update": "none"}),
    ("PMR", {"pool": "mean", "readout_layers": 2}), ("PMR", {"modalities": "av"}), ("PMR", {"modalities": "v"}),
]


def model_of(name, lens, *, trim_padding, output_dim=2, **options):
    """A float64 model whose parameters are all random."""
    torch.manual_seed(0)
    model = build_model(name, input_dims=DIMS, input_lens=lens, output_dim=output_dim, embed_dim=4, num_heads=2,
                        layers=2, mask_padding=True, trim_padding=trim_padding, **options).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return model


def real_steps(lens, seed=0, samples=3):
    """Random inputs without padding."""
    random = np.random.default_rng(seed)
    return [torch.from_numpy(random.normal(size=(samples, T, d))) for T, d in zip(lens, DIMS, strict=True)]


def front_padded(lens, seed=0, samples=3, empty=()):
    """Random inputs with front padding of a third and more, and gaps; `empty` are pairs of a modality and a sample."""
    generator, inputs = torch.Generator().manual_seed(seed), real_steps(lens, seed, samples)
    for x in inputs:
        steps = x.size(1)
        x[torch.rand(x.shape[:2], generator=generator) < 0.15] = 0
        for sample in x:
            sample[:torch.randint(steps // 3, steps, (), generator=generator)] = 0
    for m, b in empty:
        inputs[m][b] = 0
    return inputs


def results(model, inputs, padding=None):
    """Prediction, hidden state and every gradient, by name."""
    prediction, hidden = model(*inputs, padding)
    (prediction.square().sum() + hidden.sum()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"prediction": prediction.detach(), "hidden": hidden.detach(), **gradients}


def assert_trimming_changes_nothing(name, options, lens, inputs, padding=None):
    whole, trimmed = (
        results(model_of(name, lens, trim_padding=trim, **options), inputs, padding) for trim in (False, True)
    )
    torch.testing.assert_close(trimmed, whole, rtol=1e-10, atol=1e-10)


EMPTY = {"none": (), "vision": [(2, 1)], "audio, text": [(1, 0), (0, 2)], "a sample": [(0, 1), (1, 1), (2, 1)]}


@pytest.mark.parametrize("name, options", VARIANTS)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("lens", [UNALIGNED, ALIGNED], ids=["unaligned", "aligned"])
def test_predictions_and_gradients_are_the_same(name, options, kernel, lens):
    options = {"kernel_sizes": (kernel,) * 3, **options}
    for seed, empty in enumerate(EMPTY.values()):
        assert_trimming_changes_nothing(name, options, lens, front_padded(lens, seed, empty=empty))


@pytest.mark.parametrize("name", MODELS)
def test_padding_that_is_given_may_hold_anything(name):
    padding = [torch.arange(T).expand(3, T) < torch.tensor([[T - 1], [T // 2], [T // 2 + 1]]) for T in UNALIGNED]
    assert_trimming_changes_nothing(name, {"kernel_sizes": (3, 3, 3)}, UNALIGNED, real_steps(UNALIGNED), padding)


def masks(lens, first):
    """Masks of T steps by modality, the first so many of each sample padding."""
    return {m: torch.arange(T) < torch.tensor(first[m])[:, None] for m, T in zip("lav", lens, strict=True)}


def starts(kept):
    return {key: steps.start for key, (steps,) in kept.items()}


def test_what_is_kept():
    pairs = [("l", "a"), ("a", "l")]
    padding = masks((5, 5, 8), {"l": [2, 3], "a": [3, 3], "v": [7, 6]})
    assert kept_steps(padding) == {"l": (range(2, 5),), "a": (range(3, 5),), "v": (range(6, 8),)}
    assert starts(kept_steps(padding, pairs)) == {"l": 2, "a": 3, "v": 6, ("l", "a"): 3, ("a", "l"): 2}
    causal = starts(kept_steps(padding, pairs, causal=True))  # sample 0's text step 2 sees no real audio
    assert causal == {"l": 2, "a": 3, "v": 6, ("l", "a"): 0, ("a", "l"): 2}
    assert starts(kept_steps(masks((5, 5, 8), {"l": [2, 5], "a": [3, 3], "v": [7, 6]})))["l"] == 0  # an empty stream
    wider = masks((5, 7, 8), {"l": [2, 3], "a": [4, 5], "v": [7, 6]})  # the band now reaches two steps further
    assert starts(kept_steps(wider, pairs, causal=True))["l", "a"] == 4


def test_causal_mask_of_what_is_kept_is_that_of_the_whole():
    rows, columns = (range(2, 4),), (range(1, 3), range(4, 6))
    whole = attention_mask(4, 6, causal=True)
    assert torch.equal(attention_mask(2, 4, causal=True, kept=rows, source_kept=columns), whole[2:, [1, 2, 4, 5]])


@pytest.mark.parametrize("name", MODELS)
def test_steps_are_really_cut(name):
    def longest_attention(trim_padding):
        lengths = []
        model = model_of(name, UNALIGNED, trim_padding=trim_padding)
        for module in model.modules():
            if isinstance(module, MultiheadAttention):
                module.register_forward_pre_hook(lambda _, inputs: lengths.append([x.size(-2) for x in inputs[:2]]))
        padding = masks(UNALIGNED, {m: [T - 2, T - 3] for m, T in zip("lav", UNALIGNED, strict=True)})
        model(*(x[:2] for x in front_padded(UNALIGNED)), list(padding.values()))
        return torch.tensor(lengths).amax(dim=0).tolist()

    whole, kept = sum(UNALIGNED), 3 * len(UNALIGNED)
    assert longest_attention(False) == ([whole, 2 * whole] if name == "PMR" else [17, 17])
    assert longest_attention(True) == ([kept, 2 * kept] if name == "PMR" else [3, 3])


def test_recording_sees_all_steps():
    model, inputs = model_of("PMR", UNALIGNED, trim_padding=True), front_padded(UNALIGNED)
    with model.recording() as record:
        recorded = model(*inputs)[0]
    assert record["gates"]["layers.0.reinforce.v.filter"].shape == (3, 17, 4)
    assert model.trim_padding
    torch.testing.assert_close(recorded, model(*inputs)[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_padding_that_is_attended_to_is_not_cut(name):
    with pytest.raises(ValueError, match=r"trim_padding .* add mask_padding"):
        build_model(name, input_dims=DIMS, input_lens=UNALIGNED, output_dim=1, embed_dim=4, num_heads=2, layers=1,
                    trim_padding=True)


def in_float64(split):
    return replace(split, features=tuple(x.double() for x in split.features), labels=split.labels.double())


@pytest.mark.parametrize("name", MODELS)
def test_training_is_the_same(name, tmp_path):
    """Up to rounding, and with evaluations in other batches: they go by length where padding is trimmed."""
    def losses(trim_padding):
        model = model_of(name, UNALIGNED, trim_padding=trim_padding, output_dim=1)
        state = TrainingState(model, optim="Adam", lr=0.01, when=20, seed=1)
        epochs = fit(state, dataset, num_epochs=3, batch_size=4, clip=0.8, trim_padding=trim_padding)
        return torch.tensor([(epoch.train_loss, epoch.valid.loss, epoch.test.loss) for epoch in epochs])

    write_dataset(tmp_path, "mine", make_splits(lens=UNALIGNED, dims=DIMS), aligned=False)
    dataset = load_dataset(find_spec("mine"), tmp_path)
    dataset = Dataset(dataset.task, {key: in_float64(split) for key, split in dataset.splits.items()}, [])
    torch.testing.assert_close(losses(True), losses(False), rtol=1e-9, atol=1e-9)
