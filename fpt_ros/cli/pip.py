"""What to type to install a package."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path


def install_command(*packages: str) -> str:
    """The command that installs packages, as a shell takes them, for the Python that runs this."""
    # Of a system Python whose distribution wants its own tool to be used; not of what is in a
    # virtual environment.
    marker = Path(sysconfig.get_path("stdlib", sysconfig.get_default_scheme()))
    managed = sys.prefix == sys.base_prefix and (marker / "EXTERNALLY-MANAGED").exists()
    flags = ["--break-system-packages"] if managed else []
    return " ".join([sys.executable, "-m pip install", *flags, *packages])
