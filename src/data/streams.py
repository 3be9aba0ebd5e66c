"""Made-up streams whose best predictor is known: a word points to events that come later in other streams.

A speaker says 5 to 8 words, one a text step, front-padded to 8. One of them carries polarity p = +1 or -1 (each by one
of three word vectors), the others are neutral (six vectors). How that word is said comes `lag` frames later: its audio
frames carry its strength s, uniform in [1, 3], along one direction; its vision frames carry a reversal, r = -1 with
probability 0.3 and else r = 1, as one direction that appears only when reversed. Each neutral word shows such audio and
vision cues with probability 0.1. So a model must look where the polar word points, across the lag. All features carry
Gaussian noise.

    label = clip(p r s + e, -3, 3),  e normal with standard deviation 0.1

Text alone tells p but not r: at most 70 % of the signs. Audio or vision alone tells nothing of the sign.
"""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

WORDS, WIDTHS = 8, (16, 6, 8)  # text steps; features of text, audio, vision
P_REVERSED, P_DISTRACTION = 0.3, 0.1
STRENGTHS, LABELS = (1.0, 3.0), (-3.0, 3.0)  # from, to
LABEL_NOISE = 0.1
NEUTRAL = 6  # the number of the first neutral word; three positive and three negative ones come before it

Splits = dict[str, dict[str, ndarray]]


@dataclass(frozen=True)
class Setting:
    """What the streams differ in; audio before vision."""

    lags: tuple[int, int] = (0, 0)  # frames that a cue is late
    rates: tuple[int, int] = (1, 1)  # frames a word
    noise: float = 0.3  # standard deviation of each feature
    samples: tuple[int, int, int] = (1600, 600, 600)  # train, valid, test
    seed: int = 20210619

    def vectors(self) -> dict[str, ndarray]:
        """The directions of words and cues."""
        rng = np.random.RandomState(self.seed)
        return {"words": rng.normal(size=(12, WIDTHS[0])), "strength": rng.normal(size=WIDTHS[1]),
                "reversal": 2 * rng.normal(size=WIDTHS[2])}


def make_streams(setting: Setting) -> Splits:
    """The streams in the layout of a data file: {split: {"text", "audio", "vision", "labels", "id"}}, always the same.

    Settings of one seed differ in what they say alone: their words, cues and labels are the same.
    """
    content, noise = (np.random.RandomState([setting.seed, part]) for part in (1, 2))
    return {split: _make_split(split, samples, setting, content, noise)
            for split, samples in zip(("train", "valid", "test"), setting.samples, strict=True)}


def _make_split(split: str, samples: int, setting: Setting, rng: np.random.RandomState,
                noise: np.random.RandomState) -> dict[str, ndarray]:
    vectors = setting.vectors()
    streams: dict[str, list[ndarray]] = {"text": [], "audio": [], "vision": []}
    labels: list[float] = []
    for _ in range(samples):
        n = rng.randint(5, WORDS + 1)
        polar, positive = rng.randint(n), rng.rand() < 0.5
        strength = rng.uniform(*STRENGTHS, size=n)
        reversed_ = rng.rand(n) < P_REVERSED
        shown = (rng.rand(n) < P_DISTRACTION) | (np.arange(n) == polar)
        words = rng.randint(NEUTRAL, 2 * NEUTRAL, size=n)
        words[polar] = rng.randint(3) + (0 if positive else 3)
        cues = {"text": vectors["words"][words], "audio": np.outer(shown * strength, vectors["strength"]),
                "vision": np.outer(shown & reversed_, vectors["reversal"])}
        timing = zip((0, *setting.lags), (1, *setting.rates), strict=True)
        for (key, of_words), (lag, rate) in zip(cues.items(), timing, strict=True):
            late = np.concatenate([np.zeros((lag, of_words.shape[1])), of_words.repeat(rate, axis=0)])
            streams[key].append(_with_noise(late, WORDS * rate + lag, setting.noise, noise))
        score = (1 if positive else -1) * (-1 if reversed_[polar] else 1) * strength[polar]
        labels.append(np.clip(score + rng.normal(scale=LABEL_NOISE), *LABELS))
    return {
        **{key: np.stack(stream) for key, stream in streams.items()},
        "labels": np.array(labels, dtype=np.float32).reshape(-1, 1, 1),
        "id": np.array([f"demo-{split}-{i}" for i in range(samples)]),
    }


def _with_noise(sequence: ndarray, length: int, noise: float, rng: np.random.RandomState) -> ndarray:
    """A (t, d) sequence with feature noise, front-padded with zeros to (length, d)."""
    noisy = sequence + rng.normal(scale=noise, size=sequence.shape)
    return np.concatenate([np.zeros((length - len(noisy), noisy.shape[1])), noisy]).astype(np.float32)
