"""The PMR model, and the registry of every model that main.py trains."""

from functools import cache, partial
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from src.errors import UserError
from src.options import CAUSAL_MASK, MOST_LAYERS, OUR_CHOICE, Choices, Option, Range, count

from baselines.linear import Linear
from baselines.lstm import EFLSTM, LFLSTM
from baselines.mult import MulT
from baselines.mult_ffl import MulTFFL
from baselines.pmr_report import PMRReport
from modules.layers import LayerNorm
from modules.multimodal import MODALITIES, MultimodalModel, by_modality
from modules.pmr_layer import (
    FullMessageWeights,
    HubTokens,
    LowRankMessageWeights,
    MessageUpdateModule,
    ModalityReinforcementUnit,
    ReinforcementLayer,
)
from modules.position_embedding import PositionEmbedding
from modules.record import Decisions, Record
from modules.sequence import Sequence, join
from modules.transformer import TransformerEncoder

if TYPE_CHECKING:
    from src.dataset import Dataset
    from src.runs.trained import TrainedOn
    from src.settings import Settings

HUB_ORDER = ("l", "v", "a")  # the paper's Z_C = [Z_L, Z_V, Z_A]
POOLS = ("last", "mean")
MESSAGE_UPDATES = ("attention", "mean", "none")
MESSAGE_FORMS = ("lowrank", "full")
OPTIONS = (  # none of PMR's hyper-parameters are public, so every range is our choice
    CAUSAL_MASK,
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
    Option("readout_norm", search=Choices((False, True), OUR_CHOICE), switches={
        "--readout_norm": (True, "a layer norm before the last encoder"),
    }),
    Option("hub_tokens", "a hub of so many steps, whose cost grows linearly with the lengths (ours); 0: the paper's",
           count(0)),
    Option("self_window", "steps that a modality's attention to itself reaches back (ours); 0: all", count(0)),
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
DEFAULTS = {"attn_mask": False, "mask_padding": True, "embed_dim": 60, "num_heads": 5, "nlevels": 4}
PRESETS = {  # our choice, near the published 2.15 M and MulT's 1.07 M parameters: 2.20 M and 1.29 M on unaligned MOSEI
    "published_size": {"embed_dim": 50, "num_heads": 5, "nlevels": 6},
    "mult_size": {"embed_dim": 40, "num_heads": 8, "nlevels": 5},
    "tuned": DEFAULTS,
}


class PMR(MultimodalModel):
    """Progressive Modality Reinforcement (Lv et al., CVPR 2021).

    `input_dims`, `input_lens` (the message weights have the length of the hub) and `kernel_sizes` are (language,
    audio, vision). Attention dropout goes by the source of a reinforcement unit, as in MulT: `attn_dropout` for
    language and the hub, `_a` for audio, `_v` for vision. None of the paper's hyper-parameters are public: every
    default is our choice; a protocol chose `defaults` on validation (docs/measured/defaults.md).

    OPTIONS says what each of its own options does. `attn_mask` lies between each two segments (modules/sequence.py), in
    units and read-out; `hub_tokens` are learned queries; `mask_padding` hides padding from every attention.
    """

    options, ablations, defaults, presets = OPTIONS, ABLATIONS, DEFAULTS, PRESETS

    def __init__(self, *, input_dims: tuple, input_lens: tuple, output_dim: int, embed_dim: int, num_heads: int,
                 layers: int, kernel_sizes: tuple = (1, 1, 1), attn_dropout: float = 0.0, attn_dropout_a: float = 0.0,
                 attn_dropout_v: float = 0.0, relu_dropout: float = 0.0, embed_dropout: float = 0.0,
                 res_dropout: float = 0.0, out_dropout: float = 0.0, mask_padding: bool = False,
                 attn_mask: bool = True, modalities: str = "lav", message_update: str = "attention",
                 dynamic_filter: bool = True, residual: bool = True, message_form: str = "lowrank",
                 message_dim: int = 8, message_rank: int = 2, readout_layers: int = 1, readout_norm: bool = False,
                 hub_tokens: int = 0, self_window: int = 0, pool: str = "last") -> None:
        chosen = tuple(m for m in MODALITIES if m in modalities)
        if sorted(modalities) != sorted(chosen) or not chosen:
            raise ValueError(f"modalities is {modalities!r}; it takes some of the letters l, a and v, once each")
        check_choice("pool", pool, POOLS)
        check_choice("message_update", message_update, MESSAGE_UPDATES)
        check_choice("message_form", message_form, MESSAGE_FORMS)
        super().__init__(
            input_dims=input_dims, output_dim=output_dim, embed_dim=embed_dim, kernel_sizes=kernel_sizes,
            hidden_dim=embed_dim * len(chosen), embed_dropout=embed_dropout, out_dropout=out_dropout,
            modalities=chosen, mask_padding=mask_padding,
        )
        self.modalities = chosen
        self.hub_order = tuple(m for m in HUB_ORDER if m in chosen)
        self.lengths = {m: length for m, length in by_modality(input_lens).items() if m in chosen}
        self.pool = pool
        self.hub = HubTokens(hub_tokens, embed_dim, num_heads, attn_dropout) if hub_tokens else None
        self.embed = PositionEmbedding(embed_dim, embed_dropout)
        source_dropout = by_modality((attn_dropout, attn_dropout_a, attn_dropout_v))
        block: dict[str, Any] = {"relu_dropout": relu_dropout, "res_dropout": res_dropout}
        unit = partial(ModalityReinforcementUnit, embed_dim, num_heads, dynamic_filter=dynamic_filter,
                       residual=residual, attn_mask=attn_mask, **block)
        hub_weights = partial(FullMessageWeights if message_form == "full" else
                              partial(LowRankMessageWeights, rank=message_rank),
                              hub_tokens or sum(self.lengths.values()), embed_dim, message_dim)

        def update() -> MessageUpdateModule:
            units = {m: unit(attn_dropout=source_dropout[m]) for m in chosen}  # MRU_{m->C}
            weighted = message_update == "attention" and len(chosen) > 1  # of one modality nothing is to be weighed
            weights = {m: hub_weights() for m in chosen} if weighted else None
            return MessageUpdateModule(units, weights, embed_dim, message_dim, **block)

        self.layers = nn.ModuleList(
            ReinforcementLayer({m: unit(attn_dropout=attn_dropout, self_window=self_window) for m in chosen},
                               None if message_update == "none" else update())
            for _ in range(layers)
        )
        self.readout_norm = LayerNorm(embed_dim) if readout_norm else nn.Identity()
        self.readout = TransformerEncoder(embed_dim, num_heads, readout_layers, attn_dropout, relu_dropout,
                                          res_dropout, embed_dropout, attn_mask)

    def forward(self, text: Sequence | Tensor, audio: Sequence | Tensor, vision: Sequence | Tensor,
                decisions: Decisions | None = None) -> tuple[Tensor, Tensor]:
        """Sequences of features, or (B, T_m, d_m) each -> prediction (B, output_dim), hidden (B, d per modality).

        `decisions`, a dictionary, gets "gates": by dynamic filter its G (B, T_t, d); "alphas": by message update its
        alpha (B, M), M in the order of `modalities`; "attention": by reinforcement unit the mean over heads of its
        crossmodal weights (B, T_t, T_s). If it has keys, it gets those alone. The names are those of the modules.
        """
        Z, record = self.project(self.modalities, text, audio, vision), Record.into(decisions)
        if self.hub is None and (lengths := {m: z.length for m, z in Z.items()}) != self.lengths:
            raise ValueError(f"sequences of {lengths} steps given to a PMR that was built for {self.lengths}")
        Z = {m: z.on(self.embed(z)) for m, z in Z.items()}  # (B, T_m, d)
        streams = [Z[m] for m in self.hub_order]
        Z_C = join(streams) if self.hub is None else self.hub(streams)  # (B, T_C, d)
        for i, layer in enumerate(self.layers):
            Z, Z_C = layer(Z, Z_C, record.of(f"layers.{i}"))
        read = self._read_segments if self.hub is None else self._read_beside_tokens
        hidden = read(Z, Z_C, record.of("readout"))
        return self.read_out(hidden), hidden

    def _read_segments(self, Z: dict[str, Sequence], Z_C: Sequence, record: Record) -> Tensor:
        """Encode [Z_C, Z_L, Z_V, Z_A] and read the modalities' segments -> (B, d per modality)."""
        whole = join([Z_C, *(Z[m] for m in self.hub_order)])._replace(padding=None)  # (B, 2 T_C, d)
        whole = whole.on(self.readout_norm(whole.x))
        places = {m: p for p, m in enumerate(self.hub_order, len(self.hub_order))}  # of the segments of Z
        if self.pool == "last":
            return self.readout(whole, last_of=[places[m] for m in self.modalities], record=record).flatten(1)
        segments = self.readout(whole, record=record).split([segment.kept for segment in whole.segments], dim=1)
        return torch.cat([mean_of_real_steps(z.on(segments[places[m]])) for m, z in Z.items()], dim=-1)

    def _read_beside_tokens(self, Z: dict[str, Sequence], Z_C: Sequence, record: Record) -> Tensor:
        """Encode [Z_C, a step for each modality] and read the latter -> (B, d per modality)."""
        whole = join([Z_C, *(one_step(z, self.pool) for z in Z.values())])._replace(padding=None)  # (B, K + M, d)
        whole = whole.on(self.readout_norm(whole.x))
        return self.readout(whole, last_of=[*range(1, len(Z) + 1)], record=record).flatten(1)


def check_choice(option: str, value: str, choices: tuple) -> None:
    """ValueError, in one line, unless the value of an option is one of its choices."""
    if value not in choices:
        raise ValueError(f"{option} is {value!r}; it can be {', '.join(choices[:-1])} or {choices[-1]}")


def mean_of_real_steps(sequence: Sequence) -> Tensor:
    """Mean over the steps of (B, T, d) that are no padding -> (B, d). Of a sample that is padding throughout, it reads
    the last step, or all steps if padding is not hidden.
    """
    assert sequence.padding is not None
    counted = ~sequence.padding  # (B, T)
    steps = torch.arange(counted.size(1), device=counted.device)
    instead = steps >= (0 if sequence.hidden is None else len(steps) - 1)  # (T,)
    weights = (counted | sequence.padding.all(dim=1, keepdim=True) & instead).unsqueeze(-1)  # (B, T, 1)
    return (sequence.x * weights).sum(dim=1) / weights.sum(dim=1)


def one_step(sequence: Sequence, pool: str) -> Sequence:
    """The last step of a sequence, or the mean of its real ones, hidden where what it is made of is hidden."""
    hidden = sequence.hidden
    if pool == "last":
        return Sequence.of(sequence.x[:, -1:])._replace(hidden=None if hidden is None else hidden[:, -1:])
    hidden = None if hidden is None else hidden.all(dim=1, keepdim=True)
    return Sequence.of(mean_of_real_steps(sequence).unsqueeze(1))._replace(hidden=hidden)


# to add a model: its own file, and its class here
MODELS: dict[str, type[nn.Module]] = {
    "PMR": PMR, "PMR-report": PMRReport, "MulT": MulT, "MulT-FFL": MulTFFL, "EF-LSTM": EFLSTM, "LF-LSTM": LFLSTM,
    "Linear": Linear,
}


signature_of: Any = cache(signature)  # each command asks for it hundreds of times


def find_model(name: str) -> str:
    """The registry's spelling of a model's name given in any case."""
    for known in MODELS:
        if known.lower() == str(name).strip().lower():
            return known
    raise ValueError(f"no model is called {name!r}; there are {', '.join(MODELS)}")


def arguments_of(name: str) -> dict[str, Any]:
    """The arguments of a model's class and their defaults, Signature.empty where there is none."""
    return {p.name: p.default for p in signature_of(MODELS[find_model(name)]).parameters.values()}


def options_of(name: str) -> dict[str, Option]:
    """The options of its own that a model declares, by name."""
    return {option.name: option for option in getattr(MODELS[find_model(name)], "options", ())}


def ablations_of(name: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The ablations of a model: {name: (title, flags)}."""
    return getattr(MODELS[find_model(name)], "ablations", {})


def defaults_of(name: str) -> dict[str, Any]:
    """The settings that a model has in place of those of `paper` and `stock`."""
    return getattr(MODELS[find_model(name)], "defaults", {})


def presets_of(name: str) -> dict[str, dict[str, Any]]:
    """The presets of a model's own: {name: settings that differ from the data set's default preset}."""
    return getattr(MODELS[find_model(name)], "presets", {})


def varies_by_seed(name: str) -> bool:
    """Whether training depends on the seed. A class says `varies_by_seed = False` where it does not."""
    return getattr(MODELS[find_model(name)], "varies_by_seed", True)


def takes_unaligned(name: str) -> bool:
    """Whether a model takes streams of different lengths. A class says `aligned_only = True` where it does not."""
    return not getattr(MODELS[find_model(name)], "aligned_only", False)


def makes_decisions(name: str) -> bool:
    """Whether a model hands out gates, message weights or attention: whether its forward pass takes `decisions`."""
    return "decisions" in signature(MODELS[find_model(name)].forward).parameters


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


def build(settings: "Settings", data: "Dataset | TrainedOn") -> nn.Module:
    """The model of the settings for a data set, initialised from the seed; UserError where the two do not fit."""
    torch.manual_seed(settings.seed)
    sizes = {"input_dims": data.input_dims, "input_lens": data.input_lens, "output_dim": data.task.output_dim}
    try:
        return build_model(settings.model, **sizes, **settings.model_arguments())
    except ValueError as error:
        raise UserError(str(error)) from error
