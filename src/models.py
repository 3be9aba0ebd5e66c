"""The PMR model, and the registry of every model that main.py trains."""

from contextlib import contextmanager
from functools import partial
from inspect import signature
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from baselines.mult import MulT
from baselines.mult_ffl import MulTFFL
from modules.multimodal import MODALITIES, MultimodalModel, by_modality
from modules.pmr_layer import ReinforcementLayer
from modules.position_embedding import PositionEmbedding
from modules.side_by_side import OneByOne
from modules.transformer import TransformerEncoder
from modules.trimming import joined, keep
from src.errors import UserError
from src.options import MOST_LAYERS, OUR_CHOICE, Choices, Option, Range, count

if TYPE_CHECKING:
    from src.dataset import Dataset
    from src.settings import Settings

HUB_ORDER = ("l", "v", "a")  # the paper's Z_C = [Z_L, Z_V, Z_A]
POOLS = ("last", "mean")
OPTIONS = (  # none of PMR's hyper-parameters are public, so every range is our choice
    Option("modalities", "modalities that take part, e.g. la or v"),
    Option("message_update", "how the hub is renewed: attention, mean or none"),
    Option("dynamic_filter", switches={"--no_dynamic_filter": (False, "fix the gate G at 1/2")}),
    Option("residual", search=Choices((True, False), OUR_CHOICE), switches={
        "--no_residual": (False, "the literal reinforcement unit, no residual around its branches"),
    }),
    Option("message_form", "weights of the message attention: lowrank or full"),
    Option("message_dim", "width k of the message score", count(1), search=Choices((4, 8, 16, 32), OUR_CHOICE)),
    Option("message_rank", "rank r of lowrank message weights", count(1), search=Choices((1, 2, 4), OUR_CHOICE)),
    Option("readout_layers", "layers of the last encoder", count(1, MOST_LAYERS), search=Range(1, 3, OUR_CHOICE)),
    Option("pool", "what is read of each segment: last (step) or mean", search=Choices(POOLS, OUR_CHOICE)),
)
ABLATIONS = {
    "mean_update": ("message update by averaging", ("--message_update", "mean")),
    "no_update": ("messages of low-level features only", ("--message_update", "none")),
    "no_filter": ("no dynamic filter, G = 1/2", ("--no_dynamic_filter",)),
    "only_l": ("language only", ("--modalities", "l")),
    "only_a": ("audio only", ("--modalities", "a")),
    "only_v": ("vision only", ("--modalities", "v")),
    "only_la": ("language and audio", ("--modalities", "la")),
    "only_lv": ("language and vision", ("--modalities", "lv")),
    "only_av": ("audio and vision", ("--modalities", "av")),
}


