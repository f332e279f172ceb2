"""Memory at whose borders a program ends that reads or writes beyond them."""

import ctypes
import math
import mmap

import torch


class Guarded:
    """Memory between two pages that nobody may touch, which end where it does or begin where it does."""

    def __init__(self, shape, dtype, at_end):
        self._libc = ctypes.CDLL(None)
        self._libc.mmap.restype = ctypes.c_void_p
        page, size = mmap.PAGESIZE, math.prod(shape) * dtype.itemsize
        pages = -(-size // page) * page
        self._all = pages + 2 * page
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        self._start = self._libc.mmap(None, ctypes.c_size_t(self._all), 3, flags, -1, ctypes.c_long(0))
        for guard in (self._start, self._start + page + pages):
            assert self._libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(page), 0) == 0
        start = self._start + page + (pages - size if at_end else 0)
        self.tensor = torch.frombuffer((ctypes.c_char * size).from_address(start), dtype=dtype).view(shape)

    def free(self):
        del self.tensor
        self._libc.munmap(ctypes.c_void_p(self._start), ctypes.c_size_t(self._all))
