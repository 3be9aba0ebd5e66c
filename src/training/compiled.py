"""The repeated layers of a model through torch.compile. What is compiled for a layer serves all layers of its kind, and
batches and sequences of any size: compiling the whole model would take minutes, and again for the last, short batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx.experimental import _config as shapes

import src.errors  # noqa: F401 - first of ours, so that this file, run by its path, says what to type

from modules.layers import FeedForward
from modules.pmr_layer import ModalityReinforcementUnit
from modules.record import Record
from modules.sequence import Mask
from modules.transformer import TransformerEncoderLayer

REPEATED = {TransformerEncoderLayer: "forward", ModalityReinforcementUnit: "reinforce", FeedForward: "forward"}
MOST_FORMS = 64  # of a layer: its width, dropouts and masks, in training and in evaluation


def compile_layers(model: nn.Module, device: torch.device) -> None:
    """Let torch compile the repeated layers of a model when they are first called; a GPU replays them as CUDA graphs.

    A model without such layers stays as it is.
    """
    torch._dynamo.config.recompile_limit = MOST_FORMS
    shapes.use_duck_shape = False  # else what is compiled where two lengths agree serves only such lengths
    on_gpu = device.type == "cuda"
    inside: set[nn.Module] = set()
    for layer in model.modules():
        name = next((name for kind, name in REPEATED.items() if isinstance(layer, kind)), None)
        if name and layer not in inside:
            inside.update(layer.modules())
            setattr(layer, name, compiled(getattr(layer, name), "reduce-overhead" if on_gpu else None))
    if on_gpu:  # what the graphs of one pass have computed is kept until the next one
        model.register_forward_pre_hook(lambda *_: torch.compiler.cudagraph_mark_step_begin())


def compiled(function: Callable, mode: str | None) -> Callable:
    """The function of a layer, compiled; where decisions are recorded, as it is. Masks are made outside."""
    fast = torch.compile(function, dynamic=True, mode=mode)

    def call(*inputs: Any) -> Any:
        if any(isinstance(x, Record) and x.decisions for x in inputs):
            return function(*inputs)
        for x in inputs:
            if isinstance(x, Mask) and not x.window:
                x.dense()
        return fast(*inputs)

    return call
