"""The best predictor of the streams of src/data/streams.py, which reads the same noisy features as a model."""

from collections.abc import Callable
from functools import partial
from itertools import permutations

import numpy as np
from numpy import ndarray
from scipy.special import logsumexp, ndtr  # of the normal distribution; scipy.stats takes seconds to import

from src.data.streams import KEYS, LABEL_NOISE, LABELS, NEUTRAL, P_DISTRACTION, P_REVERSED, STRENGTHS, Setting

GRID = 401  # strengths that are weighed
STRENGTH_GRID = np.linspace(*STRENGTHS, GRID)
REVERSALS = np.log([1 - P_REVERSED, P_REVERSED])  # +1, -1


def oracle(setting: Setting, split: dict[str, ndarray]) -> ndarray:
    """The prediction of each sample of a split, (N,).

    It knows the process, its directions and its timing, but for lags that are drawn, and reads nothing but the
    features. The posterior of the lags, of the polar word, of its reversal and of its strength gives the probability
    of each label; their median has the least mean absolute error.
    """
    vectors = setting.vectors()
    return np.array([_oracle(setting, vectors, *sample) for sample in zip(
        *(split[key].astype(float) for key in ("text", "audio", "vision")), strict=True)])


def _oracle(setting: Setting, vectors: dict[str, ndarray], *streams: ndarray) -> float:
    """The median of a sample's label given its streams (T, d)."""
    lengths = [int((stream != 0).any(axis=1).sum()) for stream in streams]  # 0 of a missing one
    rates, lags = (1, *setting.rates), (0, *setting.lags)
    n = next((length - lag) // rate for length, lag, rate in zip(lengths, lags, rates, strict=True) if length)

    def words(stream: int, lag: int) -> ndarray:
        """The frames of each word, (n, rate, d)."""
        rate, first = rates[stream], len(streams[stream]) - lengths[stream] + lag
        return streams[stream][first:first + n * rate].reshape(n, rate, -1)

    def log_ratio(stream: int, lag: int, means: ndarray) -> ndarray:
        """Of each word's likelihood with means (..., d) to that with 0: (n, ...). Without a stream, all are alike."""
        if not lengths[stream]:
            return np.zeros((n, *means.shape[:-1]))
        frames = words(stream, lag)
        products = np.tensordot(frames.sum(axis=1), means, axes=(1, -1))
        return (products - frames.shape[1] * (means**2).sum(axis=-1) / 2) / setting.noise**2

    of_words = log_ratio(0, 0, vectors["words"])  # (n, 12)
    neutral = logsumexp(of_words[:, NEUTRAL:], axis=1) - np.log(NEUTRAL)  # (n,)
    polar = logsumexp(of_words[:, :6].reshape(n, 2, 3), axis=2) - np.log(6)  # (n, 2)
    of_cues = _one_hop if setting.hops == 1 else _two_hops
    joint = []
    for audio_lag, vision_lag in setting.delays():
        cue, distraction = of_cues(partial(log_ratio, 1, audio_lag), partial(log_ratio, 2, vision_lag), vectors)
        rest = neutral + np.logaddexp(np.log(P_DISTRACTION) + distraction, np.log(1 - P_DISTRACTION))  # (n,)
        # (n, p, r, s): word n is polar, with polarity p, reversal r and strength s
        joint.append(polar[:, :, None, None] + cue[:, None] + (rest.sum() - rest)[:, None, None, None])
    weights = np.exp(np.array(joint) - np.max(joint)).sum(axis=(0, 1))  # (p, r, s)
    signs = np.array([[1, -1], [-1, 1]])[:, :, None]
    return _median((signs * STRENGTH_GRID).ravel(), weights.ravel() / weights.sum())


LogRatio = Callable[[ndarray], ndarray]  # of the means of a stream, (..., d), for each word: (n, ...)


def _one_hop(heard: LogRatio, viewed: LogRatio, vectors: dict[str, ndarray]) -> tuple[ndarray, ndarray]:
    """The log likelihood of the cues of the polar word, (n, r, s), and of another word that shows some, (n,)."""
    of_strength = heard(np.outer(STRENGTH_GRID, vectors["strength"])) - np.log(GRID)
    of_reversal = viewed(np.outer([0, 1], vectors["reversal"])) + REVERSALS
    cue = of_reversal[:, :, None] + of_strength[:, None]
    return cue, logsumexp(cue, axis=(1, 2))


def _two_hops(heard: LogRatio, viewed: LogRatio, vectors: dict[str, ndarray]) -> tuple[ndarray, ndarray]:
    """The same with keys between; the events of vision may be at any words."""
    means = vectors["audio keys"][:, None] + np.outer(STRENGTH_GRID, vectors["strength"])
    of_strength = heard(means) - np.log(GRID * KEYS)  # (n, key, s)
    of_event = viewed(vectors["vision keys"][:, None] + np.outer([0, 1], vectors["reversal"])) + REVERSALS
    places, keys = np.array(list(permutations(range(len(of_event)), KEYS))), np.arange(KEYS)  # (P, key)
    of_places = logsumexp(of_event, axis=2)[places, keys]
    others = of_places.sum(axis=1, keepdims=True) - of_places
    of_reversal = logsumexp(others[:, :, None] + of_event[places, keys], axis=0)  # (key, r)
    cue = logsumexp(of_strength[:, :, None] + of_reversal[:, :, None], axis=1)
    return cue, logsumexp(of_strength, axis=(1, 2))


def _median(centres: ndarray, weights: ndarray) -> float:
    """The median of a mixture of normals of the label's noise, clipped to the range of labels; by bisection."""
    low, high = LABELS
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if weights @ ndtr((middle - centres) / LABEL_NOISE) < 0.5 else (low, middle)
    return (low + high) / 2
