"""The engine: what a step computes, what an epoch is chosen by, and what stops a run."""

import copy
import signal
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from src import train
from src.dataset import Dataset, Split
from src.errors import UserError
from src.tasks import EmotionClassification, SentimentRegression
from src.training.machine import choose_arithmetic, torch_as_found
from src.training.state import TrainingState, add_gradients, as_one_vector
from src.training.stop import StopRequested

SIZES = {"batch_size": 8, "clip": 0.8}


class Linear(nn.Module):
    """The least model of the contract: text's mean through one linear layer."""

    def __init__(self, output_dim=1, dropout=0.0):
        super().__init__()
        self.linear = nn.Linear(3, output_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, text, audio, vision):
        hidden = self.dropout(text.x.sum(dim=1) / text.length)
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


def state_of(model, **options):
    return TrainingState(model, **{"optim": "Adam", "lr": 0.05, "when": 20, "seed": 3, **options})


def one_epoch(batch_chunk, task):
    """The Steps, the mean loss and the parameters of an epoch of plain gradient descent."""
    torch.manual_seed(0)
    state, split = state_of(Linear(task.output_dim), optim="SGD", lr=0.1, seed=1), make_split(21, task)
    steps = list(train.train_one_epoch(state, split, task, batch_chunk=batch_chunk, **SIZES))
    return steps, state.part.loss_sum / len(split), state.trained[0].detach().clone()


every_task = pytest.mark.parametrize("task", [SentimentRegression(), EmotionClassification()], ids=["score", "emotion"])


@every_task
@pytest.mark.parametrize("batch_chunk", [2, 3, 5, 100])
def test_batch_chunk_is_the_same_step(batch_chunk, task):
    _, loss, parameters = one_epoch(1, task)
    _, chunked_loss, chunked_parameters = one_epoch(batch_chunk, task)
    assert chunked_loss == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(chunked_parameters, parameters, rtol=1e-5, atol=1e-6)


def test_every_sample_is_seen_once_an_epoch():
    steps, _, _ = one_epoch(1, SentimentRegression())
    assert [(step.epoch, step.number, step.samples) for step in steps] == [(1, 0, 8), (1, 1, 8), (1, 2, 5)]


@every_task
def test_evaluation_does_not_depend_on_the_batch_size(task):
    model, split = Linear(task.output_dim, dropout=0.5), make_split(13, task)
    for i in range(13):
        split.padding[0][i, :i % 3], split.features[0][i, :i % 3] = True, 0
    whole = train.evaluate(model, split, task, batch_size=13)
    for batch_size, by_length in ((1, False), (4, False), (100, False), (4, True), (100, True)):
        parts = train.evaluate(model, split, task, batch_size=batch_size, by_length=by_length)
        assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
        torch.testing.assert_close(parts.predictions, whole.predictions)


def fit(model, dataset, when=20, **options):
    """The state after a whole training, and its epochs."""
    state = state_of(model, when=when)
    return state, list(train.fit(state, dataset, **{"num_epochs": 4, **SIZES, **options}))


@pytest.fixture
def scripted_losses(monkeypatch):
    """Let `evaluate` return given (valid, test) losses, epoch by epoch."""
    def script(pairs):
        losses = iter([loss for pair in pairs for loss in pair])
        monkeypatch.setattr(train, "evaluate", lambda *a, **k: SimpleNamespace(loss=next(losses)))
    return script


def test_the_epoch_is_chosen_by_validation_and_the_other_kept_apart(scripted_losses):
    scripted_losses([(0.9, 0.5), (0.7, 0.8), (0.8, 0.3), (0.7, 0.4)])
    state = state_of(Linear())
    best = [epoch.number for epoch in train.fit(state, make_dataset(SentimentRegression()), num_epochs=4, **SIZES)
            if state.is_best]
    selected = state.selected
    assert (selected.number, selected.valid.loss, selected.test.loss) == (2, 0.7, 0.8)
    assert state.best_on_test.number == 3
    assert best == [1, 2]


