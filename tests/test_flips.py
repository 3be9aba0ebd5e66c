"""A flipped byte in any stored file is noticed or harmless; tests/flip_harness.py says how that is found out."""

import pytest

from tests.flip_harness import KINDS, flips


@pytest.mark.parametrize("number", [1, pytest.param(300, marks=pytest.mark.slow)])
def test_no_flip_is_silently_wrong(number):
    files = dict(flips(number, seed=1))
    assert len(files) > 18
    assert not [what for tried in files.values() for kind, what in tried if kind in KINDS[2:]]
    noticed = [path for path, tried in files.items() if "noticed" in dict(tried)]
    assert len(noticed) > 12
