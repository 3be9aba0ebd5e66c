"""Clips of any length become what a model takes."""

import numpy as np
import pytest

from src.errors import UserError
from src.predict.clips import check_aligned, fit_to, read_stream


def test_shorter_clips_are_padded_and_longer_ones_keep_their_end():
    x = np.arange(1, 9, dtype=np.float32).reshape(2, 4, 1)
    padding = np.array([[True, False, False, False], [False] * 4])
    longer, hidden, lost = fit_to(x, padding, 6)
    assert longer[:, :, 0].tolist() == [[0, 0, 1, 2, 3, 4], [0, 0, 5, 6, 7, 8]]
    assert hidden.tolist() == [[True, True, True, False, False, False], [True, True] + [False] * 4]
    assert lost == 0
    shorter, hidden, lost = fit_to(x, padding, 3)
    assert (shorter[:, :, 0].tolist(), hidden.any(), lost) == ([[2, 3, 4], [6, 7, 8]], False, 1)


def test_lists_of_clips_are_padded_in_front_and_keep_their_end():
    clips = read_stream([np.ones((1, 2)), np.ones((3, 2)), np.arange(18).reshape(9, 2)], 4, "text")
    assert (clips.shape, clips.cut, len(clips)) == ((3, 4, 2), 1, 3)
    assert clips[0:2][:, :, 0].tolist() == [[0, 0, 0, 1], [0, 1, 1, 1]]
    assert clips[2:9][:, :, 0].tolist() == [[10, 12, 14, 16]]


def test_aligned_clips_have_the_same_steps_each():
    listed = {key: [np.ones((steps, 1)) for steps in lens] for key, lens in zip("abc", [(1, 3)] * 3, strict=True)}
    check_aligned({key: read_stream(x, 9, key) for key, x in listed.items()}, "here")
    with pytest.raises(UserError, match="here has 3, 3, 2 steps of a, b, c in clip 1"):
        check_aligned({key: read_stream([*x[:1], x[1][:2]] if key == "c" else x, 9, key) for key, x in listed.items()},
                      "here")
