"""The models of the tests are tiny: one thread each, here and in the processes that tests start. No test waits for the
disk, and none leaves anything in a user's home: what belongs there goes into a folder that is gone at the end.
"""

import atexit
import os
import tempfile

import torch

os.environ["OMP_NUM_THREADS"] = "1"
_home = tempfile.TemporaryDirectory()
os.environ["XDG_CACHE_HOME"] = _home.name
atexit.register(_home.cleanup)
os.fsync = lambda descriptor: None
torch.set_num_threads(1)
