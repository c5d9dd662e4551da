"""Where a goal of the fine-tuning node has its files."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from fpt_ros.core.errors import InvalidInputError

_KEPT = {"best": "best.safetensors", "latest": "last.safetensors"}


@dataclass(frozen=True)
class GoalFiles:
    """Of one goal.

    folder: for all that is made. promoted: weights that the predictor took over from whichever goal
    was the last, if there was any.
    """

    folder: Path
    promoted: Path

    @classmethod
    def inside(cls, root: Path, name: str) -> GoalFiles:
        """Those of a goal with this name for its folder; empty: a new one.

        Raises InvalidInputError if the name leads out of `root`, or if one of them leads nowhere.
        """
        try:
            root = root.expanduser().resolve()
            folder = (root / (name or time.strftime("%Y%m%d-%H%M%S"))).resolve()
        except RuntimeError as error:  # a ~user that is not known
            raise InvalidInputError(
                f"output_directory {name!r} in the parameter output_dir, {root}: {error}"
            ) from error
        if not folder.is_relative_to(root) or folder == root:
            raise InvalidInputError(
                f"output_directory {name!r} is not a folder inside the parameter output_dir, {root}"
            )
        return cls(folder, root / "promoted.safetensors")

    def kept(self) -> tuple[str, str]:
        """The weights that a stopped training has left, if any, and what to say of them."""
        go_on = f"to go on, send the goal again with output_directory {self.folder}"
        for which, name in _KEPT.items():
            path = self.folder / "training" / name
            if path.exists():
                return str(path), (
                    f"the {which} weights so far are kept, neither averaged nor compared with the "
                    f"base; {go_on}"
                )
        return "", f"there are no weights yet; {go_on}"

    @property
    def plan(self) -> Path:
        """Of the run to go on with, if there is one."""
        return self.folder / "finetune.json"

    def base(self) -> str | None:
        """The weights to begin with if none are named; None: those that come with the package.

        A run to go on with keeps to what it began with. A new one gets what was promoted, under a
        name of its own, for the next goal that is promoted takes the other. Raises OSError.
        """
        if self.plan.exists():
            try:
                base: str | None = json.loads(self.plan.read_text())["config"]["base"]
            except (ValueError, LookupError, TypeError):  # damaged, as the training will say
                return None
            return base
        if not self.promoted.is_file():
            return None
        kept = self.folder / "base.safetensors"
        _keep(self.promoted, kept)
        return str(kept)

    def promote(self, checkpoint: str) -> None:
        """Let the next goal begin with weights. Raises OSError."""
        _keep(Path(checkpoint), self.promoted)


def _keep(source: Path, target: Path) -> None:
    """Have a file under another name too, whatever becomes of the first. Raises OSError."""
    scratch = target.with_suffix(".new")
    scratch.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), scratch)
    except OSError:  # many drives have no links
        with source.open("rb") as old, scratch.open("wb") as new:
            shutil.copyfileobj(old, new)
            new.flush()
            os.fsync(new.fileno())
    scratch.replace(target)
    scratch.unlink(missing_ok=True)  # still there if both were one file already
