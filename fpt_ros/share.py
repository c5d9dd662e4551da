"""Where the files live that come with the package but are no Python: weights, config, launch."""

from __future__ import annotations

from pathlib import Path


def shared_folder(name: str) -> Path | None:
    """The folder `name` beside the package in a source tree, or in share/fpt_ros above it.

    Installations by pip and by colcon put the package somewhere below the prefix that holds
    share/, so that no environment variable is needed. None where there is no such folder.
    """
    package = Path(__file__).absolute().parent
    candidates = []
    if (package.parent / "package.xml").is_file():  # else a neighbour may bear the same name
        candidates.append(package.parent / name)
    candidates += [parent / "share" / "fpt_ros" / name for parent in package.parents]
    return next((folder for folder in candidates if folder.is_dir()), None)
