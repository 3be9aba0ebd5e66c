"""The grid on a real Ray cluster of two nodes on this machine."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from ray import cloudpickle
from ray.cluster_utils import Cluster

from src.errors import UserError
from src.files import BUSY, FolderLock
from src.grid import grid
from src.grid import on_ray as ray_cluster
from src.grid.pool import MAIN
from src.runs.again import first_difference
from tests.data_files import give_data

SMALL = ("--embed_dim", "8", "--num_heads", "2", "--nlevels", "1", "--batch_size", "4", "--device", "cpu")
OBJECT_STORE = 80 * 2**20  # bytes, little more than the least that Ray takes


@pytest.fixture(scope="module")
def cluster():
    """A head and one more node, of one CPU each, that look often whether the other is there."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray") as temporary:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", temporary)
        patch.setenv("PYTHONPATH", "")  # workers find the project by what they are told
        often = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
        cluster = Cluster(initialize_head=True, head_node_args={
            "num_cpus": 1, "num_gpus": 0, "object_store_memory": OBJECT_STORE, "include_dashboard": False,
            "_system_config": often,
        })
        cluster.second = cluster.add_node(num_cpus=1, num_gpus=0, object_store_memory=OBJECT_STORE)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with an unaligned data set `mine` in data/."""
    monkeypatch.chdir(tmp_path)
    give_data(tmp_path, sizes=(40, 8, 8))
    return tmp_path


def grid_line(*own, epochs):
    return ["--datasets", "mine", "--alignment", "unaligned", "--models", "MulT", "--seeds", "1", "2", *own, "--",
            *SMALL, "--num_epochs", str(epochs)]


def start_grid(line):
    return subprocess.Popen([sys.executable, "-m", "src", "grid", *line], stdout=subprocess.PIPE,
                            stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(MAIN.parent)})


def wait_for(find, process):
    """What `find` returns once it is true, while the process goes on."""
    for _ in range(4800):
        if found := find():
            return found
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it did not come to that in four minutes")


def run_folder(folder, seed):
    return folder / f"results/mine/unaligned/MulT/seed{seed}"


def descendants(pid):
    """{id: command line} of the processes that a process has started, and those that they have."""
    found = {}
    with contextlib.suppress(OSError):
        for listed in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in map(int, listed.read_text().split()):
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
                found |= descendants(child)
    return found


def seed_trained_below(pid, folder):
    """The seed of a run that a process below this one trains, if it has written a checkpoint."""
    for line in descendants(pid).values():
        if str(MAIN) in line and (run_folder(folder, seed := line[line.index("--seed") + 1]) / "last.pt").exists():
            return seed
    return None


def kill_node(cluster, node):
    """Kill what Ray has on a node, at once; not what that has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    workers = [pid for pid, line in descendants(raylet).items() if str(MAIN) not in line]
    for pid in (raylet, *workers):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    cluster.remove_node(node, allow_graceful=False)


