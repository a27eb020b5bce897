"""Small convolutions run on one thread: two that share their cores with another process wait for each other."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, and for the processes that tests start
