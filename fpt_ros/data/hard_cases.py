"""A folder of short recordings with a limit: the oldest make room for the newest."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from fpt_ros.bags import BagError, BagWriter

_NAME = re.compile(r"surprise_\d{10,20}")
_UNFINISHED = ".unfinished"

Recorded = tuple[str, str, int, bytes]  # topic, type name, time in ns, CDR


def keep(folder: Path, limit_bytes: int, stamp_ns: int, messages: Sequence[Recorded]) -> Path:
    """Write messages, in order of time, into a new bag of the folder; return where it is.

    Only recordings that this function made are ever removed, and only when the new one is written:
    until then the folder holds one more than the limit counts. A recording appears under its name
    when it is complete.

    Args:
        folder: made if it does not exist; for one writer at a time.
        limit_bytes: of all recordings together.
        stamp_ns: names the recording; one of the same name is replaced.
        messages: what to record.

    Raises:
        BagError: the folder cannot be written (a full disk, say), or the messages alone are more
            than the limit.
    """
    target = folder / f"surprise_{max(stamp_ns, 0):019d}"
    _check_size(sum(len(cdr) for *_, cdr in messages), limit_bytes, folder)
    unfinished = folder / _UNFINISHED
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        with BagWriter(unfinished / target.name) as bag:
            for topic, type_name in dict.fromkeys((topic, kind) for topic, kind, *_ in messages):
                bag.add_topic(topic, type_name)
            for message in messages:
                bag.write(*message)
        size_bytes = _size(unfinished / target.name)
        _check_size(size_bytes, limit_bytes, folder)
        # Only now: what is there is not given up for a recording that could not be written.
        shutil.rmtree(target, ignore_errors=True)
        _make_room(folder, limit_bytes - size_bytes)
        (unfinished / target.name).rename(target)
        unfinished.rmdir()
    except OSError as error:
        raise BagError(f"cannot write to {folder}: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def kept(folder: Path) -> list[Path]:
    """The recordings in a folder, the oldest first."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if _NAME.fullmatch(path.name) and not path.is_symlink() and path.is_dir()
    )


def _check_size(size_bytes: int, limit_bytes: int, folder: Path) -> None:
    if size_bytes > limit_bytes:
        raise BagError(
            f"{size_bytes / 1e6:.1f} MB of images are more than {folder} may hold "
            f"({limit_bytes / 1e6:.1f} MB)"
        )


def _make_room(folder: Path, limit_bytes: int) -> None:
    cases = [(path, _size(path)) for path in kept(folder)]
    total = sum(size for _, size in cases)
    for path, size in cases:
        if total <= limit_bytes:
            return
        shutil.rmtree(path)
        total -= size


def _size(path: Path) -> int:
    total = 0
    for file in path.iterdir():
        with suppress(FileNotFoundError):
            total += file.stat().st_size
    return total