def test_an_interrupted_grid_ends_its_runs(cluster, folder):
    process = start_grid(grid_line("--ray", cluster.address, epochs=1000))
    head = cluster.head_node.all_processes["raylet"][0].process.pid
    seed = wait_for(lambda: seed_trained_below(head, folder), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "the same command continues" in err
    assert (run_folder(folder, seed) / "last.pt").is_file()
    for seed in (1, 2):
        if run_folder(folder, seed).exists():
            FolderLock(run_folder(folder, seed)).release()  # nobody writes it


@pytest.mark.slow  # most of it is waiting until Ray gives the node up
def test_a_grid_survives_the_loss_of_a_node(cluster, folder):
    """A run goes on elsewhere and all come out as on this machine; one that fails by itself is not tried again."""
    run_folder(folder, 3).parent.mkdir(parents=True)
    run_folder(folder, 3).write_text("a file where a folder should be")
    process = start_grid(grid_line("--seeds", "1", "2", "3", "--ray", cluster.address, epochs=12))
    raylet = cluster.second.all_processes["raylet"][0].process.pid
    seed = wait_for(lambda: seed_trained_below(raylet, folder), process)
    kill_node(cluster, cluster.second)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert out.count(": done in") == 2
    assert "## mine, unaligned" in out
    assert "# resumes after" in (run_folder(folder, seed) / "log.txt").read_text()
    assert "# FAILED: mine unaligned MulT seed3\n#   error: results cannot be written to" in err
    assert (folder / "results/logs/mine-unaligned-MulT-seed3.log").read_text().count("error: ") == 1

    assert grid.main(grid_line("--jobs", "2", "--results_dir", "here/results", epochs=12)) == 0
    for seed in (1, 2):
        assert first_difference(run_folder(folder, seed), run_folder(folder / "here", seed)) is None


def node(alive=True, **resources):
    return {"Alive": alive, "Resources": {"memory": 1e9, **resources}}


@pytest.mark.parametrize("nodes, asked, expected", [
    ([node(CPU=2.0), node(CPU=3.0)], None, (0, 5)),
    ([node(CPU=8.0), node(CPU=8.0, GPU=2.0)], None, (1, 2)),
    ([node(CPU=8.0, GPU=1.0), node(CPU=8.0, GPU=1.0)], 0.25, (0.25, 8)),
    ([node(CPU=3.0, GPU=1.0), node(CPU=8.0, GPU=1.0, alive=False)], 0.25, (0.25, 3)),
    ([node(CPU=8.0, GPU=1.0)], 0, (0, 8)),
    ([node(CPU=8.0, GPU=1.0)], 0.2, (0.2, 5)),
])
def test_room_for_runs(nodes, asked, expected):
    assert ray_cluster.room_for_runs(nodes, asked) == expected


def test_no_room_is_told():
    with pytest.raises(UserError, match="no node of the cluster has 1 CPU and 2 GPUs"):
        ray_cluster.room_for_runs([node(CPU=8.0, GPU=1.0)], 2)


def test_a_node_without_the_checkout_says_so(folder):
    """Where nothing of the project can be imported."""
    cloudpickle.register_pickle_by_value(ray_cluster)
    (folder / "task").write_bytes(cloudpickle.dumps(ray_cluster.run_on_node))
    call = "import pickle; pickle.load(open('task', 'rb'))('nowhere', '.', (), 'log')"
    ended = subprocess.run([sys.executable, "-P", "-c", call], capture_output=True, text=True, check=False,
                           env={"PATH": os.environ["PATH"]})
    assert "FileNotFoundError: nowhere is not on node" in ended.stderr


def test_a_run_waits_for_its_former_process(folder):
    """Which may still be stopping, on a node that was cut off."""
    log = folder / "log"
    log.write_text("")
    lock = FolderLock(run_folder(folder, 1))

    def let_go():
        while BUSY not in log.read_text():
            time.sleep(0.05)
        lock.release()
    releasing = threading.Thread(target=let_go)
    releasing.start()
    flags = ("--dataset", "mine", "--seed", "1", *SMALL, "--num_epochs", "1")
    assert ray_cluster.run_on_node(str(MAIN.parent), str(folder), flags, str(log)) == 0
    releasing.join()
    assert (run_folder(folder, 1) / "result.json").is_file()


def test_an_address_where_nothing_of_ray_answers(folder, monkeypatch, capsys):
    monkeypatch.setattr(ray_cluster, "CONNECT_SECONDS", 3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert grid.main(grid_line("--ray", f"127.0.0.1:{silent.getsockname()[1]}", epochs=1)) == 2
    assert "error: no Ray cluster answers at 127.0.0.1:" in capsys.readouterr().err
    assert not list(folder.glob("results/*"))


def test_without_ray_the_way_to_it_is_told(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert grid.main(grid_line("--ray", epochs=1)) == 2
    assert "error: --ray needs Ray, which is not installed: pip install ray" in capsys.readouterr().err
