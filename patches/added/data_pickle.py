"""Replaces `pickle` where the data files are read: it reads their arrays and runs no code in them."""

from src.data.safe_pickle import load_arrays as load

__all__ = ["load"]
