"""The weights that come with the package."""

from __future__ import annotations

from pathlib import Path

from .core.errors import CheckpointError
from .share import shared_folder


def default_checkpoint() -> Path:
    """The one .safetensors file in the weights folder of the source tree or the installation.

    Raises CheckpointError where there is none, or more than one to choose from.
    """
    folder = shared_folder("weights")
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if len(files) == 1:
        return files[0]
    if files:
        names = ", ".join(file.name for file in files)
        raise CheckpointError(f"{folder} holds several weights ({names}): name one of them")
    raise CheckpointError(
        f"no weights came with this installation (looked for *.safetensors in "
        f"{folder or 'weights/ and share/fpt_ros/weights/'}): name a checkpoint, or train one with "
        "`fpt scenes` and `fpt train`"
    )
