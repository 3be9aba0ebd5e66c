"""The processes of a run: one, or several that torchrun started, and what several do as one.

Each of several has the same command line and a replica of the model. They share out the samples of every batch, and
torch's DistributedDataParallel makes one gradient of theirs. The first process alone has a console and a run folder.
What they decide by (losses, signals, errors) they tell each other first, so that all of them decide the same.
"""

import os
import sys
from contextlib import contextmanager, nullcontext, redirect_stdout

import numpy as np
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from src.errors import UserError
from src.training.stop import StopRequested, StopSignals


class LostProcess(StopRequested):
    """Another process of the run is gone, or does not answer."""

    def __init__(self):
        SystemExit.__init__(self, 3)
        self.signal = "the loss of another process"


class OneProcess:
    """A run in one process, which has nobody to ask."""

    rank, local_rank, count = 0, 0, 1  # local: on its machine
    launcher = ("python",)

    def joined(self):
        """Within it the processes can reach each other."""
        return nullcontext()

    def agreeing(self):
        """A UserError or OSError in it, in any process, ends all of them: the first raises it, the others leave."""
        return nullcontext()

    def local_first(self):
        """What is in it is done by one process of each machine before the others."""
        return nullcontext()

    def broadcast(self, value=None):
        """The value that the first process has."""
        return value

    def stop_signals(self):
        """The StopSignals of a run."""
        return StopSignals()

    def device(self, name):
        """The name of this process's device, of that which --device gives."""
        return name

    def parallel(self, model):
        """The model as it is trained, its gradients being those of all processes."""
        return model

    def share(self, indices):
        """This process's part of a batch, and a weight: the mean over processes of weighted losses is the batch's."""
        return indices, 1

    def reseed(self, *key):
        """Let each process have draws of its own, in dropout, that the key decides."""

    def part_of_step(self, model, last):
        """In it goes one pass, forward and backward, of a step; in the last, gradients are joined."""
        return nullcontext()

    def mean(self, values):
        """The mean over processes of each of some values."""
        return values

    def deal(self, items):
        """Those of a list that this process sees to."""
        return items

    def collect(self, results):
        """The list of what all processes made of what they were dealt, in the order of what was dealt."""
        return results

    def leave(self, code):
        """What a run that does not end well does last; returns the exit code."""
        return code


class SeveralProcesses(OneProcess):
    """As OneProcess, for this one of several."""

    def __init__(self, rank, local_rank, count, launcher):
        self.rank, self.local_rank, self.count, self.launcher = rank, local_rank, count, launcher
        self._stop = AgreedStopSignals(silent=rank > 0)

    @contextmanager
    def joined(self):
        try:
            distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"rank {self.rank} of {self.count} does not reach the others: {reason}") from error
        try:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere) if self.rank else nullcontext():
                yield
        finally:
            distributed.destroy_process_group()

    @contextmanager
    def agreeing(self):
        own = None
        try:
            yield
        except (UserError, OSError) as error:
            own = error
        errors = [(rank, error) for rank, error in enumerate(self._gather(own and str(own))) if error is not None]
        if errors and self.rank:
            raise SystemExit(2)
        if own:
            raise own
        if errors:
            raise UserError("rank {}: {}".format(*errors[0]))

    @contextmanager
    def local_first(self):
        if self.local_rank:
            self._gather()
        try:
            yield
        finally:
            if not self.local_rank:
                self._gather()

    def broadcast(self, value=None):
        held = [value]
        with noticing_loss():
            distributed.broadcast_object_list(held, src=0)
        return held[0]

    def stop_signals(self):
        return self._stop

    def device(self, name):
        if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
            return "cpu"
        if name not in ("auto", "cuda"):
            raise UserError(f"--device {name} would be the device of all {self.count} processes; give cuda or cpu")
        return f"cuda:{self.local_rank}"

    def parallel(self, model):
        with noticing_loss():
            return DistributedDataParallel(model)

    def share(self, indices):
        mine = indices[self.rank::self.count]
        if not len(mine):  # it takes part all the same, with a sample that counts for nothing
            return indices[:1], 0
        return mine, self.count * len(mine) / len(indices)

    def reseed(self, *key):
        torch.manual_seed(int(np.random.SeedSequence((*key, self.rank)).generate_state(1, np.uint64)[0]))

    @contextmanager
    def part_of_step(self, model, last):
        with noticing_loss(), nullcontext() if last else model.no_sync():
            yield

    def mean(self, values):
        """Of a tensor. A stop signal that any process has received is then known to all."""
        own = torch.cat([torch.tensor([self._stop.received or 0]), values.flatten().cpu()]).double()
        every = [torch.empty_like(own) for _ in range(self.count)]
        with noticing_loss():
            distributed.all_gather(every, own)
        every = torch.stack(every)
        self._stop.agreed = int(every[:, 0].max()) or None
        return every[:, 1:].mean(dim=0).view(values.shape)

    def deal(self, items):
        return items[self.rank::self.count]

    def collect(self, results):
        every = self._gather(results)
        return [every[i % self.count][i // self.count] for i in range(sum(map(len, every)))]

    def leave(self, code):
        """It leaves at once: what torch frees as the interpreter ends can wait for a process that is gone, or abort."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _gather(self, value=None):
        every = [None] * self.count
        with noticing_loss():
            distributed.all_gather_object(every, value)
        return every


class AgreedStopSignals(StopSignals):
    """Stop signals that are found once all processes know of them, and so after the same step by all."""

    agreed = None

    def check(self):
        """StopRequested, if a signal has come to a process."""
        if self.agreed is not None:
            raise StopRequested(self.agreed)


@contextmanager
def noticing_loss():
    """LostProcess where another process is gone in the middle of what all do together."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, distributed.DistError) or "gloo/" in str(error):
            raise LostProcess from error
        raise


ONE_PROCESS = OneProcess()


def find_processes():
    """The processes of this run, which torchrun tells in the environment; UserError where that makes no sense."""
    try:
        rank, count = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
        local_rank, local_count, machines = (
            int(os.environ.get(name, default)) for name, default in
            (("LOCAL_RANK", rank), ("LOCAL_WORLD_SIZE", count), ("GROUP_WORLD_SIZE", 1))
        )
    except KeyError:
        return ONE_PROCESS
    except ValueError as error:
        raise UserError(f"RANK, WORLD_SIZE and the like in the environment are torchrun's: {error}") from error
    if count == 1:
        return ONE_PROCESS
    of_machines = ("--nnodes", str(machines)) if machines > 1 else ()
    return SeveralProcesses(rank, local_rank, count, ("torchrun", *of_machines, "--nproc_per_node", str(local_count)))


def process_count():
    """How many processes this one trains with."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1
