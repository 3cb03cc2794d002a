"""Large results on the CPU, in memory that is used again.

The C library gives the memory of a large tensor back to the system when the tensor dies, and the next one is
faulted in anew: of the 50 MB results of a FourCastNet layer that took 5 to 50 ms each, of a layer of 200 ms.
"""

import mmap
import weakref
from math import prod

import torch
from torch import Tensor

#: Smaller tensors are left to the C library.
LARGE = 8 << 20
#: Buffers that wait for their next use, smallest first, and how many at most: a step has two results at once.
_idle: list[mmap.mmap] = []
_MOST = 4


def empty(*shape: int, dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor on the CPU, as torch.empty; its memory may be that of one no longer used."""
    values = prod(shape)
    nbytes = values * dtype.itemsize
    if nbytes < LARGE:
        return torch.empty(shape, dtype=dtype)
    buffer = _take(nbytes)
    view = memoryview(buffer)
    tensor = torch.frombuffer(view, dtype=dtype, count=values).view(shape)  # its storage holds the view
    weakref.finalize(view, _give_back, buffer).atexit = False
    return tensor


def _take(nbytes: int) -> mmap.mmap:
    for buffer in tuple(_idle):
        if nbytes <= len(buffer) <= 2 * nbytes:
            try:
                _idle.remove(buffer)
            except ValueError:  # another thread was quicker
                continue
            return buffer
    # Private: shared memory, the default, gets no huge pages and is the child's too after a fork.
    buffer = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer


def _give_back(buffer: mmap.mmap) -> None:
    _idle.append(buffer)
    _idle.sort(key=len)
    del _idle[:-_MOST]
