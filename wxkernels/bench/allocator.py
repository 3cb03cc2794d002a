"""The C library's allocator as people set it who want PyTorch to be fast."""

import ctypes
import platform

#: Of mallopt: from this size on a block is mapped from the system by itself; above so many free bytes memory
#: goes back to it. -1 is the largest size.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> str:
    """Let glibc use freed memory again, as jemalloc and tcmalloc do; says which allocator there is.

    By default it gives large blocks back to the system, and every call faults its tensors in anew: of a
    compiled bf16 step of FourCastNet 7.5 to 8.7 s against 6.6 to 7.0 s, eager 9.2 to 10.5 s against 7.8 s,
    with a share that differs from process to process. Our own large results are kept anyway (`_memory`).
    """
    if platform.libc_ver()[0] != "glibc":
        return "the system's"
    libc = ctypes.CDLL(None)
    kept = all(libc.mallopt(option, -1) for option in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
    return "glibc, freed memory kept" if kept else "glibc"
