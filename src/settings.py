"""What a user asks for, joined with the preset of the data set into one frozen record.

A value comes from a flag, else from the preset, else from the stock default. Presets: `paper` is the row of the data
set in MulT's Table 5, the default for a known data set; `stock` is the original's command-line defaults, the default
for any other. PMR takes the same rows: that is this project's choice, since its own settings were never published. A
preset can also be the file of a search for better ones (src/presets.py).
"""

import argparse
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from src.dataset import DatasetSpec, find_spec
from src.errors import Parser, UserError, printable
from src.models import MODELS, build_model, find_model, model_options
from src.presets import read_preset, search_cost

OPTIMIZERS = ("Adam", "AdamW", "RMSprop", "SGD")
PRESETS = ("paper", "stock")
DATA_DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("float32", "tf32", "bfloat16", "float64")
MOST_LAYERS = 1000
NEEDS = {"trim_padding": "mask_padding", "sort_batches": "trim_padding"}  # flags that are nothing by themselves


def count(minimum, maximum=2**32 - 1):
    """An argparse type: a whole number from minimum to maximum."""
    def whole_number(text):
        if not minimum <= int(text) <= maximum:
            raise argparse.ArgumentTypeError(f"{text} is out of range; it must be from {minimum} to {maximum}")
        return int(text)
    return whole_number


def folder_name(text):
    """An argparse type: what can be part of a folder's name."""
    if Path(text).name != text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} cannot be part of a folder's name; leave out slashes")
    return text


