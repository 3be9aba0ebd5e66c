"""The demo is what its docstring says: always the same, solvable with all modalities, far from it with one."""

import hashlib

import numpy as np
import pytest
import torch

from src.data.demo import make_demo, scores
from src.data.oracle import oracle
from src.data.specs import find_spec
from src.data.streams import LABEL_NOISE, Setting, make_streams
from src.dataset import load_dataset
from src.tasks import SentimentRegression

every_alignment = pytest.mark.parametrize("aligned", [False, True], ids=["unaligned", "aligned"])


@every_alignment
def test_same_every_time(aligned):
    once, again = make_demo(aligned), make_demo(aligned)
    for split in once:
        for key in once[split]:
            assert np.array_equal(once[split][key], again[split][key])


@pytest.mark.parametrize("aligned, digest", [(False, "9a9fc38505345a45"), (True, "36a5ab418b74c79b")])
def test_same_bits_as_ever(aligned, digest):
    arrays = [array for split in make_demo(aligned).values() for array in split.values()]
    assert hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest().startswith(digest)


@every_alignment
def test_linear_models_are_far_from_the_best_score(aligned):
    of_model = scores(aligned)
    (best, acc2), (train_mean, _) = of_model.pop("oracle"), of_model.pop("train mean")
    assert 0.12 < best < 0.15
    assert acc2 > 0.99
    assert train_mean > 1.8
    for name, (mae, acc2) in of_model.items():
        assert mae > 0.85 * train_mean, name
        assert acc2 < 0.75, name


def test_alignments_differ_in_the_lag_alone():
    unaligned, aligned = make_demo(False), make_demo(True)
    for split, there in unaligned.items():
        assert np.array_equal(there["labels"], aligned[split]["labels"])
        for key, lag in (("text", 0), ("audio", 2), ("vision", 4)):
            here = aligned[split][key]
            assert there[key].shape[1] == here.shape[1] + lag
            assert np.abs(there[key][:, lag:] - here).max() < 12 * 0.3  # the noise of both


def test_no_other_guess_is_better_than_the_oracle():
    setting = Setting(noise=1e-3, samples=(1, 1, 200))
    split = make_streams(setting)["test"]
    exact = np.abs(oracle(setting, split) - split["labels"].ravel()).mean()
    assert exact == pytest.approx(LABEL_NOISE * (2 / np.pi) ** 0.5, rel=0.15)  # only the label's noise is left
    noisy = Setting(noise=1.5, samples=(1, 1, 400))
    split = make_streams(noisy)["test"]
    best, labels = oracle(noisy, split), split["labels"].ravel()
    error = np.abs(best - labels).mean()
    for other in (0.8 * best, 1.2 * best, best + 0.3, best - 0.3, np.sign(best) * 2):
        assert np.abs(other - labels).mean() > error


def test_shapes_and_padding():
    unaligned, aligned = (load_dataset(find_spec("demo"), aligned=a) for a in (False, True))
    assert (unaligned.input_lens, aligned.input_lens) == ((8, 10, 12), (8, 8, 8))
    assert unaligned.input_dims == aligned.input_dims == (16, 6, 8)
    for padding in unaligned.splits["train"].padding:
        assert torch.equal(padding, padding.cummin(dim=1).values)  # in front only
        assert padding.any()


def test_labels_are_the_product_of_the_cues():
    """Without noise the label could be read off."""
    dataset = load_dataset(find_spec("demo"), aligned=True).splits["test"]
    text, audio, vision = (x.double().numpy() for x in dataset.features)
    vectors = make_vectors()
    distance = np.linalg.norm(text[:, :, None] - vectors["words"][:6], axis=-1)  # to the polar words
    step, word = np.unravel_index(distance.reshape(len(text), -1).argmin(axis=1), distance.shape[1:])
    rows = np.arange(len(text))
    strength = audio[rows, step] @ vectors["strength"] / (vectors["strength"] ** 2).sum()
    is_reversed = vision[rows, step] @ vectors["reversal"] / (vectors["reversal"] ** 2).sum() > 0.5
    prediction = np.where(word < 3, 1, -1) * np.where(is_reversed, -1, 1) * strength
    metrics = SentimentRegression().metrics(prediction, dataset.labels)
    assert metrics["mae"] < 0.25
    assert metrics["acc2"] > 0.98


def make_vectors():
    """The first draws of the demo's generator, in its order."""
    rng = np.random.RandomState(20210619)
    return {"words": rng.normal(size=(12, 16)), "strength": rng.normal(size=6), "reversal": 2 * rng.normal(size=8)}
