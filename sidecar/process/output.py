"""What a managed sidecar writes to its standard output, which its host made a file, kept from growing for ever.

The host empties the file (``launch.log``) at each start. A library that warns at every request would fill the disk
in the weeks that a process may live.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Sequence

MOST = 4 << 20  # bytes


def bound(descriptors: Sequence[int] = (1, 2), most: int = MOST) -> bool:
    """Empty files of more than ``most`` bytes that these descriptors append to; tell whether any was.

    A file opened without append is left alone: what is written next would leave a hole as large as what was there.
    """
    emptied = False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            found = os.fstat(descriptor)
            appends = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND
            if stat.S_ISREG(found.st_mode) and found.st_size > most and appends:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"({found.st_size >> 20} MB of earlier output were dropped)\n".encode())
                emptied = True
    return emptied
