"""Gives each thread that computes a core of its own, where there are as many threads as cores.

`native/cores.c` says why, and does it; here it is told which cores there are.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from runtime_stub.engine.hardware import cores_of_our_own

_MOST_CPUS = 1024
"""Larger numbers have no place in a mask of native/cores.h."""
_DECIDED_BY = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY")
"""Variables by which people say themselves where OpenMP's threads are to run."""

_Mask = ctypes.c_uint64 * (_MOST_CPUS // 64)
_kept: list[object] = []
"""What native code reads for as long as it runs."""


class NativeCores(ctypes.Structure):
    """`struct satchel_cores`."""

    _fields_ = (("all", _Mask), ("count", ctypes.c_int32), ("each", ctypes.POINTER(_Mask)))


def tell_cores(address: int) -> int:
    """Tell the `satchel_cores` there which cores threads may take, before anything is computed;
    returns how many. 0 leaves it to the kernel: where the user has decided otherwise, and where the
    cores are shared with others or too many."""
    cores = cores_of_our_own()
    cpus = [cpu for core in cores for cpu in core]
    if len(cores) < 2 or max(cpus) >= _MOST_CPUS or any(map(os.environ.get, _DECIDED_BY)):
        return 0
    native = NativeCores.from_address(address)
    each = (_Mask * len(cores))(*map(_mask, cores))
    _kept.append(each)
    native.all = _mask(cpus)
    native.each = ctypes.cast(each, ctypes.POINTER(_Mask))
    native.count = len(cores)
    return len(cores)


def _mask(cpus: Iterable[int]) -> ctypes.Array[ctypes.c_uint64]:
    mask = _Mask()
    for cpu in cpus:
        mask[cpu // 64] |= 1 << cpu % 64
    return mask
