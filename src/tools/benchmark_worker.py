"""One contender of benchmark.py: takes a step for each line it reads, and answers with [seconds, peak bytes].

It imports either this project or a checkout of the original, whose packages have the same names.
"""

import json
import re
import runpy
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

DROPOUTS = {"attn_dropout": 0.1, "attn_dropout_a": 0.0, "attn_dropout_v": 0.0, "relu_dropout": 0.1,
            "res_dropout": 0.1, "embed_dropout": 0.25, "out_dropout": 0.1}
LEARNING_RATE, CLIP = 1e-3, 0.8
SPREAD = 0.6  # of the logarithm of the lengths of padded sequences


def build_stock(job: SimpleNamespace) -> nn.Module:
    """The original's model. Its one line that fails today is mended: a view that has to be a reshape."""
    sys.path.insert(0, job.stock)
    path = Path(job.stock, "modules", "position_embedding.py")
    mended = ModuleType("modules.position_embedding")
    exec(compile(path.read_text().replace(".view(", ".reshape("), str(path), "exec"), mended.__dict__)
    modules: Any = import_module("modules")
    sys.modules[mended.__name__] = modules.position_embedding = mended
    dims = dict(zip(("orig_d_l", "orig_d_a", "orig_d_v"), job.dims, strict=True))
    return import_module("src.models").MULTModel(SimpleNamespace(
        **dims, **DROPOUTS, lonly=True, aonly=True, vonly=True, num_heads=job.num_heads, layers=job.layers,
        attn_mask=True, output_dim=1,
    ))


def build_ours(job: SimpleNamespace) -> nn.Module:
    """A model of this project, without some of what makes it fast."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from src.models import build_model  # noqa: PLC0415 - and not the original's
    from src.training.machine import choose_arithmetic, keep_freed_memory, speed_up  # noqa: PLC0415

    from modules import kernels  # noqa: PLC0415

    kernels.switch("kernels" not in job.without)
    choose_arithmetic(False, job.implementation)
    if "kept memory" not in job.without:
        keep_freed_memory()
    model = build_model(
        job.model, input_dims=job.dims, input_lens=job.lens, output_dim=1, embed_dim=job.embed_dim,
        num_heads=job.num_heads, layers=job.layers, **DROPOUTS,
        mask_padding=job.implementation in ("masked", "trimmed"),
        **job.options, **({"attn_mask": False} if job.implementation == "unmasked" else {}),
    )
    return speed_up(model, torch.device(job.device), job.implementation, job.implementation == "compiled")


def make_attention(job: SimpleNamespace) -> Callable[[], Any]:
    """A function that attends from a hub, the three sequences joined, to itself, forward and backward."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from src.training.machine import keep_freed_memory  # noqa: PLC0415

    from modules import kernels  # noqa: PLC0415
    from modules.sequence import Sequence, join, mask  # noqa: PLC0415

    keep_freed_memory()
    hub = join(Sequence.of(torch.empty(job.batch, T, 1, device=job.device)) for T in job.lens)
    seen = mask(hub, hub, causal=job.implementation != "unmasked")
    shape = job.batch, sum(job.lens), job.num_heads, job.embed_dim // job.num_heads
    q, k, v, grad = (torch.randn(shape, device=job.device, requires_grad=True) for _ in range(4))
    return lambda: torch.autograd.grad(kernels.attention(q, k, v, seen, DROPOUTS["attn_dropout"]), (q, k, v), grad)


def make_inputs(job: SimpleNamespace) -> tuple:
    """Random streams, with padding in front where the case has median lengths: three Sequences or (B, T, d) tensors."""
    inputs = [torch.randn(job.batch, T, d) for T, d in zip(job.lens, job.dims, strict=True)]
    for x, median in zip(inputs, job.median_lengths or (), strict=False):
        lengths = median * torch.randn(len(x), 1).mul(SPREAD).exp()
        x[torch.arange(x.size(1)) < x.size(1) - lengths] = 0
    inputs = [x.to(job.device) for x in inputs]
    if job.implementation != "trimmed":
        return tuple(inputs)
    from src.dataset import Split  # noqa: PLC0415 - and not the original's src

    split = Split(tuple(inputs), tuple((x == 0).all(dim=2) for x in inputs), torch.zeros(job.batch, 1), [])
    return split.batch(range(job.batch), job.device, trimmed=True)[0]


def build_optimizer(model: nn.Module, plain: bool, foreach: bool | None = None) -> torch.optim.Optimizer:
    """The optimizer of our training, or plainly torch's, whose `foreach` form is that of a GPU."""
    if plain:
        parameters = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.Adam(parameters, lr=LEARNING_RATE, foreach=foreach)
    from src.training.state import make_optimizer  # noqa: PLC0415 - and not the original's src

    return make_optimizer(model, "Adam", LEARNING_RATE)


def make_step(job: SimpleNamespace) -> Callable[[], Any]:
    """A function that takes one step of training, or makes one prediction."""
    torch.manual_seed(0)
    if job.model == "attention":
        return make_attention(job)
    stock, device = job.implementation == "stock", torch.device(job.device)
    plain_optimizer = stock or "one vector" in job.without
    model = (build_stock if stock else build_ours)(job).to(device).train(not job.inference)
    inputs = make_inputs(job)
    labels = torch.randn(job.batch, 1, device=device)
    optimizer = build_optimizer(model, plain_optimizer, job.launches or None)
    trained = [p for group in optimizer.param_groups for p in group["params"]]

    add_gradients = None if plain_optimizer else import_module("src.training.state").add_gradients

    def predict() -> Tensor:
        return model(*inputs)[0]

    def step() -> None:
        optimizer.zero_grad(set_to_none=plain_optimizer)
        loss = (predict() - labels).abs().mean()
        if add_gradients:
            add_gradients(loss, model)
        else:
            loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()

    return torch.no_grad()(predict) if job.inference else step


def peak_bytes(device: str) -> int:
    """The most memory that this process has held: on the GPU, or else all of it."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")  # the other figure may be that of the process that started this one
    own = re.search(r"VmHWM:\s*(\d+)", status.read_text() if status.exists() else "")
    if own:
        return 1024 * int(own[1])
    from resource import RUSAGE_SELF, getrusage  # noqa: PLC0415, Windows has none

    return 1024 * getrusage(RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Serve steps until the other side closes."""
    job = SimpleNamespace(**json.loads(sys.argv[1]))
    if job.threads:
        torch.set_num_threads(job.threads)
    step = make_step(job)
    count = runpy.run_path(str(Path(__file__).with_name("launches.py")))["count"] if job.launches else None
    for _ in sys.stdin:
        if count:
            print(json.dumps(count(step, job.implementation == "compiled")), flush=True)
            continue
        start = time.perf_counter()
        step()
        if job.device.startswith("cuda"):
            torch.cuda.synchronize()
        print(json.dumps([time.perf_counter() - start, peak_bytes(job.device)]), flush=True)


if __name__ == "__main__":
    main()
