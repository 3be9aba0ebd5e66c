"""Every command at its work in every hostile environment, as a process that is forked from this one.

    bash tests/run.sh -n 0 -m slow tests/test_hostile_matrix.py

Each has a copy of a folder with data and two finished runs. It ends well, or with one line and code 2, or with 141
behind a closed pipe; never with a traceback. -rP shows the code and the last line of each.
"""

import builtins
import errno
import io
import json
import os
import pickle
import pwd
import resource
import shutil
import sys
import threading
import traceback
from pathlib import Path

import pytest

from main import main
from src.__main__ import COMMANDS, run
from src.errors import PIPE_CLOSED, run_command
from tests.csd_files import write_csd
from tests.data_files import give_data, make_splits
from tests.tools.test_convert import FOLDS, VIDEOS, WIDTHS, stream
from tests.zips import make_zip

pytestmark = pytest.mark.slow
SMALL = ["--dataset", "mine", "--device", "cpu", "--embed_dim", "8", "--num_heads", "2", "--nlevels", "1",
         "--num_epochs", "1", "--batch_size", "5", "--preset", "stock"]
MODEL = "results/mine/unaligned/MulT"
LINES = {  # a command that is not here shows its --help
    "train": [*SMALL, "--name", "again"],
    "download": ["--dataset", "mosi", "--alignment", "unaligned", "--archive", "mosi.zip"],
    "inspect": ["data/mine_data_noalign.pkl", "--picture", "sample.png"],
    "convert": [*(text for key in (*WIDTHS, "labels") for text in (f"--{key}", f"{key}.csd")), "--folds", "folds.json",
                "--label_columns", "1", "--out", "data/mosi_data_noalign.pkl"],
    "ravdess": ["nowhere", "--out", "data/ravdess_data.pkl"],
    "grid": ["--datasets", "mine", "--alignment", "unaligned", "--models", "MulT", "--seeds", "1111", "--", *SMALL[2:]],
    "tune": [*SMALL, "--model", "MulT", "--trials", "1", "--seeds", "1"],
    "protocol": ["protocol.toml", "--show"],
    "tables": [], "plots": [], "page": [],
    "predict": [MODEL, "data/mine_data_noalign.pkl", "--out", "predictions.csv"],
    "export": [MODEL, "exported"],
    "robustness": [MODEL],
    "compare": [f"{MODEL}/seed1111", "results/mine/unaligned/PMR/seed1111"],
}


def use_consoles(encoding):
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(number, "w", closefd=False), encoding) for number in (1, 2))


def closed(call):
    os.close(1)
    sys.stdout = None
    return call()


def full(call):
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
    return call()


def broken_pipe(call):
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)
    return call()


def ascii_console(call):
    use_consoles("ascii")
    return call()


def cp1252_console(call):
    use_consoles("cp1252")
    return call()


def no_home(call):
    def unknown(user):
        raise KeyError(user)
    pwd.getpwuid = pwd.getpwnam = unknown
    for name in ("HOME", "USER", "LOGNAME", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)
    return call()


def full_disk(call):
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    return call()


def read_only_disk(call):
    here = os.getcwd()

    def refusing(original, writes):
        def refuse(path, *more, **named):
            if isinstance(path, str | Path) and os.path.abspath(path).startswith(here) and writes(*more, **named):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return original(path, *more, **named)
        return refuse
    builtins.open = io.open = refusing(open, lambda mode="r", *_, **__: set(mode) & set("wax+"))
    os.open = refusing(os.open, lambda flags, *_, **__: flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    for name in ("mkdir", "replace", "rename", "unlink", "rmdir", "truncate"):
        setattr(os, name, refusing(getattr(os, name), lambda *_, **__: True))
    return call()


def worker_thread(call):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(call()))
    thread.start()
    thread.join()
    return codes[0]


def removed_folder(call):
    shutil.rmtree(os.getcwd())
    return call()


def hostile_folder(call):
    name = b"../no\x1b[31m\nwhere \xe9$&%"
    os.rename(os.getcwd(), name)
    os.chdir(name)
    return call()


ENVIRONMENTS = (closed, full, broken_pipe, ascii_console, cp1252_console, no_home, full_disk, read_only_disk,
                worker_thread, removed_folder, hostile_folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with data, two finished runs, and what the commands read."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        give_data(folder)
        for model in ("MulT", "PMR"):
            assert main([*SMALL, "--model", model]) == 0
        for key in WIDTHS:
            write_csd(f"{key}.csd", {video: stream(key) for video in VIDEOS})
        write_csd("labels.csd", {video: ([[i - 1.5, 9], [i - 0.5, 9]], [[1.5, 3], [4, 7.5]])
                                 for i, video in enumerate(VIDEOS)})
        Path("folds.json").write_text(json.dumps(FOLDS))
        Path("mosi.zip").write_bytes(make_zip({"mosi_data_noalign.pkl": pickle.dumps(make_splits())}))
        Path("protocol.toml").write_text('seeds = [1]\nflags = []\n[sets]\nmine = ["--dataset", "mine"]\n'
                                         "[models.MulT]\ntoday = []\n")
    return folder


def code_of(name, line):
    """What a command ends with."""
    try:
        return main(line) if name == "train" else run_command(run, [name, *line])
    except SystemExit as error:  # of --help
        return error.code or 0


def ended(work):
    """The exit code of a forked process that does this work, and what it says on stderr."""
    reader, writer = os.pipe()
    if not (process := os.fork()):
        code = 1
        try:
            os.dup2(writer, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            use_consoles("utf-8")
            code = work()
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with open(reader, errors="replace") as stderr:
        said = stderr.read()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), said


@pytest.mark.parametrize("environment", ENVIRONMENTS, ids=lambda environment: environment.__name__)
@pytest.mark.parametrize("name", ["train", *COMMANDS])
def test_a_command_ends_well_or_in_one_line(finished, tmp_path, monkeypatch, name, environment):
    line = LINES.get(name, ["--help"])
    shutil.copytree(finished, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    code, said = ended(lambda: environment(lambda: code_of(name, line)))
    print(code, *said.splitlines()[-1:])
    assert code in (0, 2, PIPE_CLOSED), said
    assert "Traceback" not in said
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == (code == 2), said
