"""The built-in demo: made-up streams that no single modality can solve, an illustration of asynchrony and no claim.

src/data/streams.py says how they are made. Unaligned, audio is 2 frames late and vision 4; aligned, neither is. Nothing
else differs. `python -m src demo` prints the best achievable error, by an oracle that reads the noisy features, and how
far linear models get.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from src.data.streams import Setting, Splits, make_streams
from src.errors import Parser, command

ALIGNED, UNALIGNED = Setting(), Setting(lags=(2, 4))


def make_demo(aligned: bool = False, setting: Setting = UNALIGNED) -> Splits:
    """The demo, or another unaligned setting, in the layout of a data file, always the same."""
    return make_streams(replace(setting, lags=ALIGNED.lags, rates=ALIGNED.rates) if aligned else setting)


def scores(aligned: bool) -> dict[str, tuple[float, float]]:
    """Test MAE and sign accuracy of the oracle, the train mean, and ridge regressions on each modality and on all.

    A regression sees every feature of every step and their sums over time, its penalty chosen by cross-validation.
    Returns {name: (mae, acc2)}.
    """
    from sklearn.linear_model import RidgeCV  # noqa: PLC0415 - slow to import, and only `python -m src demo` needs both

    from src.data.oracle import oracle  # noqa: PLC0415

    splits = make_demo(aligned)

    def features(split: str, keys: tuple[str, ...]) -> np.ndarray:
        arrays = [splits[split][key] for key in keys]
        return np.concatenate([y for x in arrays for y in (x.reshape(len(x), -1), x.sum(axis=1))], axis=1)

    train, test = (splits[split]["labels"].ravel() for split in ("train", "test"))
    predictions = {"oracle": oracle(ALIGNED if aligned else UNALIGNED, splits["test"]),
                   "train mean": np.full_like(test, train.mean())}
    for keys in (("text",), ("audio",), ("vision",), ("text", "audio", "vision")):
        ridge = RidgeCV(np.logspace(-2, 5, 15)).fit(features("train", keys), train)
        predictions["linear, " + " + ".join(keys)] = ridge.predict(features("test", keys))
    return {
        name: (float(np.abs(p - test).mean()), float(np.mean((p > 0) == (test > 0)))) for name, p in predictions.items()
    }


@command
def main(argv: Sequence[str] | None) -> None:
    """Print `scores` of both alignments."""
    Parser(prog="python -m src demo", description=__doc__).parse_args(argv)
    for aligned in (False, True):
        for name, (mae, acc2) in scores(aligned).items():
            print(f"{'aligned' if aligned else 'unaligned'}, {name}: MAE {mae:.3f}, Acc2 {acc2:.3f}")
