"""Equal modules run side by side: G of them in one pass over (G, B, T, d), instead of G passes over (B, T, d).

MulT has six crossmodal encoders and PMR six reinforcement units a layer, all small: one large operation costs far less
than six small ones. The blocks of this package are therefore written for parameters and inputs that may both have a
leading dimension G.
"""

from collections import defaultdict

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from modules.cpu_kernels import NORM_WIDTHS, layer_norm, usable


class OneByOne:
    """Within `with OneByOne():` each module runs by itself, so that a hook on one sees what is its own."""

    active = False

    def __enter__(self):
        OneByOne.active = True

    def __exit__(self, *_):
        OneByOne.active = False


def side_by_side(modules, inputs):
    """[module(*its inputs)] for modules of one class; those together that are alike and whose inputs have one shape.

    Modules are alike if their `variant` is the same: they may then differ in nothing but their parameters.
    """
    modules, inputs = list(modules), list(inputs)
    groups, outputs = defaultdict(list), {}
    for i, (module, own) in enumerate(zip(modules, inputs, strict=True)):
        alike = (module.variant, *(x.shape if torch.is_tensor(x) else x for x in own))
        groups[i if OneByOne.active else alike].append(i)
    for group in groups.values():
        outputs |= zip(group, _in_one_pass([modules[i] for i in group], [inputs[i] for i in group]), strict=True)
    return [outputs[i] for i in range(len(modules))]


def _in_one_pass(modules, inputs):
    if len(modules) == 1:
        return [modules[0](*inputs[0])]
    places = [places_of_parameters(module) for module in modules]
    stacked = {name: torch.stack([getattr(*each[name]) for each in places]) for name in places[0]}
    together = [torch.stack(x) if torch.is_tensor(x[0]) else x[0] for x in zip(*inputs, strict=True)]
    return functional_call(modules[0], stacked, tuple(together)).unbind()


def places_of_parameters(module):
    """{name: (the module that has it, its name there)} of all parameters, looked for once, since that is slow."""
    if (places := vars(module).get("_places")) is None:
        places = vars(module)["_places"] = {
            f"{prefix}.{name}".lstrip("."): (owner, name)
            for prefix, owner in module.named_modules() for name, _ in owner.named_parameters(recurse=False)
        }
    return places


def linear(x, weight, bias):
    """x W^T + b for x (..., i) and weight (o, i); or for x (G, B, T, i), weight (G, o, i) and bias (G, o)."""
    if weight.dim() == 2:
        return F.linear(x, weight, bias)
    flat = x.flatten(1, -2)  # (G, B T, i)
    if usable(x):
        out = _LinearsOnCpu.apply(flat, weight, bias)
    else:
        out = torch.bmm(flat, weight.transpose(1, 2))
        out = out if bias is None else out + bias.unsqueeze(1)
    return out.unflatten(1, x.shape[1:-1])


class _LinearsOnCpu(torch.autograd.Function):
    """x (G, N, i), weight (G, o, i), bias (G, o) -> (G, N, o), as G products.

    torch's batched product gives whole matrices to threads, which G = 3 leaves idle, and takes the gradient of the
    weights in the slower of the two ways.
    """

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        out = x.new_empty(*x.shape[:2], weight.size(1))
        for g in range(len(x)):
            if bias is None:
                torch.mm(x[g], weight[g].t(), out=out[g])
            else:
                torch.addmm(bias[g], x[g], weight[g].t(), out=out[g])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x, grad_weight = torch.empty_like(x), torch.empty_like(weight)
        _, out_features, in_features = weight.shape
        for g in range(len(x)):
            torch.mm(grad[g], weight[g], out=grad_x[g])
            if out_features > in_features:
                grad_weight[g] = torch.mm(x[g].t(), grad[g]).t()
            else:
                torch.mm(grad[g].t(), x[g], out=grad_weight[g])
        return grad_x, grad_weight, grad.sum(dim=1) if ctx.needs_input_grad[2] else None


class Linear(nn.Linear):
    """nn.Linear that can be run side by side."""

    def forward(self, x):
        """(..., i) -> (..., o)"""
        return linear(x, self.weight, self.bias)


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm that can be run side by side."""

    def forward(self, x):
        """(..., d) -> (..., d)"""
        d = x.size(-1)
        if usable(x) and d in NORM_WIDTHS:
            weight, bias = self.weight.view(-1, d), self.bias.view(-1, d)
            return layer_norm(x.reshape(len(weight), -1, d), weight, bias, self.eps).view(x.shape)
        if self.weight.dim() == 1:
            return super().forward(x)
        weight, bias = (p[:, None, None] for p in (self.weight, self.bias))  # (G, 1, 1, d)
        return torch.addcmul(bias, F.layer_norm(x, self.normalized_shape, eps=self.eps), weight)
