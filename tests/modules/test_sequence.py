"""Sequences and their masks; and that cutting shared padding where a batch is made changes no result."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from modules import kernels
from modules.sequence import Segment, Sequence, first_real_steps, join, mask, padding_mask
from src.data.specs import find_spec
from src.dataset import Dataset, Split, load_dataset
from src.models import build_model
from src.train import fit
from src.training.state import TrainingState
from tests.data_files import make_splits, write_dataset
from tests.modules.test_models import TRANSFORMERS

DIMS, UNALIGNED, ALIGNED = (6, 4, 5), (5, 14, 17), (9, 9, 9)
VARIANTS = [
    *((name, {}) for name in TRANSFORMERS),
    ("MulT", {"attn_mask": False}), ("MulT", {"only": "aonly"}),
    ("PMR", {"message_form": "full"}), ("PMR", {"message_update": "mean"}), ("PMR", {"message_update": "none"}),
    ("PMR", {"attn_mask": False}), ("PMR", {"readout_norm": True}),
    ("PMR", {"pool": "mean", "readout_layers": 2}), ("PMR", {"modalities": "av"}), ("PMR", {"modalities": "v"}),
]


# ---- sequences -------------------------------------------------------------------------------------------------------


def ones(T, cut=0, hidden=None):
    """A sequence of T steps of which `cut` are cut off."""
    return Sequence.of(torch.ones(2, T - cut, 3), cut=cut)._replace(hidden=hidden)


def test_a_cut_sequence_knows_its_steps():
    sequence = ones(5, cut=2)
    assert sequence.steps.tolist() == [2, 3, 4]
    assert (sequence.length, sequence.ends, sequence.segments) == (5, [2], (Segment(5, 3),))
    assert sequence.kept(torch.arange(5), dim=0).tolist() == [2, 3, 4]


def test_joined_sequences_follow_each_other_in_time():
    joined = join([ones(5, cut=2), join([ones(4), ones(3, cut=2)])])
    assert joined.x.shape == (2, 8, 3)
    assert joined.steps.tolist() == [2, 3, 4, 5, 6, 7, 8, 11]
    assert (joined.length, joined.ends) == (12, [2, 6, 7])
    assert joined.segments == (Segment(5, 3), Segment(4, 4), Segment(3, 1))
    assert joined.kept(torch.arange(24).view(2, 12), dim=1)[0].tolist() == joined.steps.tolist()
    last = joined.last_steps([0, 1, 2])
    assert (last.x.shape, last.steps.tolist(), last.length) == ((2, 3, 3), [4, 8, 11], 12)


def test_joined_masks_are_those_of_the_parts():
    first, second = (torch.rand(2, T) < 0.5 for T in (5, 4))
    joined = join([ones(5, hidden=first)._replace(padding=first), ones(4, hidden=second)._replace(padding=second)])
    assert torch.equal(joined.hidden, torch.cat([first, second], dim=1))
    assert torch.equal(joined.padding, joined.hidden)
    assert join([ones(5), ones(4)]).hidden is None


def test_first_real_steps():
    padding = torch.tensor([[True, True, False, True], [False, True, True, True], [True, True, True, True]])
    assert first_real_steps(padding).tolist() == [2, 0, 3]


# ---- masks -----------------------------------------------------------------------------------------------------------


def seen_steps(target, source, causal=False):
    """What the mask lets through, (2, T_t, T_s): blind steps see nothing."""
    seen, blind = mask(target, source, causal).dense()
    seen = seen if blind is None else seen & ~blind
    return seen.expand(2, 1, target.x.size(1), source.x.size(1))[:, 0]


def test_the_causal_mask_is_the_original_band():
    assert mask(ones(4), ones(4)) is None
    for T_t, T_s, band in ((4, 4, torch.ones(4, 4).tril()), (3, 5, torch.ones(3, 5).tril(2)),
                           (6, 3, torch.ones(6, 3))):  # the last is nearly vacuous
        assert torch.equal(seen_steps(ones(T_t), ones(T_s), causal=True)[0], band.bool())


def test_what_is_hidden_is_not_seen():
    hidden = torch.tensor([[True, True, False], [True, True, True]])
    assert seen_steps(ones(3), ones(3, hidden=hidden)).tolist() == [[[False, False, True]] * 3, [[False] * 3] * 3]
    causal = seen_steps(ones(3), ones(3, hidden=hidden), causal=True)
    assert causal.tolist() == [[[False] * 3, [False] * 3, [False, False, True]], [[False] * 3] * 3]


@pytest.mark.parametrize("T_t, T_s", [(4, 6), (6, 4), (5, 5)])
@pytest.mark.parametrize("cut_t, cut_s", [(0, 0), (2, 0), (0, 3), (2, 3)])
def test_the_causal_mask_of_what_is_kept_is_that_of_the_whole(T_t, T_s, cut_t, cut_s):
    whole = seen_steps(ones(T_t), ones(T_s), causal=True)
    assert torch.equal(seen_steps(ones(T_t, cut_t), ones(T_s, cut_s), causal=True), whole[:, cut_t:, cut_s:])


@pytest.mark.parametrize("cut", [0, 1])
def test_the_causal_mask_goes_by_pairs_of_segments(cut):
    """s <= t + |T_p - T_q| for each pair, counted here by loops, in uncut steps of a segment."""
    lengths = (4, 2, 5)
    joined = join([ones(T, cut) for T in lengths])
    steps = [(p, t) for p, T in enumerate(lengths) for t in range(cut, T)]
    expected = [[s <= t + abs(lengths[p] - lengths[q]) for q, s in steps] for p, t in steps]
    assert seen_steps(joined, joined, causal=True)[0].tolist() == expected
    single = seen_steps(ones(5, cut), joined, causal=True)[0]
    assert single.tolist() == [[s <= t + abs(5 - lengths[q]) for q, s in steps] for t in range(cut, 5)]
    last = seen_steps(joined.last_steps([2, 0]), joined, causal=True)
    assert last.all()  # the last step of each segment sees everything
    assert last.shape == (2, 2, len(steps))


def test_the_causal_mask_of_one_segment_is_that_of_mult():
    target, source = join([ones(3)]), join([ones(5)])
    assert torch.equal(seen_steps(target, source, causal=True), seen_steps(ones(3), ones(5), causal=True))


# ---- cut batches -----------------------------------------------------------------------------------------------------


def model_of(name, lens, *, output_dim=2, **options):
    """A float64 model whose parameters are all random."""
    torch.manual_seed(0)
    model = build_model(name, input_dims=DIMS, input_lens=lens, output_dim=output_dim, embed_dim=4, num_heads=2,
                        layers=2, mask_padding=True, **options).double()
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


def batch_of(inputs, trimmed, padding=None):
    """The streams of a batch of all samples."""
    padding = tuple(padding or map(padding_mask, inputs))
    split = Split(tuple(inputs), padding, torch.zeros(len(inputs[0]), 1), [])
    return split.batch(range(len(split)), trimmed=trimmed)[0]


def results(model, streams):
    """Prediction, hidden state and every gradient, by name."""
    prediction, hidden = model(*streams)
    (prediction.square().sum() + hidden.sum()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"prediction": prediction.detach(), "hidden": hidden.detach(), **gradients}


def assert_trimming_changes_nothing(name, options, lens, inputs, padding=None):
    whole, trimmed = (
        results(model_of(name, lens, **options), batch_of(inputs, trimmed, padding)) for trimmed in (False, True)
    )
    assert all(value.isfinite().all() for value in trimmed.values())
    torch.testing.assert_close(trimmed, whole, rtol=1e-10, atol=1e-10)


EMPTY = {"none": (), "vision": [(2, 1)], "audio, text": [(1, 0), (0, 2)], "a sample": [(0, 1), (1, 1), (2, 1)],
         "all vision": [(2, 0), (2, 1), (2, 2)], "all": [(m, b) for m in range(3) for b in range(3)]}


@pytest.mark.parametrize("name, options", VARIANTS)
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("lens", [UNALIGNED, ALIGNED], ids=["unaligned", "aligned"])
def test_predictions_and_gradients_are_the_same(name, options, kernel, lens):
    options = {"kernel_sizes": (kernel,) * 3, **options}
    for seed, empty in enumerate(EMPTY.values()):
        assert_trimming_changes_nothing(name, options, lens, front_padded(lens, seed, empty=empty))


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_padding_that_is_given_may_hold_anything(name):
    padding = [torch.arange(T).expand(3, T) < torch.tensor([[T - 1], [T // 2], [T // 2 + 1]]) for T in UNALIGNED]
    assert_trimming_changes_nothing(name, {}, UNALIGNED, real_steps(UNALIGNED), padding)


def test_a_batch_is_cut_to_its_longest_sample():
    first = {"l": [2, 3], "a": [3, 3], "v": [7, 8]}  # the second sample has no vision
    inputs = [torch.ones(2, T, d) * (torch.arange(T)[:, None] >= torch.tensor(first[m])[:, None, None])
              for m, T, d in zip("lav", (5, 5, 8), DIMS, strict=True)]
    for trimmed, cuts in ((True, (2, 3, 7)), (False, (0, 0, 0))):
        streams = batch_of(inputs, trimmed)
        for stream, x, cut in zip(streams, inputs, cuts, strict=True):
            assert torch.equal(stream.x, x[:, cut:])
            assert torch.equal(stream.padding, padding_mask(x)[:, cut:])
            assert stream.steps.tolist() == list(range(cut, x.size(1)))
            assert stream.length == x.size(1)


def test_every_stream_keeps_its_last_step():
    streams = batch_of([torch.zeros(2, T, d) for T, d in zip(UNALIGNED, DIMS, strict=True)], trimmed=True)
    assert [stream.steps.tolist() for stream in streams] == [[T - 1] for T in UNALIGNED]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_steps_are_really_cut(name, monkeypatch):
    def longest_attention(trimmed):
        lengths, computed = [], kernels.attention
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "attention", lambda q, k, *others: (
                lengths.append((q.size(1), k.size(1))), computed(q, k, *others))[1])
            model_of(name, UNALIGNED)(*batch_of(inputs, trimmed))
        return torch.tensor(lengths).amax(dim=0).tolist()

    inputs = [x[:2] for x in real_steps(UNALIGNED)]
    for x in inputs:
        x[0, :-2] = x[1, :-3] = 0
    whole, kept = sum(UNALIGNED), 3 * len(UNALIGNED)
    assert longest_attention(False) == ([whole, 2 * whole] if name == "PMR" else [17, 17])
    assert longest_attention(True) == ([kept, 2 * kept] if name == "PMR" else [3, 3])


def in_float64(split):
    return replace(split, features=tuple(x[:].double() for x in split.features), labels=split.labels.double())


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_training_is_the_same(name, tmp_path):
    """Up to rounding, and with evaluations in other batches: they go by length where padding is trimmed."""
    def losses(trim_padding):
        model = model_of(name, UNALIGNED, output_dim=1)
        state = TrainingState(model, optim="Adam", lr=0.01, when=20, seed=1)
        epochs = fit(state, dataset, num_epochs=3, batch_size=4, clip=0.8, trim_padding=trim_padding)
        return torch.tensor([(epoch.train_loss, epoch.valid.loss, epoch.test.loss) for epoch in epochs])

    write_dataset(tmp_path, "mine", make_splits(lens=UNALIGNED, dims=DIMS), aligned=False)
    dataset = load_dataset(find_spec("mine"), tmp_path)
    dataset = Dataset(dataset.task, {key: in_float64(split) for key, split in dataset.splits.items()}, [])
    torch.testing.assert_close(losses(True), losses(False), rtol=1e-9, atol=1e-9)
