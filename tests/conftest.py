"""The models of the tests are tiny: one thread each, here and in the processes that tests start."""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
