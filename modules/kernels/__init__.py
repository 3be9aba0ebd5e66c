"""The one door to the compiled CPU kernels: each operation by a kernel where one can be used, else by plain torch.

    attention      any mask, with dropout; up to 64 features a head      no matrix (T_t, T_s) is stored
    layer_norm     over 16 to 128 features                               torch is slow on rows this narrow
    dropout        by itself, of a relu, or added to a residual          one pass over memory for all of it

The kernels compute in float32 on a CPU, outside torch.compile, if a C++ compiler is found: they are built on first use
(build.py). All else, GPUs included, takes the plain torch code that stands beside each call. Both compute the
same; only dropout draws other samples. Plain attention with dropout takes memory that grows with the square of the
length, or with the length times the window where there is one.

PMR_CPU_KERNELS=0 in the environment, or `kernels.switch(False)`, turns the kernels off.
"""

import os

import torch
from torch import Tensor
from torch.nn import functional as F

from modules.kernels import cpu
from modules.kernels.cpu_library import library
from modules.kernels.window import windowed_attention
from modules.sequence import Mask

WIDEST_HEAD = 64  # as in cpu_kernels.cpp
NORM_WIDTHS = range(16, 129)  # as in cpu_kernels.cpp
_switched_on = os.environ.get("PMR_CPU_KERNELS") != "0"


def switch(on: bool) -> None:
    """Turn the kernels on or off for this process."""
    global _switched_on  # noqa: PLW0603 - the one switch
    _switched_on = on


def state() -> str:
    """Whether training on a CPU uses the kernels, and if not, why."""
    if not _switched_on:
        return "off: PMR_CPU_KERNELS is 0, and training on a CPU is slower"
    return "compiled" if library() else "none: there is no C++ compiler that works, and training on a CPU is slower"


def usable(x: Tensor) -> bool:
    """Whether a kernel can compute on this tensor."""
    on_cpu = _switched_on and x.device.type == "cpu" and x.dtype == torch.float32
    return on_cpu and not torch.compiler.is_compiling() and library() is not None


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Mask | None = None, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention: q (B, T_t, h, c), k and v (B, T_s, h, c) -> (B, T_t, h, c).

    A target step that sees nothing gets 0, and gives gradients of 0.
    """
    if usable(q) and q.size(-1) <= WIDEST_HEAD:
        hidden, firsts, counts = (None, None, None) if mask is None else (mask.hidden, mask.firsts, mask.counts)
        lengths = [k.size(1)] if mask is None or counts is None else [segment.kept for segment in mask.source]
        return cpu.AttentionFunction.apply(q, k, v, hidden, firsts, counts, lengths, dropout)
    if mask is not None and mask.window:
        return windowed_attention(q, k, v, mask, dropout)
    seen, blind = (None, None) if mask is None else mask.dense()
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # (B, h, T, c)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=dropout)
    return (out if blind is None else out.masked_fill(blind, 0)).transpose(1, 2)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """Layer norm of the last dimension: x (..., d), weight and bias (d,) -> (..., d)."""
    if usable(x) and x.size(-1) in NORM_WIDTHS:
        return cpu.LayerNormFunction.apply(x, weight, bias, eps)
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def dropout(x: Tensor, p: float) -> Tensor:
    """Dropout(x), any shape."""
    return cpu.AddDropoutFunction.apply(None, x, p) if p > 0 and usable(x) else F.dropout(x, p)


def relu_dropout(x: Tensor, p: float) -> Tensor:
    """Dropout(relu(x)), any shape."""
    return cpu.ReluDropoutFunction.apply(x, p) if p > 0 and usable(x) else F.dropout(x.relu(), p)


def add_dropout(x: Tensor, branch: Tensor, p: float) -> Tensor:
    """x + Dropout(branch), both of one shape."""
    return cpu.AddDropoutFunction.apply(x, branch, p) if p > 0 and usable(branch) else x + F.dropout(branch, p)
