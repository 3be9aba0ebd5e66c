"""A linear model of statistics of the streams: the bar that a sequence model has to pass.

Ridge regression (scores) or logistic regression (classes) on the mean, the standard deviation and the log length of
each stream, over its real steps. It is fitted at once by scikit-learn, with the strength that has the lowest validation
loss. It is kept as a linear layer on standardised statistics, so a checkpoint holds it like any other model. Nothing is
random in it: one run is enough.
"""

from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from modules.sequence import Sequence, padding_mask

STRENGTHS = 10.0 ** np.arange(-3, 6)  # of the penalty; our choice
MOST_ITERATIONS = 1000


class Linear(nn.Module):
    """A linear layer on 2 d_m + 1 standardised statistics of each stream. `solve` fits it."""

    mean: Tensor  # of the statistics of the training samples, (F,)
    scale: Tensor  # their standard deviation, 1 where there is none
    varies_by_seed = False
    defaults = {"num_epochs": 1}  # noqa: RUF012, it is fitted in one

    def __init__(self, *, input_dims: tuple, input_lens: tuple, output_dim: int) -> None:
        super().__init__()
        width = sum(2 * d + 1 for d in input_dims)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.out_layer = nn.Linear(width, output_dim)

    def forward(self, text: Sequence | Tensor, audio: Sequence | Tensor,
                vision: Sequence | Tensor) -> tuple[Tensor, Tensor]:
        """Sequences of features, or (B, T_m, d_m) each -> prediction (B, output_dim), scaled statistics (B, F)."""
        statistics = torch.cat([statistics_of(stream) for stream in (text, audio, vision)], dim=1)  # (B, F)
        hidden = (statistics.to(self.mean) - self.mean) / self.scale
        return self.out_layer(hidden), hidden

    @torch.no_grad()
    def solve(self, train: Any, valid: Any, task: Any, batch_size: int) -> None:
        """Fit the layer to the Split `train`, with the strength that has the lowest loss of the Task on `valid`."""
        self.mean.zero_()
        self.scale.fill_(1)
        statistics = self._statistics(train, batch_size)
        self.mean.copy_(statistics.mean(dim=0))
        deviation = statistics.std(dim=0, correction=0)
        self.scale.copy_(torch.where(deviation > 1e-6 * self.mean.abs().clamp(min=1), deviation, 1))
        x, y = self._statistics(train, batch_size).cpu().double().numpy(), train.labels.cpu().numpy()
        of_valid = self._statistics(valid, batch_size)
        losses = []
        solutions = [fit_one(x, y, self.out_layer.out_features, strength) for strength in STRENGTHS]
        for weight, bias in solutions:
            self._set(weight, bias)
            losses.append(float(task.loss(self.out_layer(of_valid), valid.labels.to(of_valid.device))))
        self._set(*solutions[int(np.nanargmin(losses))])

    def _set(self, weight: ndarray, bias: ndarray) -> None:
        self.out_layer.weight.copy_(torch.from_numpy(weight))
        self.out_layer.bias.copy_(torch.from_numpy(bias))

    def _statistics(self, split: Any, batch_size: int) -> Tensor:
        """The standardised statistics of all samples, (N, F)."""
        batches = torch.arange(len(split)).split(batch_size)
        return torch.cat([self(*split.batch(indices, self.mean.device)[0])[1] for indices in batches])


def statistics_of(stream: Sequence | Tensor) -> Tensor:
    """Mean and standard deviation over the real steps of a stream, and the logarithm of their number and 1:
    (B, 2 d_m + 1), 0 where there are none.
    """
    sequence = stream if isinstance(stream, Sequence) else Sequence.of(stream, padding_mask(stream))
    x = sequence.x  # (B, T, d_m)
    there = torch.ones_like(x[..., 0]) if sequence.padding is None else (~sequence.padding).to(x)
    count = there.sum(dim=1, keepdim=True)  # (B, 1)
    weights = (there / count.clamp(min=1)).unsqueeze(-1)  # (B, T, 1)
    mean = (x * weights).sum(dim=1)  # (B, d_m)
    variance = ((x - mean.unsqueeze(1)) ** 2 * weights).sum(dim=1)
    return torch.cat([mean, variance.sqrt(), count.log1p()], dim=1)


def fit_one(x: ndarray, y: ndarray, outputs: int, strength: float) -> tuple[ndarray, ndarray]:
    """Weight (outputs, F) and bias (outputs,) of a penalty: ridge regression for labels (N, K) that are real numbers,
    and for labels that are numbers of classes a logistic regression each, of outputs / K classes.
    """
    from sklearn.linear_model import LogisticRegression, Ridge  # noqa: PLC0415 - slow to import, and only needed here

    if y.dtype.kind == "f":
        ridge = Ridge(alpha=strength).fit(x, y)
        return np.atleast_2d(ridge.coef_), np.atleast_1d(ridge.intercept_)
    classes = outputs // y.shape[1]
    parts = []
    for labels in y.T:
        weight, bias = np.zeros((classes, x.shape[1])), np.full(classes, -100.0)  # a class never seen is never chosen
        seen = np.unique(labels)
        if len(seen) > 1:
            model = LogisticRegression(C=1 / strength, max_iter=MOST_ITERATIONS).fit(x, labels)
            two = len(model.coef_) == 1  # of two classes the second has the only row
            weight[seen[-1:] if two else seen], bias[seen] = model.coef_, 0 if two else model.intercept_
            if two:
                bias[seen[-1]] = model.intercept_[0]
        else:
            bias[seen] = 0
        parts.append((weight, bias))
    weights, biases = zip(*parts, strict=True)
    return np.concatenate(weights), np.concatenate(biases)
