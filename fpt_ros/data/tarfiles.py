"""WebDataset tar files, and what is told beside them: there as a whole or not at all."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import NDArray

from fpt_ros.core.errors import InvalidInputError

_JPEG_QUALITY = 95


@contextmanager
def new_shard(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar that takes its name when it is complete: a stopped process leaves no half shard."""
    with (
        when_complete(path) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        yield tar


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write or replace a file of JSON."""
    with when_complete(path) as file:
        file.write(json.dumps(content, indent=1).encode() + b"\n")


@contextmanager
def when_complete(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when it is on the disk: a power failure leaves no empty one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_stale(folder: Path, split: str) -> None:
    """Remove what killed processes have left of the split's shards."""
    for stale in folder.glob(f".{split}-*.tar.*"):
        # Files of editors and of copying programs look alike.
        process = re.fullmatch(r"\.([0-9]{1,7})", stale.suffix)
        if process and not _alive(int(process[1])):
            stale.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file. Equal contents give equal bytes."""
    entry = tarfile.TarInfo(name)  # time, owner and mode stay at their constant defaults
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def jpeg(rgb: NDArray[np.uint8]) -> bytes:
    """Encode an RGB image [H, W, 3]. Raises InvalidInputError if it cannot be encoded."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not done:
        raise InvalidInputError(f"a picture of shape {rgb.shape} could not be encoded")
    return encoded.tobytes()


def npz(**arrays: Any) -> bytes:
    """Arrays as the bytes of a compressed npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()
