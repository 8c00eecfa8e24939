"""For all tests: one thread of arithmetic. Tensors are small, and on a busy machine threads wait for each other.

Triton's kernels are interpreted.

And a cache of their own: nothing is written to the user's.
"""

import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TRITON_INTERPRET", "1")  # read where a kernel is defined; a GPU's tests may set it to 0
_cache = tempfile.TemporaryDirectory()
os.environ["VLM_CACHE"] = _cache.name
