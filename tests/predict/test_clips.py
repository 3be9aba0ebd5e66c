"""Clips of any length become what a model takes."""

import numpy as np

from src.predict.clips import fit_to, stack


def test_shorter_clips_are_padded_and_longer_ones_keep_their_end():
    x = np.arange(1, 9, dtype=np.float32).reshape(2, 4, 1)
    padding = np.array([[True, False, False, False], [False] * 4])
    longer, hidden, lost = fit_to(x, padding, 6)
    assert longer[:, :, 0].tolist() == [[0, 0, 1, 2, 3, 4], [0, 0, 5, 6, 7, 8]]
    assert hidden.tolist() == [[True, True, True, False, False, False], [True, True] + [False] * 4]
    assert lost == 0
    shorter, hidden, lost = fit_to(x, padding, 3)
    assert (shorter[:, :, 0].tolist(), hidden.any(), lost) == ([[2, 3, 4], [6, 7, 8]], False, 1)


def test_lists_of_clips_are_padded_in_front():
    stacked = stack([np.ones((1, 2)), np.ones((3, 2))], "text")
    assert stacked[:, :, 0].tolist() == [[0, 0, 1], [1, 1, 1]]
