"""The best predictor of the streams of src/data/streams.py, which reads the same noisy features as a model."""

import numpy as np
from numpy import ndarray
from scipy.special import ndtr  # of the normal distribution; scipy.stats takes seconds to import

from src.data.streams import LABEL_NOISE, LABELS, NEUTRAL, P_DISTRACTION, P_REVERSED, STRENGTHS, Setting

GRID = 401  # strengths that are weighed


def oracle(setting: Setting, split: dict[str, ndarray]) -> ndarray:
    """The prediction of each sample of a split, (N,).

    It knows the process, its directions and its timing, and reads nothing but the features. The posterior of the polar
    word, of its reversal and of its strength gives the probability of each label; their median has the least mean
    absolute error.
    """
    vectors = setting.vectors()
    return np.array([_oracle(setting, vectors, *sample) for sample in zip(
        *(split[key].astype(float) for key in ("text", "audio", "vision")), strict=True)])


def _oracle(setting: Setting, vectors: dict[str, ndarray], text: ndarray, audio: ndarray, vision: ndarray) -> float:
    """The median of a sample's label given its streams (T, d)."""
    text = text[(text != 0).any(axis=1)]
    n, variance = len(text), setting.noise**2
    # (n, rate, d): the frames of each word
    heard, viewed = (x[-n * rate:].reshape(n, rate, -1) for x, rate in zip((audio, vision), setting.rates, strict=True))

    def log_likelihood(frames: ndarray, mean: ndarray) -> ndarray:
        """Of frames (..., rate, d) that a direction (..., d) is behind, up to a constant that all words share."""
        return -((frames - mean[..., None, :]) ** 2).sum(axis=(-2, -1)) / (2 * variance)

    of_words = -((text[:, None] - vectors["words"]) ** 2).sum(axis=2) / (2 * variance)  # (n, 12)
    neutral = np.logaddexp.reduce(of_words[:, NEUTRAL:], axis=1) - np.log(NEUTRAL)  # (n,)
    polar = np.stack([np.logaddexp.reduce(of_words[:, p:p + 3], axis=1) for p in (0, 3)], axis=1) - np.log(6)  # (n, 2)
    strengths = np.linspace(*STRENGTHS, GRID)
    of_strength = log_likelihood(heard[:, None], strengths[:, None] * vectors["strength"])  # (n, GRID)
    of_reversal = np.stack([log_likelihood(viewed, r * vectors["reversal"]) for r in (0, 1)], axis=1)  # (n, 2): +1, -1
    of_reversal += np.log([1 - P_REVERSED, P_REVERSED])

    # a word that is not polar shows its cues with a probability, else nothing
    silent = log_likelihood(heard, 0 * vectors["strength"]) + log_likelihood(viewed, 0 * vectors["reversal"])
    cued = np.logaddexp.reduce(of_strength, axis=1) - np.log(GRID) + np.logaddexp.reduce(of_reversal, axis=1)
    rest = neutral + np.logaddexp(np.log(P_DISTRACTION) + cued, np.log(1 - P_DISTRACTION) + silent)  # (n,)

    # (n, p, r, s): word n is polar, with polarity p, reversal r and strength s
    joint = (polar[:, :, None, None] + of_reversal[:, None, :, None] + of_strength[:, None, None] - np.log(GRID)
             - rest[:, None, None, None])
    weights = np.exp(joint - joint.max()).sum(axis=0)  # (p, r, s)
    signs = np.array([[1, -1], [-1, 1]])[:, :, None]
    return _median((signs * strengths).ravel(), weights.ravel() / weights.sum())


def _median(centres: ndarray, weights: ndarray) -> float:
    """The median of a mixture of normals of the label's noise, clipped to the range of labels; by bisection."""
    low, high = LABELS
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if weights @ ndtr((middle - centres) / LABEL_NOISE) < 0.5 else (low, middle)
    return (low + high) / 2
