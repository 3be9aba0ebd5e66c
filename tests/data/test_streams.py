"""The controls of the made-up streams: each changes what it says alone, and the oracle knows all of them."""

from dataclasses import replace

import numpy as np
import pytest

from src.data.oracle import oracle
from src.data.streams import KEYS, LABEL_NOISE, Setting, make_streams

BEST = LABEL_NOISE * (2 / np.pi) ** 0.5  # only the label's noise is left
CLEAR = Setting(noise=1e-3, samples=(1, 1, 100))
CONTROLS = {
    "drawn lags": {"lags": (2, 4), "drawn": True}, "rates": {"rates": (2, 3)}, "two hops": {"hops": 2},
    "two hops, drawn lags": {"hops": 2, "lags": (1, 2), "drawn": True},
    "two hops, rates": {"hops": 2, "rates": (2, 3), "lags": (1, 1)},
}
every_control = pytest.mark.parametrize("controls", CONTROLS.values(), ids=CONTROLS)


def split_of(setting):
    return make_streams(setting)["test"]


def error_of(setting):
    """The mean absolute error of the oracle."""
    split = split_of(setting)
    return np.abs(oracle(setting, split) - split["labels"].ravel()).mean()


@every_control
def test_without_noise_the_oracle_is_left_with_that_of_the_label(controls):
    """Of drawn lags more is left: where neighbouring words show cues, nothing tells which are whose."""
    assert BEST * 0.8 < error_of(replace(CLEAR, **controls)) < BEST * (3 if "drawn" in controls else 1.2)


@every_control
def test_no_other_guess_is_better_than_the_oracle(controls):
    noisy = Setting(noise=1.2, samples=(1, 1, 200), missing=0.2, **controls)
    split = split_of(noisy)
    best, labels = oracle(noisy, split), split["labels"].ravel()
    for other in (0.8 * best, 1.2 * best, best + 0.3, best - 0.3, np.sign(best) * 2):
        assert np.abs(other - labels).mean() > np.abs(best - labels).mean()


def test_drawn_lags_differ_by_sample_and_leave_the_words_alone():
    fixed, drawn = (split_of(replace(CLEAR, lags=(2, 4), drawn=d)) for d in (False, True))
    assert np.array_equal(fixed["labels"], drawn["labels"])
    assert np.array_equal(fixed["text"], drawn["text"])
    assert fixed["vision"].shape == drawn["vision"].shape
    shown = np.abs(drawn["audio"]).max(axis=2) > 0.1
    late = [np.abs(a).max(axis=1).argmax() - np.abs(b).max(axis=1).argmax()
            for a, b, cues in zip(fixed["audio"], drawn["audio"], shown, strict=True) if cues.sum() == 1]
    assert set(late) == {0, 1, 2}  # frames earlier than the largest lag


def test_missing_streams_are_padding_in_a_share_of_samples():
    whole, lacking = (make_streams(Setting(samples=(400, 1, 1), missing=m))["train"] for m in (0.0, 0.3))
    lost = np.array([~lacking[key].any(axis=(1, 2)) for key in ("text", "audio", "vision")])
    assert lost.sum(axis=0).max() == 1
    assert lost.any(axis=0).mean() == pytest.approx(0.3, abs=0.07)
    assert (lost.sum(axis=1) > 20).all()
    assert np.array_equal(whole["labels"], lacking["labels"])
    for key, of_stream in zip(("text", "audio", "vision"), lost, strict=True):
        assert np.array_equal(whole[key][~of_stream], lacking[key][~of_stream])


def test_two_hops_cannot_be_solved_by_the_place_of_the_word():
    """Vision shows an event of each key, wherever the polar word is, and the audio's key alone tells which."""
    split = split_of(replace(CLEAR, hops=2))
    assert ((np.abs(split["vision"]).max(axis=2) > 0.1).sum(axis=1) == KEYS).all()
    one_hop = oracle(replace(CLEAR, noise=0.3), split)
    assert np.abs(one_hop - split["labels"].ravel()).mean() > 5 * BEST
