"""Headless rendering of one MuJoCo model: colour, depth and which shape every pixel shows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mujoco
import numpy as np
from numpy.typing import NDArray

from fpt_ros.core.errors import FptError
from fpt_ros.data.scenes.camera import Camera

MAX_PX = 512
_Flag = mujoco.mjtRndFlag


class RenderError(FptError, RuntimeError):
    """MuJoCo cannot draw on this machine."""


_gl: mujoco.GLContext | None = None


@contextmanager
def _opengl() -> Iterator[None]:
    """With the GL context of this process, which is made once because that is slow."""
    global _gl
    try:
        if _gl is None:
            _gl = mujoco.GLContext(MAX_PX, MAX_PX)
            _gl.make_current()
        yield
    except (mujoco.FatalError, AttributeError, ImportError, RuntimeError) as error:
        raise RenderError(
            f"no headless OpenGL ({error}); install libegl1 and libgl1-mesa-dri, and set "
            "MUJOCO_GL=egl before mujoco is imported"
        ) from error


def drawn_with() -> dict[str, str]:
    """MuJoCo's version and what draws for it, as OpenGL names it. Raises RenderError."""
    with _opengl():
        from OpenGL.GL import GL_RENDERER, glGetString

        return {"mujoco": mujoco.__version__, "gl_renderer": glGetString(GL_RENDERER).decode()}


class SceneRenderer:
    """Renders states of one model. Use as a context manager; it holds GPU or Mesa memory.

    Raises RenderError where nothing can be drawn.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        with _opengl():
            self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, model.ngeom + 10)
        self._option = mujoco.MjvOption()
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view.fixedcamid = 0
        extent = model.stat.extent
        self._near, self._far = model.vis.map.znear * extent, model.vis.map.zfar * extent

    def __enter__(self) -> SceneRenderer:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.free()

    def _update(self, data: mujoco.MjData, camera: Camera) -> None:
        data.cam_xpos[0] = camera.position
        data.cam_xmat[0] = camera.rotation.ravel()
        self._model.cam_fovy[0] = np.degrees(2 * np.arctan(camera.tangent))
        category = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._view, category, self._scene
        )

    def _render(self, size_px: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Colours and raw depth buffer of the current scene, top row first."""
        rgb = np.empty((size_px, size_px, 3), np.uint8)
        raw = np.empty((size_px, size_px), np.float32)
        viewport = mujoco.MjrRect(0, 0, size_px, size_px)
        mujoco.mjr_render(viewport, self._scene, self._context)
        mujoco.mjr_readPixels(rgb, raw, viewport, self._context)
        return rgb[::-1], raw[::-1]

    def _metres(self, raw: NDArray[np.float32]) -> NDArray[np.float64]:
        return self._near / (1.0 - raw.astype(np.float64) * (1.0 - self._near / self._far))

    def colour(
        self, data: mujoco.MjData, camera: Camera, size_px: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
        """RGB picture [size, size, 3] with shadows, and its depth [size, size] (m)."""
        self._update(data, camera)
        self._scene.flags[_Flag.mjRND_SHADOW] = True
        rgb, raw = self._render(size_px)
        return rgb, self._metres(raw)

    def geometry(
        self, data: mujoco.MjData, camera: Camera, size_px: int
    ) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
        """Depth [size, size] (m, far plane where empty) and geom id [size, size] (-1 = sky)."""
        self._update(data, camera)
        flags = self._scene.flags
        flags[_Flag.mjRND_SHADOW] = False
        flags[_Flag.mjRND_SEGMENT] = flags[_Flag.mjRND_IDCOLOR] = True
        try:
            rgb, raw = self._render(size_px)
        finally:
            flags[_Flag.mjRND_SEGMENT] = flags[_Flag.mjRND_IDCOLOR] = False
        segment = rgb.astype(np.int32) @ np.array([1, 1 << 8, 1 << 16]) - 1
        lookup = np.full(self._scene.ngeom + 1, -1, np.int32)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM and geom.segid >= 0:
                lookup[geom.segid] = geom.objid
        return self._metres(raw), lookup[np.clip(segment, -1, self._scene.ngeom)]
