"""Stands for `pickle` where the data files are read: their arrays come in, and nothing in them is run."""

from src.data.safe_pickle import load_arrays as load

__all__ = ["load"]
