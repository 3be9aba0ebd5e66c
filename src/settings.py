"""The settings of a run: flags and a preset, joined into one frozen record.

A value comes from a flag, else from the preset, else from the stock default. Presets: `paper` is the row of the data
set in MulT's Table 5, the default for a known data set; `stock` is the original's command-line defaults, the default
for any other. A model's class may have `defaults` in place of a part of these, as PMR has, and `presets` of its own,
which change a few settings of the usual one. A preset can also be the file that a search wrote (src/presets.py).
"""

import argparse
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from src.data.specs import DatasetSpec, find_spec
from src.dataset import Dataset
from src.errors import Parser, UserError, printable
from src.models import MODELS, arguments_of, check_used, defaults_of, find_model, options_of, owners_of, presets_of
from src.options import MOST_LAYERS, Option, check_value, count, positive, probability
from src.presets import read_preset, search_cost
from src.tasks.choice import Asked
from src.tasks.flags import LABEL_FLAGS

OPTIMIZERS = ("Adam", "AdamW", "RMSprop", "SGD")
PRESETS = ("paper", "stock")
DATA_DEVICES = ("auto", "cpu", "cuda")
SELDOM = ("search", "modality_dropout", *LABEL_FLAGS)  # recorded only where there is one
PRECISIONS = ("float32", "tf32", "bfloat16", "float64")
NEEDS = {"trim_padding": "mask_padding", "sort_batches": "trim_padding"}  # flags without effect by themselves
ARGUMENTS = {"nlevels": "layers", **dict.fromkeys(("kernel_l", "kernel_a", "kernel_v"), "kernel_sizes")}  # of models


def folder_name(text: str) -> str:
    """An argparse type: a text that can be part of a folder's name."""
    if Path(text).name != text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be part of a folder's name; leave out slashes")
    return text


