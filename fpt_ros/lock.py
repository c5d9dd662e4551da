"""One process at a time for a folder."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

from fpt_ros.core.errors import InvalidInputError

log = logging.getLogger(__name__)

LOCK_FILE = ".lock"


def hold(folder: Path) -> None:
    """Keep other processes out of the work in `folder` until this one ends, in whatever way.

    The folder is made if need be. A process may hold it several times. Raises InvalidInputError
    when another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        # Of the process, unlike flock: loader processes that outlive a killed one do not keep it.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        os.close(lock)
        raise InvalidInputError(
            f"another process is at work in {folder}: wait until it has ended, or choose another "
            "folder"
        ) from error
    except OSError as error:  # some network drives have no locks
        log.warning("%s is not kept from other processes: %s", folder, error)
    # Not closed: with the first descriptor of the file that is closed, the lock would be gone.
