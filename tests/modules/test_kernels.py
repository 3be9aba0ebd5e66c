"""The kernels behind the door against plain torch, and their dropout against what dropout has to be.

Dropout masks are read off the kernels themselves: their decisions depend on the seed and the place alone, and the seed
comes from torch's generator.
"""

import os
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

from modules import kernels
from modules.kernels import cpu_library
from modules.layers import Dropout
from modules.sequence import Sequence, join, mask


@pytest.fixture
def switch():
    yield kernels.switch
    kernels.switch(on=True)


def test_there_is_a_compiler():
    assert cpu_library.library() is not None
    assert kernels.state() == "compiled"


def draw_attention(T_t, T_s, c, samples=2, heads=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(samples, T, heads, c, generator=generator).requires_grad_() for T in (T_t, T_s, T_s)]


def weights(q, k, seen=None):
    """softmax(q k^T / sqrt(c)), (S, h, T_t, T_s); 0 for a target step that sees nothing."""
    scores = torch.einsum("bthc,bshc->bhts", q, k) / q.size(-1) ** 0.5
    if seen is None:
        return scores.softmax(dim=-1)
    return scores.masked_fill(~seen, -1e30).softmax(dim=-1) * seen.any(dim=-1, keepdim=True)


def plain_attention(q, k, v, seen=None, dropout_mask=1.0):
    return torch.einsum("bhts,bshc->bthc", weights(q, k, seen) * dropout_mask, v)


def mask_of(T_t, T_s, hidden=None, causal=False):
    """The Mask, and the same as a tensor (S, 1, T_t, T_s)."""
    target, source = (Sequence.of(torch.empty(2, T, 1)) for T in (T_t, T_s))
    seen = torch.ones(2, 1, T_t, T_s).tril(abs(T_t - T_s) if causal else T_s).bool()
    seen = seen if hidden is None else seen & ~hidden[:, None, None]
    return mask(target, source._replace(hidden=hidden), causal), seen