def flag(group: str, default: Any, help: str, **argparse_options: Any) -> Any:
    """A field of Settings and its command-line flag, --{field}."""
    return field(default=default, metadata={"group": group, "help": help, **argparse_options})


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run. Defaults are the original's where it has the flag.

    `options` are those that the model declares itself (src/options.py), by name.
    """

    model: str = flag("task", "MulT", "%(models)s, in any case")
    dataset: str = flag("task", "mosei_senti", "mosi, mosei (or mosei_senti), iemocap, sims, simsv2, meld, "
                        "ur_funny, mustard, ravdess, demo, or NAME of NAME_data.pkl")
    aligned: bool = flag("task", False, "take the word-aligned sequences", action="store_true")
    data_path: str = flag("task", "data", "folder of the data files, or the file itself")
    preset: str | None = flag("task", None, "settings to start from: paper for a known data set, else stock; one "
                              "of the model's own (%(presets)s); or a FILE of python -m src tune")
    search: str | None = field(default=None)  # the cost of finding the settings of a preset's file

    task: str | None = flag("labels", None, **LABEL_FLAGS["task"])
    label_names: str | None = flag("labels", None, **LABEL_FLAGS["label_names"])
    scale: str | None = flag("labels", None, **LABEL_FLAGS["scale"])
    class_weights: str | None = flag("labels", None, **LABEL_FLAGS["class_weights"])

    attn_dropout: float = flag("dropout", 0.1, "attention to language, and self-attention", type=probability)
    attn_dropout_a: float = flag("dropout", 0.0, "attention to audio", type=probability)
    attn_dropout_v: float = flag("dropout", 0.0, "attention to vision", type=probability)
    relu_dropout: float = flag("dropout", 0.1, "inside the feed-forward blocks", type=probability)
    embed_dropout: float = flag("dropout", 0.25, "on the text features and on embedded sequences", type=probability)
    res_dropout: float = flag("dropout", 0.1, "on each branch before its residual", type=probability)
    out_dropout: float = flag("dropout", 0.0, "in the output block", type=probability)

    nlevels: int = flag("architecture", 5, "layers D", type=count(1, MOST_LAYERS))
    num_heads: int = flag("architecture", 5, "attention heads h", type=count(1))
    embed_dim: int = flag("architecture", 30, "width d that the modalities are projected to", type=count(1))
    kernel_l: int = flag("architecture", 1, "steps that the projection of language spans", type=count(1))
    kernel_a: int = flag("architecture", 1, "steps that the projection of audio spans", type=count(1))
    kernel_v: int = flag("architecture", 1, "steps that the projection of vision spans", type=count(1))
    mask_padding: bool = flag("architecture", False, "hide padding from attention; the original does not",
                              action="store_true")

    options: dict[str, Any] = field(default_factory=dict, hash=False)

    trim_padding: bool = flag("training", False, "cut the front padding that a batch shares: the same results, "
                              "sooner; with --mask_padding", action="store_true")
    batch_size: int = flag("training", 24, "samples a step", type=count(1))
    sort_batches: bool = flag("training", False, "train on batches of samples of like length, in a random order; with "
                              "--trim_padding", action="store_true")
    batch_chunk: int = flag("training", 1, "parts that a batch is computed in, to save memory", type=count(1))
    lr: float = flag("training", 1e-3, "initial learning rate", type=positive)
    optim: str = flag("training", "Adam", "optimizer", choices=OPTIMIZERS)
    clip: float = flag("training", 0.8, "largest norm of the gradient", type=positive)
    num_epochs: int = flag("training", 40, "epochs", type=count(1))
    when: int = flag("training", 20, "epochs without a better validation loss before lr falls to a tenth",
                     type=count(0))
    early_stop: int = flag("training", 0, "epochs without a better validation loss before the run ends; 0 is never",
                           type=count(0))
    modality_dropout: float | None = flag("training", None, "how often a sample loses a stream (0)", type=probability)
    init_from: str | None = flag("training", None, "checkpoint to start from: the original's own, or any state dict",
                                 metavar="FILE")
    seed: int = flag("training", 1111, "of the weights, the dropouts and the order of the data", type=count(0))

    device: str = flag("run", "auto", "auto (a GPU if there is one), cpu, cuda or cuda:N")
    precision: str = flag("run", "float32", "float32; faster on a GPU, and not the same numbers, tf32 or "
                          "bfloat16 (autocast) for matrix products; or float64", choices=PRECISIONS)
    compile: bool = flag("run", False, "compile the repeated layers, in a minute or two; for GPUs, as CUDA graphs",
                         action="store_true")
    data_device: str = flag("run", "auto", "where the data is held: cpu, cuda, or auto (the GPU of --device, if half "
                            "of its free memory is enough)", choices=DATA_DEVICES)
    cache_dir: str | None = flag("run", None, "folder for the converted data files (default: beside each file)")
    results_dir: str = flag("run", "results", "folder of the results")
    name: str | None = flag("run", None, "name of the trial, added to the model's folder", type=folder_name)
    log_interval: int = flag("run", 30, "batches between two lines of the log", type=count(1))
    deterministic: bool = flag("run", False, "the same numbers each time on a GPU too, if slower; a CPU's always are",
                               action="store_true")

    @property
    def spec(self) -> DatasetSpec:
        return find_spec(self.dataset)

    @property
    def asked(self) -> Asked:
        """What the flags say about the labels; ValueError where they do not fit together."""
        return Asked.of(self.task, self.label_names, self.scale, self.class_weights)

    @property
    def run_path(self) -> Path:
        """results/<dataset>/<aligned|unaligned>/<model>[-<name>]/seed<k>"""
        alignment = "aligned" if self.aligned else "unaligned"
        model = self.model + (f"-{self.name}" if self.name else "")
        return Path(self.results_dir) / self.dataset / alignment / model / f"seed{self.seed}"

    def recorded(self) -> dict[str, Any]:
        """The settings by name, those of other models left out, and SELDOM ones where there are none."""
        left_out = unused(self.model) | {name for name in SELDOM if getattr(self, name) in (None, 0)}
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        at = list(values).index("options")
        return dict([*list(values.items())[:at], *values["options"].items(), *list(values.items())[at + 1:]])

    def changed(self, values: Mapping[str, Any]) -> "Settings":
        """These settings with other values, those of the model's own options among them."""
        own = {name: value for name, value in values.items() if name in self.options}
        return replace(self, options=self.options | own, **{n: v for n, v in values.items() if n not in own})

    def model_arguments(self) -> dict[str, Any]:
        """The arguments of the model's class that settings decide."""
        kernel_sizes = (self.kernel_l, self.kernel_a, self.kernel_v)
        values = {**vars(self), **self.options, "layers": self.nlevels, "kernel_sizes": kernel_sizes}
        return {name: values[name] for name in arguments_of(self.model) if name in values}

    def training(self) -> dict[str, Any]:
        """The settings that `fit` takes."""
        names = ("num_epochs", "early_stop", "batch_size", "batch_chunk", "clip", "trim_padding", "sort_batches",
                 "modality_dropout")
        return {name: getattr(self, name) for name in names}

    def check_batches(self, dataset: Dataset) -> None:
        """UserError where a batch is larger than the training data."""
        if self.batch_size > (samples := len(dataset.splits["train"])):
            raise UserError(
                f"--batch_size {self.batch_size} is more than the {samples} training samples; give {samples} or less"
            )


