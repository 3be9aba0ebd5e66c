"""The functions of cpu_kernels.cpp with their gradients, for float32 tensors on a CPU.

Dropout decisions are hashes of their place and of a seed that is drawn from torch's generator, so that the backward
pass repeats those of the forward pass, and nothing of their size is stored. The rate is met to within 2^-33.
"""

import torch
from torch.autograd.function import once_differentiable

from modules.cpu_library import Attention, Norm, Strides, library

DECISIONS = 2**32  # values of a dropout decision
WIDEST_HEAD = 64  # as in cpu_kernels.cpp
NORM_WIDTHS = range(16, 129)  # as in cpu_kernels.cpp
NORM_ROWS = 128  # as in cpu_kernels.cpp


def usable(x):
    """Whether these functions take a tensor."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    return on_cpu and not torch.compiler.is_compiling() and library() is not None


def attention(q, k, v, allowed=None, dropout=0.0):
    """Scaled dot-product attention: q (S, h, T_t, c), k and v (S, h, T_s, c) -> (S, h, T_t, c), c up to WIDEST_HEAD.

    `allowed` is bool, (T_t, T_s) or (S, 1, T_t, T_s), True where attention is allowed: somewhere in every row.
    """
    allowed = allowed.squeeze(1) if allowed is not None and allowed.dim() == 4 else allowed
    return _Attention.apply(*(x.transpose(1, 2) for x in (q, k, v)), allowed, dropout).transpose(1, 2)


def layer_norm(x, weight, bias, eps):
    """G layer norms: x (G, R, d), weight and bias (G, d) -> (G, R, d), d in NORM_WIDTHS."""
    return _LayerNorm.apply(x, weight, bias, eps)


def dropout(x, p):
    """Dropout(x), any shape."""
    return _AddDropout.apply(None, x, p)


def add_dropout(x, branch, p):
    """x + Dropout(branch), both of one shape."""
    return _AddDropout.apply(x, branch, p)


def relu_dropout(x, p):
    """Dropout(relu(x)), any shape."""
    return _ReluDropout.apply(x, p)


def draw_seed():
    """A seed for dropout's decisions, from torch's generator."""
    return int(torch.randint(2**63 - 1, ()))


def decisions(p):
    """The value below which a decision drops, and the inverse of the probability to keep."""
    threshold = round(p * DECISIONS)
    return threshold, DECISIONS / (DECISIONS - threshold)


def seen_steps(allowed):
    """What attention reads of a mask (..., T_t, T_s): the first step that each target step sees and the one after the
    last, (..., T_t, 2), and the mask itself, or None where all the steps between are seen.
    """
    visible = allowed.to(torch.int32)
    first = visible.argmax(dim=-1)
    after = allowed.size(-1) - visible.flip(-1).argmax(dim=-1)
    gaps = (after - first != visible.sum(dim=-1)).any()
    return torch.stack([first, after], dim=-1).to(torch.int32), allowed.contiguous() if gaps else None


def call_attention(seen, allowed, dropout, seed, **tensors):
    """The forward pass, or the backward pass where there is a grad_out; fills the tensors that it computes."""
    threshold, keep_scale = decisions(dropout)
    S, T_t, h, c = tensors["q"].shape
    masks = {name: mask.data_ptr() for name, mask in {"seen": seen, "allowed": allowed}.items() if mask is not None}
    strided = ("q", "k", "v", "grad_q", "grad_k", "grad_v")
    arguments = Attention(
        samples=S, heads=h, width=c, T_t=T_t, T_s=tensors["k"].size(1), scale=c**-0.5, threshold=threshold,
        keep_scale=keep_scale, seed=seed, mask_of_sample=seen is not None and seen.dim() == 3, **masks,
        **{name: x.data_ptr() for name, x in tensors.items()},
        **{f"of_{name}": Strides(*x.stride()[:3]) for name, x in tensors.items() if name in strided},
    )
    library().attention(arguments, "grad_out" in tensors, torch.get_num_threads())


class _Attention(torch.autograd.Function):
    """q (S, T_t, h, c), k and v (S, T_s, h, c), allowed (T_t, T_s) or (S, T_t, T_s) -> (S, T_t, h, c)"""

    @staticmethod
    def forward(ctx, q, k, v, allowed, dropout):
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        out, log_sum = torch.empty(q.shape), torch.empty(len(q), q.size(2), q.size(1))
        seen, allowed = (None, None) if allowed is None else seen_steps(allowed)
        ctx.dropout, ctx.seed = dropout, draw_seed() if dropout else 0
        ctx.save_for_backward(q, k, v, seen, allowed, out, log_sum)
        call_attention(seen, allowed, dropout, ctx.seed, q=q, k=k, v=v, out=out, log_sum=log_sum)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        q, k, v, seen, allowed, out, log_sum = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.empty(x.shape) for x in (q, k, v))
        call_attention(seen, allowed, ctx.dropout, ctx.seed, q=q, k=k, v=v, out=out, log_sum=log_sum,
                       grad_out=grad_out.contiguous(), grad_q=grad_q, grad_k=grad_k, grad_v=grad_v)
        return grad_q, grad_k, grad_v, None, None


def call_layer_norm(eps, **tensors):
    """The forward pass, or the backward pass where there is a grad_out; fills the tensors that it computes."""
    G, R, d = tensors["x"].shape
    pointers = {name: x.data_ptr() for name, x in tensors.items()}
    library().layer_norm(Norm(groups=G, rows=R, width=d, eps=eps, **pointers), torch.get_num_threads())


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        x, weight, bias = x.contiguous(), weight.contiguous(), bias.contiguous()
        statistics, out = torch.empty(*x.shape[:2], 2), torch.empty(x.shape)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, bias, statistics)
        call_layer_norm(eps, x=x, weight=weight, bias=bias, statistics=statistics, out=out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        x, weight, bias, statistics = ctx.saved_tensors
        G, R, d = x.shape
        grad_x, (grad_weight, grad_bias) = torch.empty(x.shape), torch.empty(2, G, -(-R // NORM_ROWS), d)
        call_layer_norm(ctx.eps, x=x, weight=weight, bias=bias, statistics=statistics,
                        grad_out=grad_out.contiguous(), grad_x=grad_x, grad_weight=grad_weight, grad_bias=grad_bias)
        return grad_x, grad_weight.sum(dim=1), grad_bias.sum(dim=1), None


def call_add_dropout(x, branch, p, seed):
    """x + Dropout(branch), or Dropout(branch) where x is None."""
    branch, x = branch.contiguous(), None if x is None else x.contiguous()
    out = torch.empty(branch.shape)
    library().add_dropout(None if x is None else x.data_ptr(), branch.data_ptr(), out.data_ptr(), out.numel(),
                          *decisions(p), seed, torch.get_num_threads())
    return out


class _AddDropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, branch, p):
        ctx.p, ctx.seed = p, draw_seed()
        return call_add_dropout(x, branch, p, ctx.seed)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return grad if ctx.needs_input_grad[0] else None, call_add_dropout(None, grad, ctx.p, ctx.seed), None


class _ReluDropout(torch.autograd.Function):
    """The result tells where its gradient passes."""

    @staticmethod
    def forward(ctx, x, p):
        x, out, ctx.p = x.contiguous(), torch.empty(x.shape), p
        library().relu_dropout(x.data_ptr(), out.data_ptr(), out.numel(), *decisions(p), draw_seed(),
                               torch.get_num_threads())
        ctx.save_for_backward(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        out, = ctx.saved_tensors
        grad, grad_x = grad.contiguous(), torch.empty(out.shape)
        library().relu_dropout_backward(grad.data_ptr(), out.data_ptr(), grad_x.data_ptr(), out.numel(),
                                        decisions(ctx.p)[1], torch.get_num_threads())
        return grad_x, None
