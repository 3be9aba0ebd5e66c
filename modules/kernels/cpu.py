"""The functions of cpu_kernels.cpp with their gradients, for float32 tensors on a CPU.

Dropout decisions are hashes of their place and of a seed that is drawn from torch's generator. The backward pass
computes those of the forward pass again, so nothing of their size is stored. The rate is met to within 2^-33.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modules.kernels.cpu_library import Attention, Norm, Strides, library

DECISIONS = 2**32  # values of a dropout decision
NORM_ROWS = 128  # as in cpu_kernels.cpp


def draw_seed() -> int:
    """A seed for dropout's decisions, from torch's generator."""
    return int(torch.randint(2**63 - 1, ()))


def decisions(p: float) -> tuple[int, float]:
    """The value below which a decision drops, and the inverse of the probability to keep."""
    threshold = round(p * DECISIONS)
    return threshold, DECISIONS / (DECISIONS - threshold)


def call_attention(dropout: float, seed: int, lengths: list[int], **tensors: Tensor | None) -> None:
    """The forward pass, or the backward pass where there is a grad_out; fills the tensors that it computes. `lengths`
    are the steps of the source's segments.
    """
    threshold, keep_scale = decisions(dropout)
    given = {name: x for name, x in tensors.items() if x is not None}
    S, T_t, h, c = given["q"].shape
    strided = ("q", "k", "v", "grad_q", "grad_k", "grad_v")
    arguments = Attention(
        samples=S, heads=h, width=c, T_t=T_t, T_s=given["k"].size(1), segments=len(lengths),
        lengths=(ctypes.c_int64 * len(lengths))(*lengths), scale=c**-0.5, threshold=threshold,
        keep_scale=keep_scale, seed=seed, **{name: x.data_ptr() for name, x in given.items()},
        **{f"of_{name}": Strides(*given[name].stride()[:3]) for name in strided if name in given},
    )
    library().attention(arguments, "grad_out" in given, torch.get_num_threads())


class AttentionFunction(torch.autograd.Function):
    """q (S, T_t, h, c), k and v (S, T_s, h, c), hidden (S, T_s), firsts (T_t, 1), counts (T_t, segments) -> as q

    `lengths` are the steps of the source's segments, of each of which a target step sees the first `counts`. Of a
    single segment, it sees those from `firsts` on.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, firsts: Tensor | None,
                counts: Tensor | None, lengths: list[int], dropout: float) -> Tensor:
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        hidden = None if hidden is None else hidden.contiguous()
        out, log_sum = torch.empty(q.shape), torch.empty(len(q), q.size(2), q.size(1))
        ctx.lengths, ctx.dropout, ctx.seed = lengths, dropout, draw_seed() if dropout else 0
        ctx.save_for_backward(q, k, v, hidden, firsts, counts, out, log_sum)
        call_attention(dropout, ctx.seed, lengths, q=q, k=k, v=v, hidden=hidden, firsts=firsts, counts=counts, out=out,
                       log_sum=log_sum)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple:
        q, k, v, hidden, firsts, counts, out, log_sum = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.empty(x.shape) for x in (q, k, v))
        call_attention(ctx.dropout, ctx.seed, ctx.lengths, q=q, k=k, v=v, hidden=hidden, firsts=firsts, counts=counts,
                       out=out, log_sum=log_sum, grad_out=grad_out.contiguous(), grad_q=grad_q, grad_k=grad_k,
                       grad_v=grad_v)
        return grad_q, grad_k, grad_v, None, None, None, None, None


def call_layer_norm(eps: float, x: Tensor, **tensors: Tensor) -> None:
    """The forward pass, or the backward pass where there is a grad_out; fills the tensors that it computes."""
    d = x.size(-1)
    pointers = {name: tensor.data_ptr() for name, tensor in {"x": x, **tensors}.items()}
    library().layer_norm(Norm(rows=x.numel() // d, width=d, eps=eps, **pointers), torch.get_num_threads())


class LayerNormFunction(torch.autograd.Function):
    """x (..., d), weight and bias (d,) -> (..., d)"""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        statistics, out = torch.empty(*x.shape[:-1], 2), torch.empty(x.shape)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, statistics)
        call_layer_norm(eps, x, weight=weight, bias=bias, statistics=statistics, out=out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple:
        x, weight, statistics = ctx.saved_tensors
        d = x.size(-1)
        grad_x, grads = torch.empty(x.shape), torch.empty(2, -(-x.numel() // (d * NORM_ROWS)), d)
        call_layer_norm(ctx.eps, x, weight=weight, statistics=statistics, grad_out=grad_out.contiguous(),
                        grad_x=grad_x, grad_weight=grads[0], grad_bias=grads[1])
        return grad_x, *grads.sum(dim=1).unbind(), None


def call_add_dropout(x: Tensor | None, branch: Tensor, p: float, seed: int) -> Tensor:
    """x + Dropout(branch), or Dropout(branch) where x is None."""
    branch, x = branch.contiguous(), None if x is None else x.contiguous()
    out = torch.empty(branch.shape)
    library().add_dropout(None if x is None else x.data_ptr(), branch.data_ptr(), out.data_ptr(), out.numel(),
                          *decisions(p), seed, torch.get_num_threads())
    return out


class AddDropoutFunction(torch.autograd.Function):
    """x + Dropout(branch), x being None or of the branch's shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor | None, branch: Tensor, p: float) -> Tensor:
        ctx.p, ctx.seed = p, draw_seed()
        return call_add_dropout(x, branch, p, ctx.seed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return grad if ctx.needs_input_grad[0] else None, call_add_dropout(None, grad, ctx.p, ctx.seed), None


class ReluDropoutFunction(torch.autograd.Function):
    """Dropout(relu(x)). The gradient passes where the result is not 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float) -> Tensor:
        x, out, ctx.p = x.contiguous(), torch.empty(x.shape), p
        library().relu_dropout(x.data_ptr(), out.data_ptr(), out.numel(), *decisions(p), draw_seed(),
                               torch.get_num_threads())
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        out, = ctx.saved_tensors
        grad, grad_x = grad.contiguous(), torch.empty(out.shape)
        library().relu_dropout_backward(grad.data_ptr(), out.data_ptr(), grad_x.data_ptr(), out.numel(),
                                        decisions(ctx.p)[1], torch.get_num_threads())
        return grad_x, None