SHARED = {f.name: f for f in fields(Settings) if f.name != "options"}  # those that do not belong to one model


def unused(model: str) -> set[str]:
    """The fields of Settings that only other models use."""
    owners = {name: owners_of(ARGUMENTS.get(name, name)) for name in SHARED}
    return {name for name, models in owners.items() if models and model not in models}


def make_parser() -> Parser:
    """The command line of main.py. Only flags that are given appear in what it parses."""
    *others, last = MODELS
    models = f"{', '.join(others)} or {last}"
    presets = "; ".join(f"{model}: {', '.join(own)}" for model in MODELS if (own := presets_of(model)))
    parser = Parser(
        prog="python main.py", allow_abbrev=False, argument_default=argparse.SUPPRESS,
        description=f"Train and evaluate {models} on unaligned or aligned multimodal sequences.",
    )
    flags = (f for f in fields(Settings) if f.metadata or f.name == "options")
    for title, members in groupby(flags, lambda f: f.metadata.get("group")):
        if title is None:
            add_model_options(parser)
            continue
        group = parser.add_argument_group(title)
        for f in members:
            options = {name: value for name, value in f.metadata.items() if name != "group"}
            stock = f" (stock: {f.default})" if "action" not in options and f.default is not None else ""
            options["help"] = options["help"].replace("%(models)s", models).replace("%(presets)s", presets) + stock
            if "action" in options:
                options["help"] += f" (--no_{f.name}: the opposite)"
                pair = group.add_mutually_exclusive_group()
                pair.add_argument(f"--no_{f.name}", dest=f.name, action="store_false", help=argparse.SUPPRESS)
                pair.add_argument(f"--{f.name}", **options)
            else:
                group.add_argument(f"--{f.name}", **options)
    group.add_argument("--no_cuda", action="store_true", help="the same as --device cpu")
    group.add_argument("--download", action="store_true", help="first fetch the data file if it is missing")
    group.add_argument("--resume", action="store_true",
                       help="resume this run where it was cut short; a finished run is left as it is")
    group.add_argument("--eval", metavar="DIR", help="evaluate the finished run of this folder again")
    group.add_argument("--repeat", metavar="DIR",
                       help="train the finished run of this folder again, in DIR.repeat, and compare")
    return parser


def declared_options() -> dict[str, dict[str, Option]]:
    """{name of an option: {model: its declaration}}, since several models may have an option of one name."""
    declared: dict[str, dict[str, Option]] = {}
    for model in MODELS:
        for name, option in options_of(model).items():
            declared.setdefault(name, {})[model] = option
    return declared


def add_model_options(parser: Parser) -> None:
    """Add the flags of the models' own options, in a group for each set of models that share them."""
    for title, members in groupby(declared_options().items(), lambda item: ", ".join(item[1])):
        group = parser.add_argument_group(title)
        for name, by_model in members:
            switches = {names: switch for option in by_model.values()
                        for names, switch in option.all_switches.items()}
            exclusive = group.add_mutually_exclusive_group() if switches else group
            for names, (value, text) in switches.items():
                exclusive.add_argument(*names.split(), dest=name, action="store_const", const=value, help=text)
            if not switches:
                texts = {m: f"{option.help} (default: {arguments_of(m)[name]})" for m, option in by_model.items()}
                if len(set(texts.values())) > 1:
                    texts = {model: f"{model}: {text}" for model, text in texts.items()}
                types = [option.type for option in by_model.values()]
                group.add_argument(f"--{name}", type=taken_by_any(types), help="; ".join(dict.fromkeys(texts.values())))


def taken_by_any(types: list[Callable[[str], Any]]) -> Callable[[str], Any]:
    """An argparse type: a value that one of some types takes, by the first that does."""
    *others, last = types

    def convert(text: str) -> Any:
        for convert_one in others:
            with suppress(ValueError, argparse.ArgumentTypeError):
                return convert_one(text)
        return last(text)
    convert.__name__ = last.__name__
    return convert


def parse_flags(argv: Iterable[str]) -> dict[str, Any]:
    """The flags given on a command line, by name; UserError where they are wrong or contradict each other."""
    flags = vars(make_parser().parse_args(list(argv)))
    if flags.pop("no_cuda", False) and flags.setdefault("device", "cpu") != "cpu":
        raise UserError(f"--no_cuda contradicts --device {flags['device']}; leave one of them out")
    return flags


