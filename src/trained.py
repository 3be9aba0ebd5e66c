"""The trained model of a finished run, built again from its checkpoint alone."""

from dataclasses import replace

from src.dataset import load_dataset
from src.errors import UserError
from src.run_folder import load_checkpoint
from src.settings import Settings, find_device


def load_trained(folder, **changes):
    """The model of a run on its device, its data set, its settings, and the epoch it is of.

    `changes` are settings that differ from the run's, such as where its data is now or the device. UserError where the
    checkpoint is not one of this code, or does not fit the data.
    """
    checkpoint = load_checkpoint(folder)
    try:
        settings = replace(Settings(**checkpoint["config"]["settings"]), **changes)
        state, epoch = checkpoint["model"], checkpoint["epoch"]
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder}/checkpoint.pt was written by another version of this code: {error}") from error
    device = find_device(settings.device)
    dataset = load_dataset(settings.spec, settings.data_path, settings.aligned, settings.cache_dir)
    model = settings.build_model(dataset).to(device)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{folder}/checkpoint.pt does not fit the data or the code: {reason}") from error
    return model.eval(), dataset, settings, epoch
