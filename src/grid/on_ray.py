"""The runs of a grid on a Ray cluster. Ray is an optional extra.

All nodes have the checkout and the folder that the grid is started in, with data and results, at the same path, shared.
A run is a Ray task that starts main.py as a process on a node. When the node is lost, Ray starts the task again on
another one, where --resume continues from the checkpoint; when main.py itself fails, it is not tried again.
"""

import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.errors import UserError, printable
from src.grid.plan import Run
from src.grid.pool import MAIN, Failures, Process, execute
from src.training.stop import interrupted_by_signals

RETRIES = 10  # after lost nodes, a run
CPUS_PER_RUN = 1  # the same on every node, so that a resumed run has as many threads as before
PATIENCE_SECONDS = 120  # with a run's former process, which may still be writing where its node was cut off
CONNECT_SECONDS = 40  # on a busy machine, Ray takes long to be imported
POLL_SECONDS = 0.5
ROUNDING = 1e-6  # five times 0.2 GPUs are one


def execute_on_ray(
    address: str, gpus_per_run: float | None, runs: Sequence[Run], jobs: int | None, logs: Path
) -> Failures:
    """Run all on the cluster at an address, or on that of this machine if it is "auto"; returns the failures.

    `gpus_per_run` is None for one GPU if any node has one, `jobs` for as many runs as the nodes have room for.
    UserError where there is no cluster, or no room for a run.
    """
    ray = connect(address)
    try:
        gpus_per_run, room = room_for_runs(ray.nodes(), gpus_per_run)
        task = ray.remote(run_on_node).options(num_cpus=CPUS_PER_RUN, num_gpus=gpus_per_run, max_retries=RETRIES,
                                               scheduling_strategy="SPREAD")
        jobs = min(jobs or room, len(runs))
        gpus = f" and {gpus_per_run:g} GPUs" if gpus_per_run else ""
        print(f"# on Ray: room for {room} runs of {CPUS_PER_RUN} CPU{gpus}", flush=True)

        def start(run: Run, slot: int, log: Path) -> Process:
            log.write_text("")  # a node that does not see it shares no folder with this one
            return RayTask(ray, task.remote(str(MAIN.parent), os.getcwd(), run.flags, str(log.absolute())), log)

        with interrupted_by_signals():  # Ray has set handlers of its own
            return execute(runs, jobs, logs, start)
    finally:
        ray.shutdown()


def connect(address: str) -> Any:
    """Ray, connected; UserError where it is not installed or no cluster answers."""
    try:
        import ray  # noqa: PLC0415, an optional extra
    except ImportError as error:
        raise UserError("--ray needs Ray, which is not installed: pip install ray") from error
    where, named = ("on this machine", []) if address == "auto" else (f"at {address}", ["--address", address])
    try:  # ray.init would try for two minutes and then end this process
        subprocess.run([sys.executable, "-m", "ray.scripts.scripts", "status", *named], check=True, capture_output=True,
                       timeout=CONNECT_SECONDS)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except subprocess.SubprocessError as error:
        raise UserError(f"no Ray cluster answers {where}; start one with `ray start --head` and give --ray the address "
                        "that it prints") from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = printable(str(error).strip().split("\n")[0])
        raise UserError(f"the Ray cluster {where} does not take this machine: {reason}; start the grid on one of its "
                        "nodes") from error
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a node without the checkout has to say so
    return ray


def room_for_runs(nodes: Sequence[dict[str, Any]], gpus_per_run: float | None) -> tuple[float, int]:
    """The GPUs of a run, and the number of runs that the nodes of ray.nodes() have room for at a time."""
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    if gpus_per_run is None:
        gpus_per_run = 1 if any(resource.get("GPU") for resource in resources) else 0
    room = sum(int(min(
        resource.get("CPU", 0) // CPUS_PER_RUN,
        resource.get("GPU", 0) / gpus_per_run + ROUNDING if gpus_per_run else math.inf,
    )) for resource in resources)
    if not room:
        raise UserError(f"no node of the cluster has {CPUS_PER_RUN} CPU and {gpus_per_run:g} GPUs; "
                        "give less to --gpus_per_run, or nodes that have it")
    return gpus_per_run, room


def run_on_node(checkout: str, folder: str, flags: Sequence[str], log: str) -> int:
    """The task: run main.py in a folder, with its console in a file that exists; returns its exit code.

    FileNotFoundError where the node does not have these paths.
    """
    for path in (checkout, folder, log):
        if not os.path.exists(path):
            raise FileNotFoundError(f"{path} is not on node {os.uname().nodename}: every node needs the checkout and "
                                    "the folder of the results at the same path, shared")
    sys.path.insert(0, checkout)
    from src.files import BUSY  # noqa: PLC0415, not to be found before
    from src.grid.pool import last_lines, start_run  # noqa: PLC0415

    os.chdir(folder)
    environment = {**os.environ, "OMP_NUM_THREADS": str(CPUS_PER_RUN)}
    patience = time.time() + PATIENCE_SECONDS
    while True:
        with open(log, "a", encoding="utf-8") as console:
            process = start_run(flags, console, environment)
        try:
            while (code := process.poll()) is None:
                time.sleep(POLL_SECONDS)  # a task in `process.wait` is not interrupted when it is cancelled
        finally:  # cancelled, or the node is shut down: the run stops with a checkpoint
            process.terminate()
            process.wait()
        if code != 2 or BUSY not in "".join(last_lines(Path(log))) or time.time() > patience:
            return code
        time.sleep(POLL_SECONDS)


class RayTask:
    """A run on the cluster, as a Process of the pool."""

    def __init__(self, ray: Any, task: Any, log: Path) -> None:
        self.ray, self.task, self.log = ray, task, log

    def poll(self) -> int | None:
        ended, _ = self.ray.wait([self.task], timeout=0)
        return self.wait() if ended else None

    def terminate(self) -> None:
        self.ray.cancel(self.task)

    def wait(self) -> int:
        """Wait until the run has ended; returns its exit code. An error of Ray is written to the run's log."""
        try:
            return self.ray.get(self.task)
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            with self.log.open("a", encoding="utf-8") as console:
                console.write(f"error: {cause}\n")
            return 1
