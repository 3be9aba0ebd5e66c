"""Where two models disagree most: predictions sample by sample, means and spreads over seeds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy import ndarray
from scipy.special import softmax

from src.report.tables import COMPARED, stored_predictions
from src.tasks import Classification, EmotionClassification, Task

MOST = 1000  # items of a table; more would make the page heavy
FIRST = 20  # of them, shown without scripts


@dataclass
class Items:
    """What is predicted, item by item: a sample, or a sample and one of its labels. n items, K numbers each."""

    names: list[str]
    truths: list[str]
    labels: list[str]  # what the filter offers
    errors: dict[str, ndarray]  # (n,) by model, of its mean prediction
    means: dict[str, ndarray]  # (n, K)
    texts: dict[str, list[str]]
    left_out: int = 0  # items in which all models agree more closely

    def gap(self, a: str, b: str) -> ndarray:
        """How far two models are apart, (n,): of scores the difference, of classes the probability that moves."""
        apart = np.abs(self.means[a] - self.means[b]).sum(axis=1)
        return apart / (2 if self.means[a].shape[1] > 1 else 1)

    @property
    def pair(self) -> list[str]:
        """The two models that are shown first."""
        return sorted(self.means, key=lambda name: name not in COMPARED)[:2]

    def first(self) -> Iterator[tuple[str, ...]]:
        """The rows that are shown without scripts."""
        a, b = self.pair
        gap = self.gap(a, b)
        for i in np.argsort(-gap, kind="stable")[:FIRST]:
            yield (self.names[i], self.truths[i], self.texts[a][i], self.texts[b][i], f"{gap[i]:.2f}")

    def content(self) -> dict[str, Any]:
        """The same for the page's script, as JSON has it."""
        models = [{"name": name, "texts": self.texts[name], "errors": self.errors[name].round(3).tolist(),
                   "means": self.means[name].round(3).tolist()} for name in self.means]
        return {"names": self.names, "truths": self.truths, "labels": self.labels, "models": models,
                "pair": [list(self.means).index(name) for name in self.pair], "first": FIRST}


def items_of(models: dict[str, list], task: Task) -> Items | None:
    """The items of a group's models that have predictions of the same samples; None where there are fewer than two.

    Left out are models whose predictions are of another shape than the task's.
    """
    stored = {name: found for name, runs in models.items() if (found := stored_predictions(runs))}
    if not stored:
        return None
    _, ids, truths = next(iter(stored.values()))
    predictions = {name: np.stack(own[0]) for name, own in stored.items()
                   if np.array_equal(own[1], ids) and np.array_equal(own[2], truths)
                   and {np.size(of_seed) for of_seed in own[0]} == {len(ids) * task.output_dim}}
    if len(predictions) < 2:
        return None
    names = [str(name) for name in ids]
    if isinstance(task, Classification):
        items = of_classes(names, truths.reshape(-1).astype(int), predictions, task.labels)
    elif isinstance(task, EmotionClassification):
        items = of_emotions(names, truths, predictions, task.labels)
    else:
        items = of_scores(names, truths, predictions, task)
    return most_apart(items)


def of_classes(names: list[str], truths: ndarray, logits: dict[str, ndarray], classes: Sequence[str]) -> Items:
    """An item a sample, with the probability of each class."""
    samples, errors, means, texts = np.arange(len(names)), {}, {}, {}
    for model, of_model in logits.items():
        mean, spread = over_seeds(softmax(of_model.reshape(len(of_model), len(names), -1), axis=2))
        best = mean.argmax(axis=1)
        errors[model], means[model] = 1 - mean[samples, truths], mean
        texts[model] = [f"{classes[k]} {text}" for k, text in zip(
            best, number_texts(mean[samples, best], spread[samples, best]), strict=True)]
    true_names = [classes[k] for k in truths]
    return Items(names, true_names, true_names, errors, means, texts)


def of_emotions(names: list[str], truths: ndarray, logits: dict[str, ndarray], emotions: Sequence[str]) -> Items:
    """An item a sample and emotion, with the probability of "yes"."""
    answers = truths.reshape(len(names), -1).astype(int)  # (N, K)
    chances = {model: softmax(own.reshape(len(own), *answers.shape, 2), axis=3)[..., 1]
               for model, own in logits.items()}
    texts = [f"{emotion}: {('no', 'yes')[answer]}" for row in answers
             for emotion, answer in zip(emotions, row, strict=True)]
    return of_numbers(names, texts, texts, answers, chances)


def of_scores(names: list[str], truths: ndarray, predictions: dict[str, ndarray], task: Task) -> Items:
    """An item a sample and score."""
    answers = truths.reshape(len(names), -1)
    texts = [f"{x:z.2f}" for x in answers.flat]
    if answers.shape[1] > 1 or not task.scale:
        labels = list(task.labels) * len(names)
        texts = [f"{label}: {text}" for label, text in zip(labels, texts, strict=True)]
    else:
        middle = sum(task.scale) / 2
        words = ("", f"above {middle:g}", f"below {middle:g}")  # the last by the index -1
        labels = [words[int(side)] or f"{middle:g}" for side in np.sign(answers[:, 0] - middle)]
    return of_numbers(names, texts, labels, answers, predictions)


def of_numbers(names: list[str], texts: list[str], labels: list[str], truths: ndarray,
               predictions: dict[str, ndarray]) -> Items:
    """Items of one number each, from truths (N, K) and predictions (S, N, K) by model."""
    errors, means, shown = {}, {}, {}
    for model, own in predictions.items():
        mean, spread = (x.reshape(-1) for x in over_seeds(own.reshape(len(own), *truths.shape)))
        errors[model], means[model] = np.abs(mean - truths.reshape(-1)), mean[:, None]
        shown[model] = number_texts(mean, spread)
    repeated = [name for name in names for _ in range(truths.shape[1])]
    return Items(repeated, texts, labels, errors, means, shown)


def over_seeds(values: ndarray) -> tuple[ndarray, ndarray]:
    """The mean of (S, ...) and the standard deviation, nan of one seed."""
    return values.mean(axis=0), values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)


def number_texts(means: ndarray, spreads: ndarray) -> list[str]:
    """Each mean with its spread."""
    return [f"{mean:z.2f}" + ("" if np.isnan(spread) else f" ± {spread:.2f}")
            for mean, spread in zip(means, spreads, strict=True)]


def most_apart(items: Items) -> Items:
    """The MOST items in which some two models are furthest apart, in the order of the samples."""
    if (number := len(items.names)) <= MOST:
        return items
    widest = np.max([items.gap(a, b) for a, b in combinations(items.means, 2)], axis=0)
    kept = np.sort(np.argsort(-widest, kind="stable")[:MOST])
    names, truths, labels = ([own[i] for i in kept] for own in (items.names, items.truths, items.labels))
    return Items(names, truths, labels, {model: own[kept] for model, own in items.errors.items()},
                 {model: own[kept] for model, own in items.means.items()},
                 {model: [own[i] for i in kept] for model, own in items.texts.items()}, number - MOST)
