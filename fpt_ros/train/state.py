"""What a run needs to go on after being killed, on disk without ever losing the previous one."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fpt_ros.core.errors import CheckpointError, FptError

log = logging.getLogger(__name__)

STATE_FILE = "state.pt"
LAST_FILE = "last.safetensors"
BEST_FILE = "best.safetensors"


class TrainingError(FptError):
    """Training cannot go on; the last checkpoint is whole."""


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write `state` (tensors and plain values) beside the old file, then swap. Raises OSError."""
    target = folder / STATE_FILE
    scratch = target.with_suffix(".tmp")
    try:
        with scratch.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(target)
    except (OSError, RuntimeError) as error:
        # torch reports a failed write as RuntimeError.
        scratch.unlink(missing_ok=True)
        raise OSError(f"cannot write {target}: {error}") from error


def load_state(folder: Path) -> dict[str, Any]:
    """Read what the run saved; nothing in it is executed. Raises CheckpointError."""
    path = folder / STATE_FILE
    if not path.is_file():
        raise CheckpointError(f"nothing to resume: {path} does not exist; start without --resume")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({error}); start a new run") from error
    if not isinstance(state, dict) or not {"config", "model_config", "data"} <= state.keys():
        raise CheckpointError(f"{path} is not the state of a training run; start a new run")
    return state


def try_to_write(what: str, write: Callable[[], object]) -> bool:
    """Run `write`; a full or lost disk is reported and training goes on with the old file."""
    try:
        write()
    except (OSError, CheckpointError) as error:
        log.error("%s not written (%s); what was there stays, training goes on", what, error)
        return False
    return True