def test_early_stop_and_falling_learning_rate(scripted_losses):
    scripted_losses([(0.5, 0)] + [(0.6, 0)] * 9)
    _, epochs = fit(Linear(), make_dataset(SentimentRegression()), num_epochs=10, early_stop=5, when=2)
    rates = [epoch.lr for epoch in epochs]
    assert rates == pytest.approx([0.05] * 4 + [0.005] * 2)  # epochs 2, 3 and 4 were no better; 6 is the last


@every_task
def test_training_learns_and_repeats_itself(task):
    def losses():
        torch.manual_seed(5)
        _, epochs = fit(Linear(task.output_dim, dropout=0.2), make_dataset(task), num_epochs=8)
        return [(epoch.train_loss, epoch.valid.loss) for epoch in epochs]
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
        fit(Linear(), dataset, batch_size=4)


def test_a_gradient_that_is_not_finite_ends_training():
    class Explosive(Linear):
        def forward(self, *inputs):
            prediction, hidden = super().forward(*inputs)
            prediction.register_hook(lambda gradient: gradient * float("inf"))
            return prediction, hidden
    with pytest.raises(UserError, match=r"batch 0 is \d.* and its gradient has norm (inf|nan); it is the first"):
        fit(Explosive(), make_dataset(SentimentRegression()))


def test_a_search_may_leave_the_loop():
    """What is left out of a training that was left early is not made up later."""
    state = state_of(Linear())
    for epoch in train.fit(state, make_dataset(SentimentRegression()), num_epochs=4, **SIZES):
        if epoch.number == 2:
            break
    assert state.epochs == 2


def test_a_step_may_stop_training_and_the_state_resumes():
    """In the middle of an epoch; the resumed training is the uninterrupted one to the last bit."""
    def stop(step):
        if (step.epoch, step.number) == (2, 1):
            raise StopRequested(signal.SIGTERM)
    dataset, task = make_dataset(SentimentRegression()), SentimentRegression()
    torch.manual_seed(0)
    _, whole = fit(Linear(task.output_dim, dropout=0.2), dataset)
    torch.manual_seed(0)
    state = state_of(Linear(task.output_dim, dropout=0.2))
    with pytest.raises(StopRequested):
        list(train.fit(state, dataset, num_epochs=4, after_step=stop, **SIZES))
    saved = copy.deepcopy(state.saved())
    assert (saved["epochs"], saved["part"]["batches"]) == (1, 2)
    resumed = state_of(Linear(task.output_dim, dropout=0.2))
    resumed.load(saved)
    rest = list(train.fit(resumed, dataset, num_epochs=4, **SIZES))
    assert [(e.number, e.train_loss, e.valid.loss) for e in rest] == [
        (e.number, e.train_loss, e.valid.loss) for e in whole[1:]]


@pytest.mark.parametrize("together", [1, 2, 3])
def test_steps_that_are_checked_together_come_one_by_one(together, monkeypatch):
    """On a GPU the losses of some steps are checked together, and the last ones at the end of the epoch."""
    monkeypatch.setattr(train, "checked_together", lambda device: together)
    steps, loss, _ = one_epoch(1, SentimentRegression())
    assert [(step.number, step.samples) for step in steps] == [(0, 8), (1, 8), (2, 5)]
    assert sum(step.samples * step.loss for step in steps) / 21 == pytest.approx(loss)


def test_gradients_are_added_as_backward_adds_them():
    model, x = nn.ModuleList([nn.Linear(3, 1), nn.Linear(3, 1)]), torch.ones(2, 3)  # the second takes no part
    as_one_vector(model)
    for p in model.parameters():
        p.grad.fill_(1)
    add_gradients(2 * model[0](x).sum(), model)
    assert [p.grad.flatten().tolist() for p in model.parameters()] == [[5.0] * 3, [5.0], [1.0] * 3, [1.0]]


@pytest.mark.parametrize("precision", ["float32", "tf32"])
def test_float32_is_not_tf32_in_convolutions_and_lstms(precision):
    """torch allows it there by default; a GPU showed it, where an LSTM's run was not reproduced on a CPU."""
    with torch_as_found():
        choose_arithmetic(False, precision)
        assert torch.backends.cudnn.allow_tf32 == (precision == "tf32")
        before = torch.backends.cudnn.allow_tf32
        with torch_as_found():
            choose_arithmetic(False, "float32")
        assert torch.backends.cudnn.allow_tf32 == before
