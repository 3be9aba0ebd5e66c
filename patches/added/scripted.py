"""Flags for scripts that run MulT: no waiting for keys, losses with all digits, given weights and order of the data."""

import json
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of this module to main.py."""
    parser.add_argument("--json_lines", metavar="FILE", help="append the losses of each epoch to FILE, as JSON")
    parser.add_argument("--save_initial", metavar="FILE", help="save the state dict before training to FILE")
    parser.add_argument("--float64", action="store_true", help="compute in float64")
    parser.add_argument("--order_seed", type=int, metavar="SEED",
                        help="draw the order of the training data from a generator of its own")


def input(prompt: str) -> None:
    """Print the prompt and return at once."""
    print(prompt)


class SeededOrder:
    """A sampler of the whole data set. Each epoch has the next permutation of a seeded generator."""

    def __init__(self, samples: int, seed: int) -> None:
        self.samples, self.generator = samples, torch.Generator("cpu").manual_seed(seed)

    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(self.samples, generator=self.generator, device="cpu").tolist())

    def __len__(self) -> int:
        return self.samples


def ordered(loader: Any, args: Namespace) -> DataLoader:
    """The loader of the training data, in the order of --order_seed if that is given."""
    if args.order_seed is None:
        return loader
    return DataLoader(loader.dataset, args.batch_size, sampler=SeededOrder(len(loader.dataset), args.order_seed),
                      generator=loader.generator)


def save_initial(args: Namespace, model: nn.Module) -> None:
    """Write the file of --save_initial if that is given."""
    if args.save_initial:
        torch.save(model.state_dict(), args.save_initial)


def positions_in_float64(rows: int, dim: int, padding_row: int | None = None) -> torch.Tensor:
    """The original's table of positions in float64: (rows, dim), 0 in the row of padding."""
    rates = torch.exp(torch.arange(dim // 2, dtype=torch.float64) * -(math.log(10000) / (dim // 2 - 1)))
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * rates
    table = torch.cat([angles.sin(), angles.cos(), angles.new_zeros(rows, dim % 2)], dim=1)
    if padding_row is not None:
        table[padding_row] = 0
    return table


class OfDoubles(nn.Module):
    """A model in float64, for inputs of any precision."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.double()
        for kind in {type(module) for module in model.modules() if hasattr(module, "get_embedding")}:
            setattr(kind, "get_embedding", staticmethod(positions_in_float64))  # noqa: B010 - mypy

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.model(*(x.double() for x in inputs))


def in_wanted_precision(args: Namespace, model: nn.Module) -> nn.Module:
    """The model, in float64 if --float64 is given."""
    return OfDoubles(model) if args.float64 else model


def training_record(loss: float, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The training loss and the learning rate of an epoch."""
    return {"train_loss": loss, "lr": optimizer.param_groups[0]["lr"]}


def write_epoch(args: Namespace, **record: Any) -> None:
    """Append a line to the file of --json_lines if that is given."""
    if args.json_lines:
        with open(args.json_lines, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