def resolve(flags: Mapping[str, Any]) -> tuple[Settings, dict[str, str]]:
    """Settings of the flags given, and {name: where its value came from}."""
    if others := set(flags) - set(SHARED) - set(declared_options()):
        raise UserError(f"--{', --'.join(sorted(others))} cannot be given here: it is no setting of a run")
    spec = find_spec(flags.get("dataset", Settings.dataset))
    try:
        model = find_model(flags.get("model", Settings.model))
    except ValueError as error:
        raise UserError(f"--model: {error}") from error
    usual = "paper" if spec.paper else "stock"
    preset = flags.get("preset") or usual
    row = usual if preset in presets_of(model) else preset
    if preset == "paper" and not spec.paper:
        raise UserError(f"--preset paper: MulT's Table 5 has no row for {spec.name!r}; use --preset stock")
    sources: list[tuple[str, Mapping[str, Any]]] = [  # each goes before those above it
        ("stock default", {name: f.default for name, f in SHARED.items()}),
        (f"default of {model}", {name: arguments_of(model)[name] for name in options_of(model)}),
        ("default of the data set", {"preset": preset}),
        (spec.paper_source, spec.paper if row == "paper" else {}),
        (f"default of {model}", defaults_of(model)),
        (spec.paper_source, spec.size if row == "paper" else {}),
        (f"preset {preset}", presets_of(model)[preset] if preset in presets_of(model) else
         {} if preset in PRESETS else preset_of_file(preset, model)),
        ("flag", flags),
    ]
    values = {name: value for _, layer in sources for name, value in layer.items()}
    try:
        given = {ARGUMENTS.get(name, name): value for name, value in flags.items()}
        check_used(model, {name: value for name, value in given.items() if owners_of(name)})
        settings = make_settings(values | {"model": model, "dataset": spec.name})
    except ValueError as error:
        raise UserError(str(error)) from error
    for name, needed in NEEDS.items():
        if getattr(settings, name) and not getattr(settings, needed):
            raise UserError(f"--{name} works only with --{needed}; add that")
    came_from = {name: source for source, layer in sources for name in layer}
    return settings, {name: came_from[name] for name in settings.recorded()}


def preset_of_file(path: str, model: str) -> dict[str, Any]:
    """{name: value} of a file's settings; UserError, naming the file, where they were not found for the model."""
    owners = [name for name in MODELS if path in presets_of(name)]
    preset = {} if owners else read_preset(path)
    if owners or preset["model"] != model:
        raise UserError(f"--preset {path} is for {', '.join(owners) or printable(preset['model'])}: give that --model, "
                        f"or {model} another preset")
    if others := set(preset["settings"]) - set(presettable(model)):
        raise UserError(f"{path} is damaged: {printable(others.pop())} is no setting of a preset of {model}")
    read_settings({"model": model, **preset["settings"]}, path)
    return {**preset["settings"], "search": search_cost(preset)}


def presettable(model: str) -> list[str]:
    """The settings that a preset of a model may hold: those that decide the model and its training."""
    left_out = {*unused(model), "seed", "init_from"}
    groups = ("dropout", "architecture", "training")
    shared = [name for name, f in SHARED.items() if f.metadata.get("group") in groups and name not in left_out]
    return [*shared, *options_of(model)]


def read_settings(record: Any, where: object) -> Settings:
    """The Settings that `recorded` gave, from a file; UserError, naming it, where no flags give such."""
    try:
        return make_settings(record)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = printable(error)
        raise UserError(f"{where} is damaged or was written by another version of this code: {reason}") from error


def make_settings(values: Mapping[str, Any]) -> Settings:
    """The Settings of values by name. A wrong value or name is a ValueError; a record of another form raises one of
    the errors that `read_settings` catches.
    """
    model = values["model"]
    if model not in MODELS:
        raise ValueError(f"there is no model {model}")
    own = options_of(model)
    for name, value in values.items():
        if name in own:
            own[name].check(value, arguments_of(model)[name])
        elif name in SHARED:
            allowed = SHARED[name].metadata
            check_value(name, value, SHARED[name].type, allowed.get("type", str), allowed.get("choices"))
        else:
            raise ValueError(f"there is no setting {name}")
    options = {name: values.get(name, arguments_of(model)[name]) for name in own}
    settings = Settings(**{name: value for name, value in values.items() if name in SHARED}, options=options)
    settings.asked  # noqa: B018, it raises an error
    return settings
