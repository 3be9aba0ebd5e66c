"""What a script needs that runs MulT: no questions, the losses in full, and the weights and data order it wants."""

import json
import math

import torch
from torch import nn
from torch.utils.data import DataLoader


def add_flags(parser):
    """The flags of this module, for main.py."""
    parser.add_argument("--json_lines", metavar="FILE", help="append the losses of each epoch to FILE, as JSON")
    parser.add_argument("--save_initial", metavar="FILE", help="save the state dict before training to FILE")
    parser.add_argument("--float64", action="store_true", help="compute in float64")
    parser.add_argument("--order_seed", type=int, metavar="SEED",
                        help="draw the order of the training data from a generator of its own")


def input(prompt):
    """Show the prompt, and wait for nobody."""
    print(prompt)


class SeededOrder:
    """A sampler of the whole data set: each epoch the next permutation that the seed gives."""

    def __init__(self, samples, seed):
        self.samples, self.generator = samples, torch.Generator("cpu").manual_seed(seed)

    def __iter__(self):
        return iter(torch.randperm(self.samples, generator=self.generator, device="cpu").tolist())

    def __len__(self):
        return self.samples


def ordered(loader, args):
    """The loader of the training data, in the order of --order_seed if that is given."""
    if args.order_seed is None:
        return loader
    return DataLoader(loader.dataset, args.batch_size, sampler=SeededOrder(len(loader.dataset), args.order_seed),
                      generator=loader.generator)


def save_initial(args, model):
    """Write the file of --save_initial, if one is wanted."""
    if args.save_initial:
        torch.save(model.state_dict(), args.save_initial)


def positions_in_float64(rows, dim, padding_row=None):
    """The table that the original computes in float32: (rows, dim), 0 in the row of padding."""
    rates = torch.exp(torch.arange(dim // 2, dtype=torch.float64) * -(math.log(10000) / (dim // 2 - 1)))
    angles = torch.arange(rows, dtype=torch.float64)[:, None] * rates
    table = torch.cat([angles.sin(), angles.cos(), angles.new_zeros(rows, dim % 2)], dim=1)
    if padding_row is not None:
        table[padding_row] = 0
    return table


class OfDoubles(nn.Module):
    """A model in float64, for inputs of any width."""

    def __init__(self, model):
        super().__init__()
        self.model = model.double()
        for module in model.modules():
            if hasattr(module, "get_embedding"):
                type(module).get_embedding = staticmethod(positions_in_float64)

    def forward(self, *inputs):
        return self.model(*(x.double() for x in inputs))


def of_wanted_width(args, model):
    """The model in float64 if --float64 asks for it."""
    return OfDoubles(model) if args.float64 else model


def training_record(loss, optimizer):
    """What is known of an epoch when its training ends."""
    return {"train_loss": loss, "lr": optimizer.param_groups[0]["lr"]}


def write_epoch(args, **record):
    """Append a line to the file of --json_lines, if one is wanted."""
    if args.json_lines:
        with open(args.json_lines, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
