"""What each disturbance does to a batch, and that it does the same in any batch."""

import pytest
import torch

from src.dataset import Split
from src.robustness.disturbances import DISTURBANCES, Disturbance, disturb, feature_spreads

LENS, DIMS = (5, 9, 12), (3, 2, 4)


@pytest.fixture(scope="module")
def split():
    """400 samples; sample i starts with i % 3 steps of padding in every stream."""
    torch.manual_seed(0)
    features = tuple(torch.randn(400, T, d) * 2 for T, d in zip(LENS, DIMS, strict=True))
    padding = tuple(torch.arange(T) < torch.arange(400)[:, None] % 3 for T in LENS)
    features = tuple(x.masked_fill(p.unsqueeze(-1), 0) for x, p in zip(features, padding, strict=True))
    return Split(features, padding, torch.zeros(400, 1), [str(i) for i in range(400)])


def streams(split, kind, modality, strength, indices=range(400), trimmed=False):
    disturbed = disturb(split, Disturbance(kind, modality, strength), feature_spreads(split))
    return disturbed.batch(indices, trimmed=trimmed)[0]


@pytest.mark.parametrize("disturbance", DISTURBANCES, ids=lambda d: f"{d.curve}-{d.strength}")
def test_a_sample_is_disturbed_alike_in_any_batch_and_padding_is_all_zeros(split, disturbance):
    whole, some = streams(split, *disturbance), streams(split, *disturbance, indices=[7, 300], trimmed=True)
    for all_samples, few in zip(whole, some, strict=True):
        T = few.x.size(1)
        assert torch.equal(all_samples.x[[7, 300], -T:], few.x)
        assert torch.equal(all_samples.padding[[7, 300], -T:], few.padding)
        assert not all_samples.x[all_samples.padding].any()


def test_a_share_of_samples_has_nothing_of_a_stream(split):
    some, more = (streams(split, "missing", "a", share)[1].padding.all(dim=1) for share in (0.3, 0.7))
    assert (some.float().mean().item(), more.float().mean().item()) == pytest.approx((0.3, 0.7), abs=0.07)
    assert (more | ~some).all()  # the larger share contains the smaller
    text = streams(split, "missing", "a", 0.7)[0]
    assert torch.equal(text.x, split.features[0])


def test_a_share_of_steps_is_lost(split):
    for stream, before in zip(streams(split, "frames", "", 0.5), split.padding, strict=True):
        assert (stream.padding & ~before).sum() / (~before).sum() == pytest.approx(0.5, abs=0.05)
        assert (stream.padding | ~before).all()


def test_noise_is_in_standard_deviations_of_each_feature(split):
    for stream, x, padding, spread in zip(streams(split, "noise", "", 0.5), split.features, split.padding,
                                          feature_spreads(split), strict=True):
        assert torch.allclose(spread, x[~padding].std(dim=0), rtol=1e-2)
        assert torch.allclose((stream.x - x)[~padding].std(dim=0), 0.5 * spread, rtol=0.1)


def test_a_shifted_stream_keeps_all_its_steps(split):
    shifted = streams(split, "shift", "v", 2)[2]
    assert torch.equal(shifted.padding, split.padding[2])
    for i in (0, 1, 2):
        before = split.features[2][i]
        assert torch.equal(shifted.x[i, i + 2:], before[i:-2])
        assert torch.equal(shifted.x[i, i:i + 2], before[-2:])
