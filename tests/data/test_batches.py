"""Which samples meet in a batch."""

import pytest
import torch

from src.dataset import WINDOW, Split, evaluation_batches, training_batches

BATCH_SIZE, SAMPLES = 4, 150


def make_split(lengths):
    """Samples with so many real steps of text and audio at their end, one more of vision."""
    padding = tuple(torch.arange(T) < T - lengths[:, None] - more for T, more in ((40, 0), (50, 0), (60, 1)))
    return Split(tuple(~mask.unsqueeze(2) * 1.0 for mask in padding), padding, lengths, [])


@pytest.fixture
def split():
    return make_split(torch.randint(1, 40, (SAMPLES,), generator=torch.Generator().manual_seed(0)))


def draw(split, by_length, seed=3):
    return training_batches(split, BATCH_SIZE, torch.Generator().manual_seed(seed), by_length)


def spread(split, batches):
    """The mean over batches of the difference between the longest and the shortest sample."""
    return torch.stack([split.labels[batch].max() - split.labels[batch].min() for batch in batches]).float().mean()


def test_sample_lengths():
    split = make_split(torch.tensor([3, 0, 5]))
    split.padding[0][2] = True  # a stream without a real step keeps its last one
    assert split.sample_lengths.tolist() == [3 + 3 + 4, 1 + 1 + 1, 1 + 5 + 6]


@pytest.mark.parametrize("by_length", [False, True])
def test_an_epoch_takes_every_sample_once_in_an_order_of_its_own(split, by_length):
    batches = draw(split, by_length)
    assert sorted(map(len, batches), reverse=True) == [BATCH_SIZE] * (SAMPLES // BATCH_SIZE) + [SAMPLES % BATCH_SIZE]
    assert torch.equal(torch.cat(list(batches)).sort().values, torch.arange(SAMPLES))
    assert all(torch.equal(a, b) for a, b in zip(batches, draw(split, by_length), strict=True))
    of_first = [set(next(batch for batch in draw(split, by_length, seed) if 0 in batch).tolist()) for seed in range(9)]
    assert len(set(map(frozenset, of_first))) > 5  # it meets others in another epoch


def test_batches_by_length_are_of_like_length_and_come_in_random_order(split):
    batches = draw(split, by_length=True)
    assert spread(split, batches) < spread(split, draw(split, by_length=False)) / 4
    first = split.labels[torch.stack([batch[0] for batch in batches])]
    ascents = (first.diff() > 0).float().mean()
    assert 0.3 < ascents < 0.7


def test_samples_are_sorted_within_windows_of_the_random_order(split):
    windows = [set(window.tolist()) for window in torch.cat(draw(split, by_length=False)).split(WINDOW * BATCH_SIZE)]
    assert len(windows) > 2
    for batch in draw(split, by_length=True):
        assert any(window.issuperset(batch.tolist()) for window in windows)


@pytest.mark.parametrize("by_length", [False, True])
def test_evaluation_batches(split, by_length):
    order = torch.cat(evaluation_batches(split, BATCH_SIZE, by_length))
    assert torch.equal(order.sort().values, torch.arange(SAMPLES))
    by = split.sample_lengths[order] if by_length else order
    assert (by.diff() >= 0).all()
