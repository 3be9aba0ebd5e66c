"""The commit that a run records is that of this code, never of a checkout around it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.training.machine import git_commit

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("place", ["inner", "."])
def test_a_repository_around_the_code_is_not_its_own(tmp_path, place):
    for room in ("src", "modules", "baselines"):
        shutil.copytree(ROOT / room, tmp_path / place / room)
    for command in ("init -q", "-c user.name=a -c user.email=a@b commit -q --allow-empty -m a"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    code = "from src.training.machine import git_commit; print(git_commit())"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / place, capture_output=True, text=True,
                           check=True)
    assert found.stdout.strip() == "unknown"


def test_a_checkout_names_its_commit(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook of another repository
    assert git_commit().removesuffix("+changes") == head.stdout.strip()