def mask_of_segments(T_t, T_s, hidden=None):
    """The causal Mask of sequences that are joined, and the same as a tensor (S, 1, T_t, T_s) made by loops."""
    lengths_t, lengths_s = ([n for n in (T // 3, T - T // 3 - T // 4, T // 4) if n] for T in (T_t, T_s))
    target, source = (join([Sequence.of(torch.empty(2, n, 1)) for n in lengths]) for lengths in (lengths_t, lengths_s))
    seen = torch.tensor([[s <= t + abs(p - q) for q in lengths_s for s in range(q)]
                         for p in lengths_t for t in range(p)])
    seen = seen.expand(2, 1, T_t, T_s) if hidden is None else seen & ~hidden[:, None, None]
    return mask(target, source._replace(hidden=hidden), True), seen


def mask_of_window(T_t, T_s, window, causal, hidden=None):
    """The same for a window of a sequence that attends to itself; of others, for all."""
    if T_t != T_s:
        return mask_of(T_t, T_s, hidden)
    lag = torch.arange(T_t)[:, None] - torch.arange(T_t)
    seen = ((lag < window) & (lag > (-1 if causal else -window))).expand(2, 1, T_t, T_t)
    seen = seen if hidden is None else seen & ~hidden[:, None, None]
    own = Sequence.of(torch.empty(2, T_t, 1))._replace(hidden=hidden)
    return mask(own, own, causal, window), seen


def gradients(out, inputs):
    return torch.autograd.grad(out, inputs, torch.linspace(-1, 1, out.numel()).view(out.shape))


MASKS = {
    "none": lambda T_t, T_s: (None, None),
    "band": lambda T_t, T_s: mask_of(T_t, T_s, causal=True),
    "front": lambda T_t, T_s: mask_of(T_t, T_s, torch.arange(T_s) < torch.tensor([[T_s // 3], [T_s - 1]])),
    "gaps": lambda T_t, T_s: mask_of(T_t, T_s, (torch.arange(T_s) % 3 == 1).expand(2, T_s)),
    "gaps in a band": lambda T_t, T_s: mask_of(T_t, T_s, (torch.arange(T_s) % 3 != 1).expand(2, T_s), causal=True),
    "segments": mask_of_segments,
    "gaps in segments": lambda T_t, T_s: mask_of_segments(T_t, T_s, (torch.arange(T_s) % 3 != 2).expand(2, T_s)),
    "window": lambda T_t, T_s: mask_of_window(T_t, T_s, 7, causal=False),
    "causal window": lambda T_t, T_s: mask_of_window(T_t, T_s, 18, causal=True),
    "gaps in a window": lambda T_t, T_s: mask_of_window(T_t, T_s, 3, True, (torch.arange(T_s) % 9 > 3).expand(2, T_s)),
    "own step": lambda T_t, T_s: mask_of_window(T_t, T_s, 1, causal=False),
    "nothing to see": lambda T_t, T_s: mask_of(T_t, T_s, torch.tensor([[True], [False]]).expand(2, T_s)),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("c", [1, 4, 5, 6, 7, 8, 10, 12, 64])
@pytest.mark.parametrize("T_t, T_s", [(1, 1), (5, 17), (33, 16), (40, 40)])
@pytest.mark.parametrize("on", [True, False], ids=["kernel", "torch"])
def test_attention_is_what_it_has_to_be(T_t, T_s, c, mask, on, switch):
    switch(on)
    inputs, (given, seen) = draw_attention(T_t, T_s, c), MASKS[mask](T_t, T_s)
    out, plain = kernels.attention(*inputs, given), plain_attention(*inputs, seen)
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=2e-6)
    if seen is not None:
        blind = ~seen.any(dim=-1).expand(2, 1, T_t)[:, 0]  # (S, T_t)
        assert (out[blind] == 0).all()
    for ours, theirs in zip(gradients(out, inputs), gradients(plain, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_attention_to_nothing_has_finite_gradients_in_every_dtype():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        inputs = [x.detach().to(dtype).requires_grad_() for x in draw_attention(4, 5, 8)]
        out = kernels.attention(*inputs, mask_of(4, 5, torch.ones(2, 5, dtype=torch.bool))[0])
        assert (out == 0).all()
        assert all((gradient == 0).all() for gradient in torch.autograd.grad(out.sum(), inputs))


def test_attention_takes_strided_heads():
    q, k, v = torch.randn(2, 9, 3 * 8).view(2, 9, 3, 8).split((3, 2, 3), dim=-1)
    out = kernels.attention(q[..., :2], k, v[..., 1:])
    torch.testing.assert_close(out, plain_attention(q[..., :2], k, v[..., 1:]))


def test_attention_dropout_drops_the_weights_and_their_gradients():
    """With values of the identity, attention gives its weights after dropout, and so the mask it draws for a seed."""
    inputs = draw_attention(21, 40, 6)
    q, k, _ = inputs
    identity = torch.eye(40)[:, None].expand(2, 40, 3, 40)
    torch.manual_seed(3)
    wide = [F.pad(x, (0, 40 - 6)) * (40 / 6) ** 0.25 for x in (q, k)]
    dropped = kernels.attention(*wide, identity, dropout=0.3).transpose(1, 2)  # (S, h, T_t, T_s)
    dropout_mask = (dropped / weights(q, k)).detach()
    kept = dropout_mask > 0
    assert 0.65 < kept.float().mean() < 0.75
    torch.testing.assert_close(dropout_mask, kept / 0.7, rtol=1e-4, atol=1e-4)

    torch.manual_seed(3)
    out, plain = kernels.attention(*inputs, dropout=0.3), plain_attention(*inputs, dropout_mask=kept / 0.7)
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=2e-6)
    for ours, theirs in zip(gradients(out, inputs), gradients(plain, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d", [16, 24, 30, 31, 32, 60, 80, 100, 128])
def test_layer_norm_is_torchs(d):
    generator = torch.Generator().manual_seed(0)
    x = (5 + 3 * torch.randn(2, 131, d, generator=generator)).requires_grad_()
    weight, bias = (torch.randn(d, generator=generator).requires_grad_() for _ in range(2))
    out = kernels.layer_norm(x, weight, bias, 1e-5)
    assert "LayerNormFunction" in type(out.grad_fn).__name__
    plain = F.layer_norm(x, (d,), weight, bias)
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-5)
    inputs = (x, weight, bias)
    for ours, theirs in zip(gradients(out, inputs), gradients(plain, inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


# ---- dropout ---------------------------------------------------------------------------------------------------------

FUNCTIONS = {
    "dropout": kernels.dropout,
    "added": lambda x, p: kernels.add_dropout(torch.ones_like(x), x, p) - 1,
    "relu": kernels.relu_dropout,
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def draw_mask(samples, size, p, function=FUNCTIONS["dropout"]):
    """(samples, size), 1 where kept: each row drawn by a call of its own."""
    torch.manual_seed(0)
    return torch.stack([function(torch.ones(size), p) for _ in range(samples)]) != 0


@each_function
@pytest.mark.parametrize("p", [0.1, 0.25, 0.7])
def test_the_rate_is_right_and_what_is_kept_is_scaled(function, p):
    x = torch.ones(1_000_003)
    torch.manual_seed(1)
    out = function(x, p)
    kept = out != 0
    torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / (1 - p)))
    standard_error = (p * (1 - p) / len(x)) ** 0.5
    assert abs(kept.double().mean().item() - (1 - p)) < 4 * standard_error


@pytest.mark.parametrize("distance", [1, 2, 7, 16, 30, 64, 1024, 1500, 2048, 4096, 2**14])
def test_decisions_are_independent_of_those_nearby(distance):
    p, mask = 0.3, draw_mask(1, 2_000_000, 0.3)[0]
    both_dropped = (~mask[distance:] & ~mask[:-distance]).double().mean().item()
    assert abs(both_dropped - p * p) < 4 * (p * p * (1 - p * p) / len(mask)) ** 0.5 * 1.5


def test_decisions_are_independent_between_calls_and_places():
    """Counts of keeping, by call and by place, scatter as binomial counts do: chi-square within 5 sigma."""
    p, mask = 0.25, draw_mask(400, 4000, 0.25).double()
    for dim in (0, 1):
        counts, trials = mask.sum(dim=dim), mask.size(dim)
        chi_square = ((counts - trials * (1 - p)) ** 2 / (trials * p * (1 - p))).sum().item()
        assert abs(chi_square - len(counts)) < 5 * (2 * len(counts)) ** 0.5


def test_attention_decisions_are_independent_between_rows_heads_and_samples():
    p, samples, heads, T = 0.2, 20, 4, 60
    q = torch.zeros(samples, T, heads, T)
    identity = torch.eye(T)[:, None].expand(samples, T, heads, T)
    torch.manual_seed(0)
    kept = (kernels.attention(q, q, identity, dropout=p) != 0).double()  # (S, T_t, h, T_s)
    for dims in ((0,), (1,), (2,), (3,), (1, 3), (0, 2)):
        counts = kept.sum(dim=dims).flatten()
        trials = kept.numel() / len(counts)
        chi_square = ((counts - trials * (1 - p)) ** 2 / (trials * p * (1 - p))).sum().item()
        assert abs(chi_square - len(counts)) < 5 * (2 * len(counts)) ** 0.5


@each_function
def test_the_gradient_passes_where_the_value_did(function):
    x = torch.linspace(-1, 2, 40_001).requires_grad_()
    torch.manual_seed(5)
    out = function(x, 0.4)
    gradient, = torch.autograd.grad(out.sum(), x)
    passed = out.detach().abs() > 1e-6
    torch.testing.assert_close(gradient[passed], torch.full_like(gradient[passed], 1 / 0.6))
    assert (gradient[~passed & (x.detach().abs() > 1e-4)] == 0).all()


def test_the_same_seed_makes_the_same_decisions():
    first, second = draw_mask(2, 1000, 0.5), draw_mask(2, 1000, 0.5)
    assert torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_threads_do_not_change_a_bit():
    def compute():
        torch.manual_seed(0)
        inputs = [torch.randn(4, 70, 5, 6).requires_grad_() for _ in range(3)]
        out = kernels.attention(*inputs, dropout=0.1)
        x = kernels.layer_norm(out.flatten(2), torch.ones(30), torch.zeros(30), 1e-5)
        x = kernels.add_dropout(x, kernels.relu_dropout(x, 0.1), 0.2)
        return x, *gradients(x, inputs)
    alone = compute()
    torch.set_num_threads(3)
    try:
        together = compute()
    finally:
        torch.set_num_threads(1)
    assert all(map(torch.equal, alone, together))


def test_nan_is_not_hidden():
    nan = torch.full((1, 1, 4, 8), float("nan"))
    fine = torch.ones(1, 1, 4, 8)
    assert kernels.attention(nan, fine, fine).isnan().all()
    assert kernels.relu_dropout(nan, 0.1).isnan().any()
    assert kernels.layer_norm(torch.full((2, 16), float("nan")), *torch.ones(2, 16), 1e-5).isnan().all()


def test_without_a_compiler_torch_computes(tmp_path):
    """A process that finds no compiler trains all the same."""
    script = """if True:
        import torch
        from modules import kernels
        from src.models import build_model
        model = build_model("PMR", input_dims=(4, 5, 6), input_lens=(3, 4, 5), output_dim=1, embed_dim=16, num_heads=2,
                            layers=2, attn_dropout=0.1, res_dropout=0.1, relu_dropout=0.1)
        model(torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.randn(2, 5, 6))[0].sum().backward()
        print(kernels.usable(torch.zeros(1)), kernels.state())
    """
    environment = {"CXX": str(tmp_path / "none"), "XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False none: there is no C++ compiler that works, and training on a CPU is slower\n"


def test_the_switch_turns_the_kernels_off(switch):
    x = torch.zeros(1)
    assert kernels.usable(x)
    switch(False)
    assert not kernels.usable(x)
    assert kernels.state().startswith("off")
    script = "import torch; from modules import kernels; print(kernels.usable(torch.zeros(1)))"
    done = subprocess.run([sys.executable, "-c", script], env={**os.environ, "PMR_CPU_KERNELS": "0"},
                          capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_module_dropout_is_off_in_evaluation():
    x, layer = torch.randn(5, 6), Dropout(0.5).eval()
    assert torch.equal(layer(x), x)
    assert torch.equal(layer.of_relu(x), x.relu())
    assert torch.equal(layer.added_to(x, x), x + x)
