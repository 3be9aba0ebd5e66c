"""What can stop a run that is not in its files, said so that it can be mended."""

from contextlib import contextmanager

import torch

from src.errors import UserError

CPU_IS_FULL = ("can't allocate memory", "not enough memory", "Storage size calculation overflowed")


def is_out_of_memory(error):
    """Whether an exception says that memory ran out, on a GPU or not."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or any(text in str(error) for text in CPU_IS_FULL)


class TrainingError(UserError):
    """Training fails by what its settings ask for: it diverges, or memory is too small. Others may do."""


@contextmanager
def explained(advice):
    """TrainingError, with the advice, where memory runs out inside; UserError where --deterministic asks too much."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if is_out_of_memory(error):
            raise TrainingError(f"out of memory: {advice}") from error
        if "deterministic implementation" in reason:
            raise UserError(f"--deterministic cannot be had on this device: {reason.split('.')[0]}") from error
        raise


def memory_advice(batch_size, batch_chunk):
    """What to try where a step does not fit."""
    if batch_chunk >= batch_size:
        return f"not even 1 sample of --batch_size {batch_size} fits; try a smaller --embed_dim or --nlevels"
    parts = f"{batch_chunk} parts" if batch_chunk > 1 else "1 part"
    return (
        f"--batch_size {batch_size} in {parts} does not fit; try --batch_chunk {min(2 * batch_chunk, batch_size)}, "
        "which computes the same step in smaller parts"
    )
