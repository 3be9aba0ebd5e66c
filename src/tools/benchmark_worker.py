"""One contender of benchmark.py: takes a step for each line it reads, and answers with its seconds and its peak.

It imports either this project or a checkout of the original, whose packages have the same names.
"""

import contextlib
import json
import re
import resource
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import torch

DROPOUTS = {"attn_dropout": 0.1, "attn_dropout_a": 0.0, "attn_dropout_v": 0.0, "relu_dropout": 0.1,
            "res_dropout": 0.1, "embed_dropout": 0.25, "out_dropout": 0.1}
LEARNING_RATE, CLIP = 1e-3, 0.8
SPREAD = 0.6  # of the logarithm of the lengths of padded sequences


def build_stock(case, folder):
    """The original's model, its one line that fails today mended: a view that has to be a reshape."""
    sys.path.insert(0, folder)
    import modules  # noqa: PLC0415 - the original's

    path = Path(folder, "modules", "position_embedding.py")
    mended = ModuleType("modules.position_embedding")
    exec(compile(path.read_text().replace(".view(", ".reshape("), str(path), "exec"), mended.__dict__)
    sys.modules[mended.__name__] = modules.position_embedding = mended
    from src.models import MULTModel  # noqa: PLC0415 - the original's

    dims = dict(zip(("orig_d_l", "orig_d_a", "orig_d_v"), case["dims"], strict=True))
    return MULTModel(SimpleNamespace(
        **dims, **DROPOUTS, lonly=True, aonly=True, vonly=True, num_heads=case["num_heads"], layers=case["layers"],
        attn_mask=True, output_dim=1,
    ))


def build_ours(case, without, **options):
    """A model of this project, without some of what makes it fast."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from src.models import build_model  # noqa: PLC0415
    from src.training.machine import keep_freed_memory  # noqa: PLC0415

    from modules import kernels  # noqa: PLC0415 - and not the original's

    kernels.switch("kernels" not in without)
    if "kept memory" not in without:
        keep_freed_memory()
    return build_model(
        case["model"], input_dims=case["dims"], input_lens=case["lens"], output_dim=1, embed_dim=case["embed_dim"],
        num_heads=case["num_heads"], layers=case["layers"], **DROPOUTS, **options,
    )


def trimmed(features):
    """The features without the front padding that all samples share, as a batch of training has them."""
    from src.dataset import Split  # noqa: PLC0415 - and not the original's src

    split = Split(tuple(features), tuple((x == 0).all(dim=2) for x in features), torch.zeros(len(features[0]), 1), [])
    return split.batch(range(len(split)), features[0].device, trimmed=True)[0]


def build_optimizer(model, plain):
    """The optimizer of our training, or plainly torch's."""
    if plain:
        return torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    from src.training.state import make_optimizer  # noqa: PLC0415 - and not the original's src

    return make_optimizer(model, "Adam", LEARNING_RATE)


def make_step(job):
    """A function that takes one step."""
    case, device = job["case"], torch.device(job["device"])
    torch.manual_seed(0)
    is_stock, ours = job["implementation"] == "stock", job["implementation"] == "ours"
    model = build_stock(case, job["stock"]) if is_stock else build_ours(
        case, job["without"], mask_padding=job["implementation"] in ("masked", "trimmed"),
    )
    plain_optimizer = is_stock or "one vector" in job["without"]
    model = model.to(device).train(not job["inference"])
    inputs = [torch.randn(case["batch"], T, d) for T, d in zip(case["lens"], case["dims"], strict=True)]
    for x, median in zip(inputs, case["median_lengths"] or (None,) * 3, strict=True):
        if median is None:
            continue
        lengths = median * torch.randn(len(x), 1).mul(SPREAD).exp()
        x[torch.arange(x.size(1)) < x.size(1) - lengths] = 0
    inputs = [x.to(device) for x in inputs]
    if job["implementation"] == "trimmed":
        inputs = trimmed(inputs)
    labels = torch.randn(case["batch"], 1, device=device)
    optimizer = build_optimizer(model, plain_optimizer)
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    forward = torch.compile(model) if job["compile"] and ours else model
    precision = torch.autocast(device.type, torch.bfloat16) if job["amp"] and ours else contextlib.nullcontext()

    def step():
        optimizer.zero_grad(set_to_none=plain_optimizer)
        with precision:
            prediction, _ = forward(*inputs)
        (prediction.float() - labels).abs().mean().backward()
        torch.nn.utils.clip_grad_norm_(trained, CLIP)
        optimizer.step()

    @torch.no_grad()
    def predict():
        with precision:
            forward(*inputs)

    return predict if job["inference"] else step


def peak_bytes(device):
    """The most memory that this process has held: on the GPU, or else all of it."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")  # the other figure may be that of the process that started this one
    own = re.search(r"VmHWM:\s*(\d+)", status.read_text() if status.exists() else "")
    return 1024 * int(own[1] if own else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def main():
    """Serve steps until the other side closes."""
    job = json.loads(sys.argv[1])
    if job["threads"]:
        torch.set_num_threads(job["threads"])
    step = make_step(job)
    synchronize = torch.cuda.synchronize if job["device"].startswith("cuda") else lambda: None
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        synchronize()
        answer = {"seconds": time.perf_counter() - start, "peak": peak_bytes(job["device"])}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
