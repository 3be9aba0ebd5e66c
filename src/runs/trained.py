"""The trained model of a finished run, built again from its checkpoint alone."""

from dataclasses import replace

from src.dataset import load_dataset
from src.errors import UserError, printable
from src.runs.result_schema import is_count
from src.runs.run_folder import load_checkpoint
from src.settings import read_settings
from src.training.failures import explained
from src.training.machine import choose_arithmetic, find_device, speed_up


def load_trained(folder, **changes):
    """The model of a run on its device, its data set, its settings, and the epoch it is of.

    `changes` are settings that differ from the run's, such as where its data is now or the device. UserError where the
    checkpoint is not one of this code, or does not fit the data.
    """
    checkpoint = load_checkpoint(folder)
    try:
        recorded, state, epoch = checkpoint["config"]["settings"], checkpoint["model"], checkpoint["epoch"]
        if not is_count(epoch):
            raise TypeError("its epoch is no number")
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/checkpoint.pt was written by another version of this code: {error}") from error
    settings = replace(read_settings(recorded, f"{folder}/checkpoint.pt"), **changes)
    choose_arithmetic(settings.deterministic, settings.precision)
    device = find_device(settings.device)
    dataset = load_dataset(settings.spec, settings.data_path, settings.aligned, settings.cache_dir)
    with explained(f"the model of {folder} does not fit on {device}"):
        model = settings.build_model(dataset).to(device)
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = printable(" ".join(str(error).split()))
        raise UserError(f"{folder}/checkpoint.pt does not fit the data or the code: {reason}") from error
    return speed_up(model.eval(), device, settings.precision), dataset, settings, epoch
