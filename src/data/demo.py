"""A made-up data set that no single modality can solve: an illustration of asynchrony, and no claim about any model.

Generating process. A speaker says 5 to 8 words, one a text step, front-padded to 8. One of them carries polarity
p = +1 or -1 (each by one of three word vectors), the others are neutral (six vectors). How that word is said comes
later, in the other streams: audio runs at 2 frames a word and is 2 frames late, vision runs at 2 frames a word and is
4 frames late. The audio frames of the word carry its strength s, uniform in [1, 3], along one direction; the vision
frames carry a reversal, r = -1 with probability 0.3 and else r = 1, as one direction that appears only when reversed.
Each neutral word shows such audio and vision cues with probability 0.1, so that a model must look where the polar word
points, across the lag. All features carry Gaussian noise of 0.3. With `aligned` a word has one frame in each stream
and the lags are gone.

    label = clip(p r s + e, -3, 3),  e normal with standard deviation 0.1

Best achievable: a model that knows p, r and s exactly is left with the noise of the label: a mean absolute error of
about 0.08 and every sign right. Text alone tells p but not r: at most 70 % of the signs. Audio or vision alone tells
nothing of the sign.
"""

from collections.abc import Sequence

import numpy as np

SAMPLES = {"train": 1200, "valid": 200, "test": 400}
WORDS, WIDTHS = 8, (16, 6, 8)  # text steps; features of text, audio, vision
P_REVERSED, P_DISTRACTION = 0.3, 0.1
FEATURE_NOISE, LABEL_NOISE = 0.3, 0.1
SEED = 20210619


def make_demo(aligned: bool = False) -> dict[str, dict[str, np.ndarray]]:
    """The demo in the layout of a data file: {split: {"text", "audio", "vision", "labels", "id"}}, always the same."""
    rng = np.random.RandomState(SEED)
    vectors = {
        "words": rng.normal(size=(12, WIDTHS[0])),  # three positive, three negative, six neutral
        "strength": rng.normal(size=WIDTHS[1]),
        "reversal": 2 * rng.normal(size=WIDTHS[2]),
    }
    rates, lags = ((1, 1), (0, 0)) if aligned else ((2, 2), (2, 4))  # frames a word and frames late: audio, vision
    return {split: _make_split(split, samples, vectors, rates, lags, rng) for split, samples in SAMPLES.items()}


def _make_split(split: str, samples: int, vectors: dict[str, np.ndarray], rates: tuple[int, int],
                lags: tuple[int, int], rng: np.random.RandomState) -> dict[str, np.ndarray]:
    text: list[np.ndarray] = []
    audio: list[np.ndarray] = []
    vision: list[np.ndarray] = []
    labels: list[float] = []
    for _ in range(samples):
        n = rng.randint(5, WORDS + 1)
        polar, positive = rng.randint(n), rng.rand() < 0.5
        strength = rng.uniform(1, 3, size=n)
        reversed_ = rng.rand(n) < P_REVERSED
        shown = (rng.rand(n) < P_DISTRACTION) | (np.arange(n) == polar)

        words = rng.randint(6, 12, size=n)
        words[polar] = rng.randint(3) + (0 if positive else 3)
        text.append(_with_noise(vectors["words"][words], WORDS, rng))
        for stream, rate, lag, cues in (
            (audio, rates[0], lags[0], np.outer(shown * strength, vectors["strength"])),
            (vision, rates[1], lags[1], np.outer(shown & reversed_, vectors["reversal"])),
        ):
            late = np.concatenate([np.zeros((lag, cues.shape[1])), cues.repeat(rate, axis=0)])
            stream.append(_with_noise(late, WORDS * rate + lag, rng))
        score = (1 if positive else -1) * (-1 if reversed_[polar] else 1) * strength[polar]
        labels.append(np.clip(score + rng.normal(scale=LABEL_NOISE), -3, 3))
    return {
        "text": np.stack(text),
        "audio": np.stack(audio),
        "vision": np.stack(vision),
        "labels": np.array(labels, dtype=np.float32).reshape(-1, 1, 1),
        "id": np.array([f"demo-{split}-{i}" for i in range(samples)]),
    }


def _with_noise(sequence: np.ndarray, length: int, rng: np.random.RandomState) -> np.ndarray:
    """A (t, d) sequence with feature noise, front-padded with zeros to (length, d)."""
    noisy = sequence + rng.normal(scale=FEATURE_NOISE, size=sequence.shape)
    return np.concatenate([np.zeros((length - len(noisy), noisy.shape[1])), noisy]).astype(np.float32)


def linear_scores(splits: dict[str, dict[str, np.ndarray]]) -> dict[str, tuple[float, float]]:
    """Test MAE and sign accuracy of the train mean, and of ridge regressions on each modality and on all of them.

    A regression sees every feature of every step and their sums over time, its penalty chosen by cross-validation.
    Returns {name: (mae, acc2)}.
    """
    from sklearn.linear_model import RidgeCV  # noqa: PLC0415 - slow to import, and only `python -m src demo` needs it

    def features(split: str, keys: tuple[str, ...]) -> np.ndarray:
        arrays = [splits[split][key] for key in keys]
        return np.concatenate([y for x in arrays for y in (x.reshape(len(x), -1), x.sum(axis=1))], axis=1)

    train, test = (splits[split]["labels"].ravel() for split in ("train", "test"))
    predictions = {"train mean": np.full_like(test, train.mean())}
    for keys in (("text",), ("audio",), ("vision",), ("text", "audio", "vision")):
        ridge = RidgeCV(np.logspace(-2, 5, 15)).fit(features("train", keys), train)
        predictions["linear, " + " + ".join(keys)] = ridge.predict(features("test", keys))
    return {
        name: (float(np.abs(p - test).mean()), float(np.mean((p > 0) == (test > 0)))) for name, p in predictions.items()
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Print `linear_scores` of both alignments; returns the exit code."""
    for aligned in (False, True):
        for name, (mae, acc2) in linear_scores(make_demo(aligned)).items():
            print(f"{'aligned' if aligned else 'unaligned'}, {name}: MAE {mae:.3f}, Acc2 {acc2:.3f}")
    return 0


if __name__ == "__main__":
    import src  # noqa: F401, which names the command to type
