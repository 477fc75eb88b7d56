"""Torch code that several services need; importing this package alone does not import torch.

It says how idle OpenMP threads wait, which they ask once, when torch is imported: asleep. Torch and the
compiled kernels have threads of their own; where those of one spin, those of the other have no core.
Measured with another process on the machine: a step takes a fifth of the time.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "OMP_NUM_THREADS" in os.environ:  # the compiled kernels would set torch's number of threads to their own
    os.environ.setdefault("NUMBA_NUM_THREADS", os.environ["OMP_NUM_THREADS"])
