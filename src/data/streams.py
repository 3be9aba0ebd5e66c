"""Made-up streams whose best predictor is known: a word points to events that come later in other streams.

A speaker says 5 to 8 words, one a text step, front-padded to 8. One of them carries polarity p = +1 or -1 (each by one
of three word vectors), the others are neutral (six vectors). How that word is said comes `lag` frames later: its audio
frames carry its strength s, uniform in [1, 3], along one direction; its vision frames carry a reversal, r = -1 with
probability 0.3 and else r = 1, as one direction that appears only when reversed. Each neutral word shows such audio and
vision cues with probability 0.1. So a model must look where the polar word points, across the lag. All features carry
Gaussian noise.

    label = clip(p r s + e, -3, 3),  e normal with standard deviation 0.1

Text alone tells p but not r: at most 70 % of the signs. Audio or vision alone tells nothing of the sign.

With two hops, the polar word's audio cue also carries one of three keys, and so does each other audio cue. Vision shows
three events, one of each key, at words drawn at random, each reversed or not. The event with the key of the polar
word's audio cue gives r. So text selects an audio event, and that selects a vision event.

Drawn lags differ by sample: its share of the lags is drawn, in frames of the larger one. A missing stream is padding
alone. What these controls draw changes nothing else.
"""

from dataclasses import dataclass

import numpy as np
from numpy import ndarray

WORDS, WIDTHS = 8, (16, 6, 8)  # text steps; features of text, audio, vision
P_REVERSED, P_DISTRACTION = 0.3, 0.1
STRENGTHS, LABELS = (1.0, 3.0), (-3.0, 3.0)  # from, to
LABEL_NOISE = 0.1
KEYS = 3  # of two hops
NEUTRAL = 6  # the number of the first neutral word; three positive and three negative ones come before it

Splits = dict[str, dict[str, ndarray]]


@dataclass(frozen=True)
class Setting:
    """What the streams differ in; audio before vision."""

    lags: tuple[int, int] = (0, 0)  # frames that a cue is late
    drawn: bool = False  # whether these are the largest lags, and each sample has its own
    rates: tuple[int, int] = (1, 1)  # frames a word
    noise: float = 0.3  # standard deviation of each feature
    missing: float = 0.0  # share of samples that lack a stream, each of the three as often
    hops: int = 1  # or 2
    samples: tuple[int, int, int] = (1600, 600, 600)  # train, valid, test
    seed: int = 20210619

    def vectors(self) -> dict[str, ndarray]:
        """The directions of words and cues."""
        rng = np.random.RandomState(self.seed)
        return {"words": rng.normal(size=(12, WIDTHS[0])), "strength": rng.normal(size=WIDTHS[1]),
                "reversal": 2 * rng.normal(size=WIDTHS[2]), "audio keys": 2 * rng.normal(size=(KEYS, WIDTHS[1])),
                "vision keys": 2 * rng.normal(size=(KEYS, WIDTHS[2]))}

    def delays(self) -> list[tuple[int, int]]:
        """The lags that a sample may have, each as often."""
        most = max(self.lags)
        if not (self.drawn and most):
            return [self.lags]
        return [(self.lags[0] * step // most, self.lags[1] * step // most) for step in range(most + 1)]


def make_streams(setting: Setting) -> Splits:
    """The streams in the layout of a data file: {split: {"text", "audio", "vision", "labels", "id"}}, always the same.

    Settings of one seed differ in what they say alone: their words, cues and labels are the same.
    """
    draws = [np.random.RandomState([setting.seed, part]) for part in (1, 2, 3)]
    return {split: _make_split(split, samples, setting, *draws)
            for split, samples in zip(("train", "valid", "test"), setting.samples, strict=True)}


def _make_split(split: str, samples: int, setting: Setting, rng: np.random.RandomState,
                noise: np.random.RandomState, controls: np.random.RandomState) -> dict[str, ndarray]:
    vectors, delays = setting.vectors(), setting.delays()
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
        turned = reversed_[polar]
        keys, places = controls.randint(KEYS, size=n), controls.permutation(n)[:KEYS]
        if setting.hops > 1:
            cues["audio"] += shown[:, None] * vectors["audio keys"][keys]
            cues["vision"] = np.zeros((n, WIDTHS[2]))
            cues["vision"][places] = vectors["vision keys"] + np.outer(reversed_[:KEYS], vectors["reversal"])
            turned = reversed_[keys[polar]]
        delay, lost, loses = delays[controls.randint(len(delays))], controls.randint(3), controls.rand()
        timing = zip((0, *delay), (0, *setting.lags), (1, *setting.rates), strict=True)
        for (key, of_words), (late, most, rate) in zip(cues.items(), timing, strict=True):
            frames = np.pad(of_words.repeat(rate, axis=0), ((late, most - late), (0, 0)))
            noisy = frames + noise.normal(scale=setting.noise, size=frames.shape)
            in_front = WORDS * rate + most - len(noisy)
            streams[key].append(np.pad(noisy, ((in_front, 0), (0, 0))).astype(np.float32))
        if loses < setting.missing:
            streams[list(cues)[lost]][-1][:] = 0
        score = (1 if positive else -1) * (-1 if turned else 1) * strength[polar]
        labels.append(np.clip(score + rng.normal(scale=LABEL_NOISE), *LABELS))
    return {
        **{key: np.stack(stream) for key, stream in streams.items()},
        "labels": np.array(labels, dtype=np.float32).reshape(-1, 1, 1),
        "id": np.array([f"demo-{split}-{i}" for i in range(samples)]),
    }