class PMR(MultimodalModel):
    """Progressive Modality Reinforcement (Lv et al., CVPR 2021).

    `input_dims`, `input_lens` (the message weights have the length of the hub) and `kernel_sizes` are (language,
    audio, vision). Attention dropout goes by the source of a reinforcement unit, as in MulT: `attn_dropout` for
    language and the hub, `_a` for audio, `_v` for vision. None of the paper's hyper-parameters are public: every
    default is our choice.

    Options of its own:
        modalities      which of "l", "a", "v" take part, e.g. "la" (an ablation)
        message_update  "attention", "mean" or "none": the hub is averaged, or never renewed (ablations)
        dynamic_filter  False fixes the gate G at 1/2 (an ablation)
        residual        False is the literal form of the paper's MRU
        message_form    "lowrank" or "full" message weights W_m, of width `message_dim` (k) and `message_rank` (r)
        readout_layers  layers of the last encoder
        pool            read the "last" step of each segment, or the "mean" of its real steps
        mask_padding    hide padding from every attention
        trim_padding    then cut the front padding that a batch shares: the same results, sooner
    """

    options, ablations = OPTIONS, ABLATIONS

    def __init__(self, *, input_dims, input_lens, output_dim, embed_dim, num_heads, layers, kernel_sizes=(1, 1, 1),
                 attn_dropout=0.0, attn_dropout_a=0.0, attn_dropout_v=0.0, relu_dropout=0.0, embed_dropout=0.0,
                 res_dropout=0.0, out_dropout=0.0, mask_padding=False, trim_padding=False, modalities="lav",
                 message_update="attention", dynamic_filter=True, residual=True, message_form="lowrank", message_dim=8,
                 message_rank=2, readout_layers=1, pool="last"):
        chosen = tuple(m for m in MODALITIES if m in modalities)
        if sorted(modalities) != sorted(chosen) or not chosen:
            raise ValueError(f"modalities is {modalities!r}; it takes some of the letters l, a and v, once each")
        if pool not in POOLS:
            raise ValueError(f"pool is {pool!r}; it can be {' or '.join(POOLS)}")
        super().__init__(
            input_dims=input_dims, output_dim=output_dim, embed_dim=embed_dim, kernel_sizes=kernel_sizes,
            hidden_dim=embed_dim * len(chosen), embed_dropout=embed_dropout, out_dropout=out_dropout,
            modalities=chosen, mask_padding=mask_padding, trim_padding=trim_padding,
        )
        self.modalities = chosen
        self.hub_order = tuple(m for m in HUB_ORDER if m in chosen)
        self.lengths = {m: length for m, length in by_modality(input_lens).items() if m in chosen}
        self.pool = pool
        source_dropout = by_modality((attn_dropout, attn_dropout_a, attn_dropout_v))
        self.embed = PositionEmbedding(embed_dim, embed_dropout)
        self.layers = nn.ModuleList(
            ReinforcementLayer(
                embed_dim, num_heads, hub_len=sum(self.lengths.values()),
                attn_dropouts={m: source_dropout[m] for m in chosen}, hub_dropout=attn_dropout,
                relu_dropout=relu_dropout, res_dropout=res_dropout, dynamic_filter=dynamic_filter, residual=residual,
                message_update=message_update, message_form=message_form, message_dim=message_dim,
                message_rank=message_rank,
            )
            for _ in range(layers)
        )
        self.readout = TransformerEncoder(
            embed_dim, num_heads, readout_layers, attn_dropout, relu_dropout, res_dropout, embed_dropout
        )

    def forward(self, text, audio, vision, padding=None):
        """(B, T_m, d_m) each -> prediction (B, output_dim), hidden (B, d per modality).

        `padding` is three (B, T_m) bool masks, True where a step is padding; without it, all-zero steps are.
        """
        Z, padding = self.project(self.modalities, text, audio, vision, padding)
        self._check_lengths(Z)
        kept = self.kept_steps(padding)
        Z = {m: keep(self.embed(Z[m], padding[m]), kept[m], dim=1) for m in self.modalities}  # (B, T_m, d)
        padding = {m: keep(padding[m], kept[m], dim=1) for m in self.modalities}
        Z_C = self.in_hub_order(Z)  # (B, T_C, d)
        hub_kept = joined([kept[m] for m in self.hub_order])
        hidden_padding, hub_padding = dict.fromkeys(self.modalities), None
        if self.mask_padding:
            hidden_padding, hub_padding = padding, self.in_hub_order(padding)
        for layer in self.layers:
            Z, Z_C = layer(Z, Z_C, hidden_padding, hub_padding, hub_kept)
        return self._read_segments(Z, Z_C, padding, hub_padding, hub_kept)

    def in_hub_order(self, by_modality):
        """[l, v, a] in time: (B, T_m, ...) of each modality -> (B, T_C, ...)."""
        return torch.cat([by_modality[m] for m in self.hub_order], dim=1)

    def _read_segments(self, Z, Z_C, padding, hub_padding, hub_kept):
        """Encode [Z_C, Z_L, Z_V, Z_A] and read the modalities' segments -> prediction, hidden (B, d per modality)."""
        both = None if hub_padding is None else hub_padding.repeat(1, 2)
        sequence = torch.cat([Z_C, self.in_hub_order(Z)], dim=1)  # (B, 2 T_C, d)
        ends = dict(zip(self.hub_order, accumulate(Z[m].size(1) for m in self.hub_order), strict=True))
        encode = partial(self.readout, sequence, hidden_padding=both, kept=joined([hub_kept] * 2))
        if self.pool == "last":
            steps = [Z_C.size(1) + ends[m] - 1 for m in self.modalities]
            hidden = encode(steps=steps).flatten(1)
        else:
            segments = encode()[:, Z_C.size(1):]
            hidden = torch.cat([
                mean_of_real_steps(segments[:, ends[m] - Z[m].size(1):ends[m]], padding[m]) for m in self.modalities
            ], dim=-1)
        return self.read_out(hidden), hidden

    def _check_lengths(self, sequences):
        lengths = {m: z.size(1) for m, z in sequences.items()}
        if lengths != self.lengths:
            raise ValueError(f"sequences of {lengths} steps given to a PMR that was built for {self.lengths}")

    @contextmanager
    def recording(self, *kinds):
        """Record what the model decides: `with model.recording() as record: model(text, audio, vision)`.

        After each forward pass `record["gates"]` maps the name of each dynamic filter to its G (B, T_t, d),
        `record["alphas"]` each message update to its alpha (B, M), M in the order of `model.modalities`, and
        `record["attention"]` each reinforcement unit to the mean over heads of its crossmodal weights (B, T_t, T_s).
        `kinds` names those wanted; all without. Nothing is cut inside the `with`, so that all steps are there; outside
        nothing is kept and nothing slowed.
        """
        record = {"gates": {}, "alphas": {}, "attention": {}}
        readings = {
            ".gate": ("gates", lambda module, inputs, output: output),
            ".alpha": ("alphas", lambda module, inputs, output: output),
            ".cross_attn": ("attention", lambda module, inputs, output: module.weights(*inputs).mean(dim=1)),
        }
        hooks = [
            module.register_forward_hook(partial(keep_reading, record[kind], name.removesuffix(suffix), read))
            for name, module in self.named_modules()
            for suffix, (kind, read) in readings.items()
            if name.endswith(suffix) and (not kinds or kind in kinds)
        ]
        trim_padding, self.trim_padding = self.trim_padding, False
        try:
            with OneByOne():
                yield record
        finally:
            self.trim_padding = trim_padding
            for hook in hooks:
                hook.remove()


