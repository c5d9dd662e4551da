"""A procedural world for MuJoCo: things with joints, loose things, rooms, light and cameras."""

import os

# MuJoCo chooses its OpenGL platform at import; EGL needs no display.
os.environ.setdefault("MUJOCO_GL", "egl")
