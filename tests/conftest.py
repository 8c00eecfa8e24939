"""For all tests: one thread of arithmetic. Tensors are small, and on a busy machine threads wait for each other.

And a cache of their own: nothing is written to the user's.
"""

import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
_cache = tempfile.TemporaryDirectory()
os.environ["VLM_CACHE"] = _cache.name
