"""Memory of this process."""

import ctypes
from contextlib import suppress


def return_freed_memory() -> None:
    """Give what was freed back to the system; glibc keeps much of it otherwise."""
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
