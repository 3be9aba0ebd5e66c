"""The models of the tests are tiny: one thread each, here and in the processes that tests start. No test waits for the
disk, and none leaves converted data in a user's home: where that would be, nothing can be.
"""

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["XDG_CACHE_HOME"] = os.devnull
os.fsync = lambda descriptor: None
torch.set_num_threads(1)
