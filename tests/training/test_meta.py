"""A training step on torch's meta device, where a tensor that was left on the CPU is an error, as it is on a GPU."""

import pytest
import torch

from modules.sequence import padding_mask
from src.dataset import Split
from src.models import MODELS, arguments_of
from src.tasks import SentimentRegression
from src.train import train_step
from src.training.state import TrainingState
from tests.modules.test_models import UNALIGNED, small_inputs, small_model

META = torch.device("meta")


def meta_step(model, trimmed=False):
    """A step of a model, built on the CPU, on the meta device; returns its loss and norm."""
    features = tuple(small_inputs())
    split = Split(features, tuple(map(padding_mask, features)), torch.zeros(4, 1), list("abcd"))
    no_fused = "RMSprop"  # a fused optimizer, as Adam is, has no meta form
    state = TrainingState(model.to(META), optim=no_fused, lr=1e-3, when=1, seed=1, device=META)
    return train_step(state, split, SentimentRegression(), 0, torch.arange(4), 2, 0.8, trimmed)


@pytest.mark.parametrize("hidden", [False, True], ids=["padding-seen", "padding-hidden"])
@pytest.mark.parametrize("name", UNALIGNED)
def test_a_training_step_leaves_nothing_on_the_cpu(name, hidden):
    wanted = {"mask_padding": hidden, "attn_dropout": 0.1, "embed_dropout": 0.1}
    model = small_model(name, **{option: value for option, value in wanted.items() if option in arguments_of(name)})
    outcome = meta_step(model, trimmed=hidden)
    assert (outcome.shape, outcome.device) == ((2,), META)


def test_a_tensor_on_the_cpu_is_noticed():
    class Careless(MODELS["PMR"]):
        def read_out(self, hidden):
            return super().read_out(hidden) * torch.ones(hidden.size(0), 1)

    model = small_model("PMR")
    model.__class__ = Careless
    with pytest.raises(RuntimeError, match="meta"):
        meta_step(model)
