"""Torch code that several services need; importing this package alone does not import torch.

It says how idle OpenMP threads wait, which they ask once, when torch is imported: they look for work some
twenty microseconds, as it comes that often within a pass of a model, and then sleep. Torch and the
compiled kernels have threads of their own; where those of one go on looking, those of the other have no
core. Measured: a step beside another process takes a fifth of the time, a pass of a small model three
quarters of what it takes where threads sleep at once.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
if "OMP_NUM_THREADS" in os.environ:  # the compiled kernels would set torch's number of threads to their own
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
