"""For all tests: one thread of arithmetic. Tensors are small, and on a busy machine threads wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
