"""The Fast DDS profile that lets camera images through; config/fastdds.xml says why."""

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from fpt_ros.share import shared_folder

_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")
# Chooses transports without a profile, and has no effect beside one that names transports.
_TRANSPORTS = "FASTDDS_BUILTIN_TRANSPORTS"


def profile_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Environment variables to add to `environ`, before `rclpy.init()`, to use our profile.

    Nothing when the user has chosen a profile, transports, or a middleware other than Fast DDS.
    """
    if any(environ.get(name) for name in (*_VARIABLES, _TRANSPORTS)):
        return {}
    folder = shared_folder("config")
    if folder is None or "fastrtps" not in (environ.get("RMW_IMPLEMENTATION") or "fastrtps"):
        return {}
    # Fast DDS 3 (with rclpy 9: ROS 2 Kilted) renamed the variable and warns about the old name.
    try:
        renamed = int(version("rclpy").split(".")[0]) >= 9
    except PackageNotFoundError:
        renamed = True
    return {_VARIABLES[0 if renamed else 1]: str(folder / "fastdds.xml")}
