"""JSON that carries a checksum: what is read is what was written, or an error."""

import json

import pytest

from src.sealed import seal, unseal

CONTENT = {"format": 3, "test": {"mae": 0.1 + 0.2, "corr": None}, "names": ["a", "中"], "tuple": (1, 2), "tiny": 1e-310}


def test_what_is_read_is_what_was_written():
    read = unseal(json.loads(json.dumps(seal(CONTENT), indent=2)))
    assert read == {**CONTENT, "tuple": [1, 2]}
    assert unseal(read) == read  # of earlier versions, which wrote no checksum


@pytest.mark.parametrize("place", range(0, len(json.dumps(seal(CONTENT))), 3))
def test_a_flipped_bit_changes_no_number(place):
    whole = bytearray(json.dumps(seal(CONTENT)).encode())
    whole[place] ^= 2
    try:
        read = unseal(json.loads(whole))
    except ValueError:
        return
    assert read == {**CONTENT, "tuple": [1, 2]}