def probability(text):
    """An argparse type: a dropout rate."""
    if not 0 <= float(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a dropout rate; it must be 0 or more and below 1")
    return float(text)


def positive(text):
    """An argparse type: a finite number above 0."""
    if not 0 < float(text) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return float(text)


def flag(group, default, help, **argparse_options):
    """A field of Settings and its command-line flag, --{field} unless `names` says otherwise."""
    return field(default=default, metadata={"group": group, "help": help, **argparse_options})


@dataclass(frozen=True)
class Settings:
    """Everything that decides a run. Defaults are the original's where it has the flag."""

    model: str = flag("task", "MulT", "PMR, MulT or MulT-FFL, in any case")
    dataset: str = flag("task", "mosei_senti", "mosi, mosei (or mosei_senti), iemocap, sims, demo, or NAME of "
                        "NAME_data.pkl")
    aligned: bool = flag("task", False, "take the word-aligned sequences", action="store_true")
    data_path: str = flag("task", "data", "folder of the data files, or the file itself")
    preset: str | None = flag("task", None, "settings to start from: paper for a known data set, else stock; or a FILE "
                              "of python -m src tune")
    search: str | None = field(default=None)  # what it took to find the settings of a preset's file
    only: str | None = field(default=None)  # of the flags --lonly, --aonly, --vonly

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
    attn_mask: bool = flag("architecture", True, "switch the causal mask of MulT OFF, as the original's --attn_mask "
                           "does; without this flag it is on. PMR has none",
                           names=("--no_attn_mask", "--attn_mask"), action="store_false")
    mask_padding: bool = flag("architecture", False, "hide padding from attention; the original does not",
                              action="store_true")
    trim_padding: bool = flag("architecture", False, "cut the front padding that a batch shares: the same results, "
                              "sooner; with --mask_padding", action="store_true")

    modalities: str | None = flag("PMR", None, "modalities that take part, e.g. la or v")
    message_update: str | None = flag("PMR", None, "how the hub is renewed: attention, mean or none")
    dynamic_filter: bool | None = flag("PMR", None, "fix the gate G at 1/2",
                                       names=("--no_dynamic_filter",), action="store_false")
    residual: bool | None = flag("PMR", None, "the literal reinforcement unit, no residual around its branches",
                                 names=("--no_residual",), action="store_false")
    message_form: str | None = flag("PMR", None, "weights of the message attention: lowrank or full")
    message_dim: int | None = flag("PMR", None, "width k of the message score", type=count(1))
    message_rank: int | None = flag("PMR", None, "rank r of lowrank message weights", type=count(1))
    readout_layers: int | None = flag("PMR", None, "layers of the last encoder", type=count(1, MOST_LAYERS))
    pool: str | None = flag("PMR", None, "what is read of each segment: last (step) or mean")

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
    init_from: str | None = flag("training", None, "checkpoint to start from: the original's own, or any state dict",
                                 metavar="FILE")
    seed: int = flag("training", 1111, "of the weights, the dropouts and the order of the data", type=count(0))

    device: str = flag("run", "auto", "auto (a GPU if there is one), cpu, cuda or cuda:N")
    precision: str = flag("run", "float32", "float32; faster on a GPU, and not the same numbers, tf32 or "
                          "bfloat16 (autocast) for matrix products; or float64", choices=PRECISIONS)
    compile: bool = flag("run", False, "run the model through torch.compile: for GPUs, after minutes of compiling",
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
        """What is known of the data set."""
        return find_spec(self.dataset)

    @property
    def run_path(self):
        """results/<dataset>/<aligned|unaligned>/<model>[-<name>]/seed<k>"""
        alignment = "aligned" if self.aligned else "unaligned"
        model = self.model + (f"-{self.name}" if self.name else "")
        return Path(self.results_dir) / self.dataset / alignment / model / f"seed{self.seed}"

    def recorded(self):
        """The settings by name, without the options of other models, and `search` only where there was one."""
        left_out = set().union(*map(model_options, MODELS)) - set(model_options(self.model))
        left_out |= set() if self.search else {"search"}
        return {name: value for name, value in asdict(self).items() if name not in left_out}

    def training(self):
        """The settings that `fit` takes."""
        names = (
            "optim", "lr", "num_epochs", "when", "early_stop", "batch_size", "batch_chunk", "clip", "seed",
            "trim_padding", "sort_batches",
        )
        return {name: getattr(self, name) for name in names}

    def check_batches(self, dataset):
        """UserError where a batch is larger than the training data."""
        if self.batch_size > (samples := len(dataset.splits["train"])):
            raise UserError(
                f"--batch_size {self.batch_size} is more than the {samples} training samples; give {samples} or less"
            )

    def build_model(self, dataset):
        """The model for a data set, initialised from the seed; UserError where settings and data do not fit."""
        torch.manual_seed(self.seed)
        dropouts = [f.name for f in fields(self) if f.metadata.get("group") == "dropout"]
        shared = (*dropouts, "attn_mask", "only", "mask_padding", "trim_padding")
        options = {name: getattr(self, name) for name in shared}
        own = {name: getattr(self, name) for name in OWN_OPTIONS if getattr(self, name) is not None}
        try:
            return build_model(
                self.model, input_dims=dataset.input_dims, input_lens=dataset.input_lens,
                output_dim=dataset.task.output_dim, embed_dim=self.embed_dim, num_heads=self.num_heads,
                layers=self.nlevels, kernel_sizes=(self.kernel_l, self.kernel_a, self.kernel_v), **options, **own,
            )
        except ValueError as error:
            raise UserError(str(error)) from error


OWN_OPTIONS = tuple(f.name for f in fields(Settings) if f.metadata.get("group") == "PMR")


def make_parser():
    """The command line of main.py. Only flags that are given appear in what it parses."""
    parser = Parser(
        prog="python main.py", allow_abbrev=False, argument_default=argparse.SUPPRESS,
        description="Train and evaluate PMR, MulT or MulT-FFL on unaligned or aligned multimodal sequences.",
    )
    groups = {}
    for f in fields(Settings):
        options = dict(f.metadata)
        if not options:
            continue
        title, names = options.pop("group"), options.pop("names", (f"--{f.name}",))
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        if "action" not in options and f.default is not None:
            options["help"] += f" (stock: {f.default})"
        groups[title].add_argument(*names, dest=f.name, **options)
    for only, target in (("lonly", "language"), ("aonly", "audio"), ("vonly", "vision")):
        groups["task"].add_argument(f"--{only}", action="append_const", dest="only", const=only,
                                    help=f"MulT: keep the crossmodal fusion into {target} alone")
    groups["run"].add_argument("--no_cuda", action="store_true", help="the same as --device cpu")
    groups["run"].add_argument("--download", action="store_true", help="first fetch the data file if it is missing")
    groups["run"].add_argument("--resume", action="store_true",
                               help="go on where this run was cut short; one that is finished is left as it is")
    groups["run"].add_argument("--eval", metavar="DIR", help="evaluate the finished run of this folder again")
    groups["run"].add_argument("--repeat", metavar="DIR",
                               help="train the finished run of this folder again, in DIR.repeat, and compare")
    return parser


def parse_flags(argv):
    """The flags given on a command line, by name; UserError where they are wrong or contradict each other."""
    flags = vars(make_parser().parse_args(argv))
    if "only" in flags:
        if len(set(flags["only"])) > 1:
            raise UserError(f"--{' and --'.join(flags['only'])} exclude each other; give one of them")
        flags["only"] = flags["only"][0]
    if flags.pop("no_cuda", False) and flags.setdefault("device", "cpu") != "cpu":
        raise UserError(f"--no_cuda contradicts --device {flags['device']}; leave one of them out")
    return flags


def resolve(flags):
    """Settings of the flags given, and {name: where its value came from}."""
    if others := set(flags) - {f.name for f in fields(Settings)}:
        raise UserError(f"--{', --'.join(sorted(others))} cannot be given here: it is no setting of a run")
    spec = find_spec(flags.get("dataset", Settings.dataset))
    try:
        model = find_model(flags.get("model", Settings.model))
    except ValueError as error:
        raise UserError(f"--model: {error}") from error
    preset = flags.get("preset") or ("paper" if spec.paper else "stock")
    if preset == "paper" and not spec.paper:
        raise UserError(f"--preset paper: MulT's Table 5 has no row for {spec.name!r}; use --preset stock")
    values = {f.name: (f.default, "stock default") for f in fields(Settings)}
    own = {name: default for name, default in model_options(model).items() if name in OWN_OPTIONS}
    values |= {name: (default, f"default of {model}") for name, default in own.items()}
    if preset == "paper":
        values |= {name: (value, spec.paper_source) for name, value in spec.paper.items()}
    if preset not in PRESETS:
        values |= {name: (value, f"preset {preset}") for name, value in preset_of_file(preset, model).items()}
    values |= {name: (value, "flag") for name, value in flags.items()}
    values |= {"model": (model, values["model"][1]), "dataset": (spec.name, values["dataset"][1]),
               "preset": (preset, "flag" if "preset" in flags else "default of the data set")}
    settings = Settings(**{name: value for name, (value, _) in values.items()})
    for name, needed in NEEDS.items():
        if getattr(settings, name) and not getattr(settings, needed):
            raise UserError(f"--{name} works only with --{needed}; add that")
    return settings, {name: values[name][1] for name in settings.recorded()}


def preset_of_file(path, model):
    """{name: value} of the settings in a file that was found for a model; UserError, naming the file, where it was not.
    """
    preset = read_preset(path)
    if preset["model"] != model:
        raise UserError(f"--preset {path} was found for {printable(preset['model'])}: give that --model, or {model} "
                        "another preset")
    if others := set(preset["settings"]) - set(presettable(model)):
        raise UserError(f"{path} is damaged: {printable(others.pop())} is no setting of a preset of {model}")
    read_settings({"model": model, **preset["settings"]}, path)
    return {**preset["settings"], "search": search_cost(preset)}


def presettable(model):
    """The settings that a preset of a model may hold: those that decide what is trained, and how."""
    groups = {f.name: f.metadata.get("group") for f in fields(Settings)}
    return [
        name for name in Settings(model=model).recorded()
        if groups[name] in ("dropout", "architecture", "PMR", "training") and name not in ("seed", "init_from")
    ]


def read_settings(record, where):
    """The Settings that `recorded` gave, from a file; UserError, naming it, where no flags give such."""
    known = {f.name: f for f in fields(Settings)}
    try:
        for name, value in record.items():
            if name not in known:
                raise ValueError(f"there is no setting {name}")
            check_setting(known[name], value)
        if record["model"] not in MODELS:
            raise ValueError(f"there is no model {record['model']}")
        return Settings(**record)
    except (ValueError, TypeError, KeyError, AttributeError, argparse.ArgumentTypeError) as error:
        raise UserError(
            f"{where} is damaged or was written by another version of this code: {printable(error)}"
        ) from error


def check_setting(setting, value):
    """ValueError, or what its flag raises, where a value is not one for a field of Settings."""
    allowed = setting.type if setting.type is not float else int | float
    if not isinstance(value, allowed) or (isinstance(value, bool) and setting.type not in (bool, bool | None)):
        raise ValueError(f"{setting.name} is {value!r}")
    if value is not None and "type" in setting.metadata:
        setting.metadata["type"](str(value))
    if value not in setting.metadata.get("choices", (value,)) and value is not None:
        raise ValueError(f"{setting.name} is {value!r}")
