"""What every test has in common.

The models of the tests are tiny: each process uses one thread. No test waits for the disk. No test leaves anything in a
user's home: a temporary folder takes the place of the cache folder, the same one for all workers of pytest-xdist, so
that the CPU kernels are compiled once. Each test starts from one seed, so that none fails by an unlucky draw.
"""

import atexit
import os
import tempfile

import pytest
import torch

QUICK = (  # fast tests, some for each room: files, or file::beginning of the name
    "baselines/test_linear.py::test_stat", "baselines/test_lstm.py::test_the_hidden",
    "data/test_archive.py", "data/test_batches.py", "data/test_demo.py", "data/test_formats.py",
    "grid/test_grid.py::test_arguments", "grid/test_grid.py::test_the_whole_grid", "modules/test_golden.py::test_o",
    "modules/test_golden.py::test_metrics", "modules/test_sequence.py::test_the_causal_mask",
    "modules/test_sequence.py::test_joined", "report/test_significance.py",
    "report/test_tables.py::test_every_kind", "report/test_escapes.py::test_no_cell",
    "runs/test_main.py::test_a_second_run", "runs/test_stock_checkpoint.py::test_the_tensors",
    "search/test_tune.py::test_flags_that", "search/test_protocol.py::test_wrong", "tasks/test_choice.py",
    "predict/test_clips.py", "robustness/test_disturbances.py::test_noise", "tools/test_inspect.py",
    "training/test_train.py", "training/test_meta.py", "test_docs.py", "test_house.py", "test_metrics.py",
    "test_registry.py",
    "test_settings.py",
)

os.environ["OMP_NUM_THREADS"] = "1"
if "PYTEST_XDIST_WORKER" not in os.environ:
    _home = tempfile.TemporaryDirectory()
    os.environ["XDG_CACHE_HOME"] = _home.name
    atexit.register(_home.cleanup)
os.fsync = lambda descriptor: None
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that share a module's fixture on one worker, so that it is made once, and mark the quick ones."""
    for item in items:
        fixtures = item._fixtureinfo.name2fixturedefs
        grouped = item.get_closest_marker("xdist_group")
        if not grouped and any(definitions[-1].scope == "module" for definitions in fixtures.values()):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
        if item.nodeid.removeprefix("tests/").startswith(QUICK):
            item.add_marker(pytest.mark.quick)


def pytest_runtest_setup() -> None:
    """Give every test the same random numbers, in whatever order and on whatever worker it runs."""
    torch.manual_seed(0)
