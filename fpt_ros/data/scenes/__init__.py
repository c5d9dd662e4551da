"""A procedural world for MuJoCo: things with joints, loose things, rooms, light and cameras."""

import ctypes
import os


def _opengl_platform() -> str:
    """EGL, which needs no display; without its library `off`, for MuJoCo to import all the same."""
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return "off"
    return "egl"


# MuJoCo chooses its OpenGL platform at import.
os.environ.setdefault("MUJOCO_GL", _opengl_platform())
# Mesa's software renderer starts threads for every core when its first context is made: one process
# per core is faster.
os.environ.setdefault("LP_NUM_THREADS", "1")
