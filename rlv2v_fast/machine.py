"""What the rlv2v command sets for its own process before torch is imported. As a library the package sets nothing.

A user's own setting stands, in the environment as everywhere.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import MutableMapping

# Rounds that a waiting thread of GCC's OpenMP spins before it sleeps, read when its library is loaded. By default it
# spins for milliseconds, and with one of two cores busy an iteration of Figure 1 took 5 to 24 s. With 2000 rounds it
# took 1.0 s, and on a quiet machine as long as by default (docs/performance.md).
_SPINS = "2000"
_WAITING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
# glibc returns freed blocks above a size to the system, which zeroes each page of the next one. Training keeps what it
# has freed: every iteration wants the same. Translating returns what is as large as a large frame: if kept, such blocks
# are cut up for smaller ones, and 1920x1080 peaked at 763 to 848 MiB instead of 614.
_ALLOCATOR = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER, _KEPT, _KEPT_IN_TRAINING = 2**31 - 1, 2**23, 2**28


def settle(environment: MutableMapping[str, str] = os.environ, *, trains: bool = False) -> None:
    """Have waiting threads spin briefly, and glibc keep freed memory as suits, where the user has not said how.

    Args:
        trains: whether the command trains.
    """
    if not any(name in environment for name in _WAITING):
        environment["GOMP_SPINCOUNT"] = _SPINS
    if not any(name in environment for name in _ALLOCATOR):
        _keep_freed_memory(_KEPT_IN_TRAINING if trains else _KEPT)


def _keep_freed_memory(largest: int) -> None:
    """Keep freed blocks of at most so many bytes. Nothing, on a system whose C library is another one."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_TRIM_THRESHOLD, _NEVER)
    mallopt(_M_MMAP_THRESHOLD, largest)