def keep_reading(kept, name, read, module, inputs, output):
    """A forward hook, once its first three arguments are bound: keep under the name what is read of the pass."""
    value = read(module, inputs, output).detach()
    kept[name] = value.float() if value.dtype == torch.bfloat16 else value


def mean_of_real_steps(x, padding):
    """Mean over the steps of (B, T, d) that padding (B, T) does not mark -> (B, d); over all where it marks all."""
    real = (~padding | padding.all(dim=1, keepdim=True)).unsqueeze(-1)  # (B, T, 1)
    return (x * real).sum(dim=1) / real.sum(dim=1)


MODELS = {"PMR": PMR, "MulT": MulT, "MulT-FFL": MulTFFL}  # to add a model: its own file, and its class here


def find_model(name: str) -> str:
    """The registry's spelling of a model's name given in any case."""
    for known in MODELS:
        if known.lower() == str(name).strip().lower():
            return known
    raise ValueError(f"no model is called {name!r}; there are {', '.join(MODELS)}")


def arguments_of(name: str) -> dict[str, Any]:
    """The arguments of a model's class and their defaults, Signature.empty where there is none."""
    return {p.name: p.default for p in signature(MODELS[find_model(name)]).parameters.values()}


def options_of(name: str) -> dict[str, Option]:
    """The options of its own that a model declares, by name."""
    return {option.name: option for option in getattr(MODELS[find_model(name)], "options", ())}


def ablations_of(name: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The ablations of a model: {name: (title, flags)}."""
    return getattr(MODELS[find_model(name)], "ablations", {})


def owners_of(argument: str) -> list[str]:
    """The models whose class has an argument."""
    return [name for name in MODELS if argument in arguments_of(name)]


def check_used(name: str, options: dict[str, Any]) -> None:
    """ValueError where a model has no use for one of some options."""
    for option, value in options.items():
        if option not in arguments_of(name):
            owners = owners_of(option)
            of_others = f" (an option of {', '.join(owners)})" if owners else ""
            raise ValueError(f"{name} has no use for {option}={value!r}{of_others}")


def build_model(name: str, **arguments: Any) -> nn.Module:
    """Build a model of the registry, initialised from torch's global generator.

    `arguments` are those of the model's class. Every class takes `input_dims` and `input_lens`, each (language, audio,
    vision), and `output_dim`. ValueError says what is wrong with a name, an argument or a value; an argument that the
    class does not have is an error, not ignored.
    """
    name = find_model(name)
    check_used(name, arguments)
    return MODELS[name](**arguments)


def build(settings: "Settings", dataset: "Dataset") -> nn.Module:
    """The model of the settings for a data set, initialised from the seed; UserError where the two do not fit."""
    torch.manual_seed(settings.seed)
    sizes = {"input_dims": dataset.input_dims, "input_lens": dataset.input_lens, "output_dim": dataset.task.output_dim}
    try:
        return build_model(settings.model, **sizes, **settings.model_arguments())
    except ValueError as error:
        raise UserError(str(error)) from error
