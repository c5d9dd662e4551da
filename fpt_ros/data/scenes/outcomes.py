"""What happens next: joints that move, and pushes whose contacts physics works out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from fpt_ros.data.scenes.builder import Mechanism
from fpt_ros.data.scenes.world import TIMESTEP_S, World

# Unstable physics is noticed from the counters and its samples are dropped; no log file.
mujoco.set_mju_user_warning(lambda _: None)

Rng = np.random.Generator
Array = NDArray[np.float64]
_SETTLE_STEPS = (50, 300)  # least and most
_AT_REST = 0.4  # m/s or rad/s; what is slower is stopped
_UNSTABLE = (
    mujoco.mjtWarning.mjWARN_BADQPOS,
    mujoco.mjtWarning.mjWARN_BADQVEL,
    mujoco.mjtWarning.mjWARN_BADQACC,
)


@dataclass(frozen=True)
class JointMotion:
    """Joints that change by `deltas` (same order as `mechanisms`) over the full horizon."""

    mechanisms: tuple[Mechanism, ...]
    deltas: tuple[float, ...]
    timing: float

    def scaled(self, factor: float) -> JointMotion:
        """The same motion, smaller or larger."""
        return JointMotion(self.mechanisms, tuple(d * factor for d in self.deltas), self.timing)


@dataclass(frozen=True)
class Push:
    """A point of a loose body that is led along `travel` [3] (m) over the full horizon."""

    body: int
    point: Array
    travel: Array


class State:
    """One model in motion: sets starting states and computes later ones."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.model = world.model
        self.data = mujoco.MjData(self.model)
        self.start = np.zeros(self.model.nq)
        self.aftermath: Array | None = None

    def restart(self, rng: Rng) -> bool:
        """Draw a starting state: joints at rest or partly open, loose things settled.

        Loose things start where they were built, or where an earlier outcome left them. Returns
        False, and keeps the former start, when they do not come to rest.
        """
        data, model = self.data, self.model
        mujoco.mj_resetData(model, data)
        if self.aftermath is not None and rng.random() < 0.5:
            data.qpos[:] = self.aftermath
        for mechanism in self.world.mechanisms:
            value = mechanism.rest
            if rng.random() < 0.45:
                value = rng.uniform(mechanism.low, mechanism.high)
            self._place(data.qpos, mechanism, value)
        if self.world.loose and not self._settle():
            return False
        self.start = data.qpos.copy()
        self.show(self.start)
        return True

    def _settle(self) -> bool:
        """Let loose things come to rest while all joints stay where they are."""
        data = self.data
        address, dof = self._jointed()
        held = data.qpos[address]
        for step in range(1, _SETTLE_STEPS[1] + 1):
            mujoco.mj_step(self.model, data)
            data.qpos[address] = held
            data.qvel[dof] = 0
            if step >= _SETTLE_STEPS[0] and np.abs(data.qvel).max() < _AT_REST:
                return not self._unstable()
        return False

    def _jointed(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Addresses in qpos and qvel of all joints other than those of loose things."""
        joints = self.model.jnt_type != mujoco.mjtJoint.mjJNT_FREE
        return self.model.jnt_qposadr[joints], self.model.jnt_dofadr[joints]

    def _unstable(self) -> bool:
        """Whether physics broke down since the last reset."""
        return any(self.data.warning[kind].number > 0 for kind in _UNSTABLE)

    def show(self, qpos: Array) -> None:
        """Put all shapes where they are at `qpos`."""
        self.data.qpos[:] = qpos
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_comPos(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _address(self, joint: str) -> int:
        return int(self.model.jnt_qposadr[self.model.joint(joint).id])

    def _place(self, qpos: Array, mechanism: Mechanism, value: float) -> None:
        address = self._address(mechanism.joint)
        delta = value - qpos[address]
        qpos[address] = value
        for name, ratio in mechanism.companions:
            low, high = self.model.joint(name).range
            other = self._address(name)
            qpos[other] = np.clip(qpos[other] + ratio * delta, low, high)

    def moved_body_ids(self, mechanism: Mechanism) -> NDArray[np.int64]:
        """Bodies that a mechanism carries (its own body and everything below it)."""
        ids = {int(self.model.jnt_bodyid[self.model.joint(mechanism.joint).id])}
        for name, _ in mechanism.companions:
            ids.add(int(self.model.jnt_bodyid[self.model.joint(name).id]))
        for body in range(1, self.model.nbody):  # parents come before children
            if int(self.model.body_parentid[body]) in ids:
                ids.add(body)
        return np.array(sorted(ids))

    def joint_motion(self, rng: Rng, mechanisms: list[Mechanism]) -> JointMotion:
        """One joint (seldom several) towards a random place in its range."""
        count = 1
        if len(mechanisms) > 1 and rng.random() < 0.12:
            count = int(rng.integers(2, min(4, len(mechanisms)) + 1))
        chosen = [mechanisms[i] for i in rng.permutation(len(mechanisms))[:count]]
        deltas = []
        for mechanism in chosen:
            now = self.start[self._address(mechanism.joint)]
            room = np.array([mechanism.low - now, mechanism.high - now])
            share = np.abs(room) + 1e-9
            # mostly towards the side with more room, never against a near stop
            direction = int(rng.random() < share[1] / share.sum())
            deltas.append(float(room[direction] * rng.uniform(0.4, 1.0)))
        return JointMotion(tuple(chosen), tuple(deltas), float(rng.uniform(0.8, 1.4)))

    def later(self, motion: JointMotion | Push, fractions: list[float]) -> list[Array]:
        """Joint values at each fraction of the full horizon (1 s); fractions ascend.

        Empty when physics became unstable on the way.
        """
        if isinstance(motion, JointMotion):
            if not self.world.loose:
                return [self.joints_at(motion, f) for f in fractions]
            return self._simulate(self._joint_driver(motion), fractions)
        return self._simulate(self._push_driver(motion), fractions)

    def joints_at(self, motion: JointMotion, fraction: float) -> Array:
        """Joint values after a fraction of the motion when nothing gets in the way."""
        qpos = self.start.copy()
        share = fraction**motion.timing
        for mechanism, delta in zip(motion.mechanisms, motion.deltas, strict=True):
            now = self.start[self._address(mechanism.joint)]
            value = float(np.clip(now + share * delta, mechanism.low, mechanism.high))
            self._place(qpos, mechanism, value)
        return qpos

    def _simulate(self, drive: Callable[[float], None], fractions: list[float]) -> list[Array]:
        data = self.data
        gripper = data.mocap_pos.copy(), data.mocap_quat.copy()
        mujoco.mj_resetData(self.model, data)
        data.mocap_pos[:], data.mocap_quat[:] = gripper
        data.qpos[:] = self.start
        steps = round(1.0 / TIMESTEP_S)
        stops = [round(f * steps) for f in fractions]
        seen = []
        mujoco.mj_forward(self.model, data)
        for step in range(1, stops[-1] + 1):
            drive(step / steps)
            mujoco.mj_step(self.model, data)
            if step in stops:
                seen.append(data.qpos.copy())
        if self._unstable():
            return []
        self.aftermath = seen[-1]
        return seen

    def _joint_driver(self, motion: JointMotion) -> Callable[[float], None]:
        """Moves the joints as planned and lets whatever they touch react."""
        address, dof = self._jointed()

        def drive(fraction: float) -> None:
            target = self.joints_at(motion, fraction)
            self.data.qvel[dof] = (target - self.data.qpos)[address] / TIMESTEP_S

        return drive

    def _push_driver(self, push: Push) -> Callable[[float], None]:
        """A spring and damper lead the touched point along a straight line."""
        model, data = self.model, self.data
        self.show(self.start)
        rotation = data.xmat[push.body].reshape(3, 3)
        local = rotation.T @ (push.point - data.xpos[push.body])
        jacobian, turning = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mass = self._mass_felt_at(push)

        def drive(fraction: float) -> None:
            here = data.xpos[push.body] + data.xmat[push.body].reshape(3, 3) @ local
            mujoco.mj_jac(model, data, jacobian, turning, here, push.body)
            speed = jacobian @ data.qvel
            smooth = fraction * fraction * (3 - 2 * fraction)
            error = push.point + push.travel * smooth - here
            force = mass * (1500.0 * error - 70.0 * speed)
            data.qfrc_applied[:] = jacobian.T @ force

        return drive

    def _mass_felt_at(self, push: Push) -> float:
        """The smallest inertia (kg) a force at the touched point meets; a stiff spring needs it."""
        model, data = self.model, self.data
        mujoco.mj_forward(model, data)
        jacobian, turning = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        mujoco.mj_jac(model, data, jacobian, turning, push.point, push.body)
        response = np.zeros_like(jacobian)
        mujoco.mj_solveM(model, data, response, jacobian)
        return 1.0 / float(np.linalg.eigvalsh(jacobian @ response.T)[-1])
