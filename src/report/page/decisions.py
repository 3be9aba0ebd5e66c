"""What runs decided on a few fixed test samples, from their decisions.npz: gates, message weights and attention."""

import base64
import io
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy import ndarray
from PIL import Image

from src.report.drawing import MODALITY_NAMES
from src.report.page.content import points
from src.runs.decisions import read_decisions, smaller

MOST_STEPS = 24, 48  # of a picture of attention, in rows and columns; of a line those in columns
NAMES = (  # of modules, in words
    (r"trans_(\w)_with_(\w).*", "{} from {}"), (r"trans_(\w)_mem.*", "{}, memory"),
    (r"(?:reinforce)\.(\w).*", "{} from the hub"), (r"update\.reinforce\.(\w).*", "the hub from {}"),
)


class Sample(NamedTuple):
    """The decisions on one sample."""

    name: str
    gates: list[tuple[str, list[str]]]  # title, the points of each layer
    weights: list[tuple[str, list[float]]]  # layer, the weight of each modality
    maps: list[tuple[str, str]]  # title, picture as an address


class Decided(NamedTuple):
    """The decisions of one run."""

    model: str
    seed: int
    modalities: list[str]
    samples: list[Sample]


def decided(name: str, run: dict[str, Any]) -> Decided | None:
    """The decisions of a run, None where it recorded none; UserError where its file is damaged."""
    if (found := read_decisions(run["folder"])) is None:
        return None
    samples = [Sample(sample, list(gates_of(found.gates, i)), list(weights_of(found.alphas, i)),
                      list(maps_of(found.attention, i))) for i, sample in enumerate(found.ids)]
    modalities = [words for m, words in MODALITY_NAMES.items() if m in run["settings"].get("modalities", "lav")]
    return Decided(name, run["seed"], modalities, samples)


def by_layer(values: dict[str, ndarray]) -> dict[str, list[ndarray]]:
    """{module in words: its values in each layer}."""
    layers: dict[str, list] = {}
    for name, of_layer in values.items():
        layers.setdefault(in_words(re.sub(r"\.?layers\.\d+\.?", "", name)), []).append(of_layer)
    return layers


def in_words(name: str) -> str:
    """The name of a module in words, itself where it has none."""
    for pattern, words in NAMES:
        if match := re.fullmatch(pattern, name):
            return words.format(*(MODALITY_NAMES.get(m, m) for m in match.groups()))
    return name


def gates_of(gates: dict[str, ndarray], i: int) -> Iterator[tuple[str, list[str]]]:
    """A panel a module, a line a layer, from 0 to 1."""
    for title, layers in by_layer(gates).items():
        lines = [smaller(of_layer[i], MOST_STEPS[1:]) for of_layer in layers]
        yield title, [points(line, 0, 1, len(line)) for line in lines]


def weights_of(alphas: dict[str, ndarray], i: int) -> Iterator[tuple[str, list[float]]]:
    """The message weights, layer by layer."""
    for layers in by_layer(alphas).values():
        for number, of_layer in enumerate(layers, 1):
            yield f"layer {number}", of_layer[i].tolist()


def maps_of(attention: dict[str, ndarray], i: int) -> Iterator[tuple[str, str]]:
    """A picture of the last layer of each module."""
    for title, layers in by_layer(attention).items():
        buffer, weights = io.BytesIO(), smaller(layers[-1][i], MOST_STEPS)
        picture = Image.fromarray(np.round(15 * weights / (weights.max() or 1)).astype(np.uint8), "P")
        picture.putpalette([0] * 48)  # 16 shades of black, from clear to opaque: few make small pictures
        picture.save(buffer, "png", bits=4, transparency=bytes(range(0, 256, 17)), optimize=True)
        yield title, f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
