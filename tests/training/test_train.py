"""The engine: what a step computes, what an epoch is chosen by, and what stops a run."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from src import train
from src.dataset import Dataset, Split
from src.errors import UserError
from src.tasks import EmotionClassification, SentimentRegression

SIZES = {"batch_size": 8, "clip": 0.8}


class Linear(nn.Module):
    """The least model of the contract: text's mean through one linear layer."""

    def __init__(self, output_dim=1, dropout=0.0):
        super().__init__()
        self.linear = nn.Linear(3, output_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, text, audio, vision, padding=None):
        hidden = self.dropout(text.mean(dim=1))
        return self.linear(hidden), hidden


def make_split(samples, task=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = tuple(torch.randn(samples, 2, 3, generator=generator) for _ in range(3))
    if isinstance(task, EmotionClassification):
        labels = torch.randint(0, 2, (samples, 4), generator=generator)
    else:
        labels = features[0].mean(dim=1).sum(dim=1, keepdim=True).clamp(-3, 3)
    padding = tuple(torch.zeros(samples, 2, dtype=torch.bool) for _ in range(3))
    return Split(features, padding, labels, [str(i) for i in range(samples)])


def make_dataset(task):
    return Dataset(task, {"train": make_split(21, task), "valid": make_split(6, task, 1),
                          "test": make_split(7, task, 2)}, [])


def one_epoch(batch_chunk, task, **options):
    torch.manual_seed(0)
    model = Linear(task.output_dim)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = train.train_one_epoch(
        model, make_split(21, task), task, optimizer, batch_chunk=batch_chunk,
        generator=torch.Generator().manual_seed(1), **SIZES, **options,
    )
    return loss, torch.cat([p.detach().flatten() for p in model.parameters()])


every_task = pytest.mark.parametrize("task", [SentimentRegression(), EmotionClassification()], ids=["score", "emotion"])


@every_task
@pytest.mark.parametrize("batch_chunk", [2, 3, 5, 100])
def test_batch_chunk_is_the_same_step(batch_chunk, task):
    loss, parameters = one_epoch(1, task)
    chunked_loss, chunked_parameters = one_epoch(batch_chunk, task)
    assert chunked_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(chunked_parameters, parameters, rtol=1e-5, atol=1e-6)


def test_every_sample_is_seen_once_an_epoch():
    sizes = []
    one_epoch(1, SentimentRegression(), on_batch=lambda i, samples, loss: sizes.append((i, samples)))
    assert sizes == [(0, 8), (1, 8), (2, 5)]


@every_task
def test_evaluation_does_not_depend_on_the_batch_size(task):
    model, split = Linear(task.output_dim, dropout=0.5), make_split(13, task)
    whole = train.evaluate(model, split, task, batch_size=13)
    for i in range(13):
        split.padding[0][i, :i % 3] = True
    for batch_size, by_length in ((1, False), (4, False), (100, False), (4, True), (100, True)):
        parts = train.evaluate(model, split, task, batch_size=batch_size, by_length=by_length)
        assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
        torch.testing.assert_close(parts.predictions, whole.predictions)


def fit_options(**options):
    return {"optim": "Adam", "lr": 0.05, "num_epochs": 4, "when": 20, "early_stop": 0, "batch_chunk": 1, "seed": 3,
            **SIZES, **options}


@pytest.fixture
def scripted_losses(monkeypatch):
    """Let `evaluate` return given (valid, test) losses, epoch by epoch."""
    def script(pairs):
        losses = iter([loss for pair in pairs for loss in pair])
        monkeypatch.setattr(train, "evaluate", lambda *a, **k: SimpleNamespace(loss=next(losses)))
    return script


def test_the_epoch_is_chosen_by_validation_and_the_other_kept_apart(scripted_losses):
    scripted_losses([(0.9, 0.5), (0.7, 0.8), (0.8, 0.3), (0.7, 0.4)])
    best = []
    selected, best_on_test = train.fit(
        Linear(), make_dataset(SentimentRegression()), **fit_options(), on_best=best.append
    )
    assert (selected.number, selected.valid.loss, selected.test.loss) == (2, 0.7, 0.8)
    assert best_on_test.number == 3
    assert best == [1, 2]


def test_early_stop_and_falling_learning_rate(scripted_losses):
    scripted_losses([(0.5, 0)] + [(0.6, 0)] * 9)
    rates = []
    train.fit(Linear(), make_dataset(SentimentRegression()), **fit_options(num_epochs=10, early_stop=5, when=2),
              on_epoch=lambda epoch, train_loss, lr, seconds: rates.append(lr))
    assert rates == pytest.approx([0.05] * 4 + [0.005] * 2)  # epochs 2, 3 and 4 were no better; 6 is the last


@every_task
def test_training_learns_and_repeats_itself(task):
    def losses():
        torch.manual_seed(5)
        kept = []
        train.fit(Linear(task.output_dim, dropout=0.2), make_dataset(task), **fit_options(num_epochs=8),
                  on_epoch=lambda epoch, train_loss, *rest: kept.append((train_loss, epoch.valid.loss)))
        return kept
    once = losses()
    assert once == losses()
    assert once[-1][0] < once[0][0]


@pytest.mark.parametrize("split, words", [
    ("train", r"the loss of batch \d is nan .* finite loss was \d.* has the samples .*\b4\b.* try a smaller --lr"),
    ("valid", r"an evaluation has the loss nan, from the samples 4; try a smaller --lr or --clip"),
])
def test_divergence_names_epoch_batch_and_samples_and_is_no_result(split, words):
    dataset = make_dataset(SentimentRegression())
    dataset.splits[split].features[0][4] = float("nan")
    with pytest.raises(UserError, match=f"training diverged in epoch 1: {words}"):
        train.fit(Linear(), dataset, **fit_options(batch_size=4))


def test_a_gradient_that_is_not_finite_ends_training():
    class Explosive(Linear):
        def forward(self, *inputs):
            prediction, hidden = super().forward(*inputs)
            prediction.register_hook(lambda gradient: gradient * float("inf"))
            return prediction, hidden
    with pytest.raises(UserError, match=r"batch 0 is \d.* and its gradient has norm (inf|nan); it is the first"):
        train.fit(Explosive(), make_dataset(SentimentRegression()), **fit_options())


@pytest.mark.parametrize("together", [1, 2, 3])
def test_what_is_looked_at_together_is_told_one_by_one(together, monkeypatch):
    """On a GPU the losses of some batches are looked at together, and the last ones at the end of the epoch."""
    told = []
    monkeypatch.setattr(train, "checked_together", lambda device: together)
    loss, _ = one_epoch(1, SentimentRegression(), on_batch=lambda *batch: told.append(batch))
    assert [(i, samples) for i, samples, _ in told] == [(0, 8), (1, 8), (2, 5)]
    assert sum(samples * each for _, samples, each in told) / 21 == pytest.approx(loss)
