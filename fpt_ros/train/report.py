"""What a person sees of a run: progress bar, log lines, TensorBoard scalars and pictures."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from torch.utils.tensorboard import SummaryWriter

from fpt_ros import draw
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.train.state import try_to_write
from fpt_ros.train.validate import ValidationSet, predict

log = logging.getLogger(__name__)

_N_PICTURES = 6


class Reporter:
    """Belongs to the first process. Measures are averaged between two entries."""

    def __init__(self, folder: Path, every_steps: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder / "tensorboard"
        self._writer: SummaryWriter | None = None
        self._disk_failed = False
        self._purge_step: int | None = None
        self._every_steps = every_steps
        self._sums: dict[str, float] = {}
        self._n_steps = 0
        self._since_s = time.monotonic()
        console = Console(stderr=True)  # where log lines go, which then pass above the bar
        self._bar = Progress(
            TextColumn("step {task.fields[step]}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"),
            TextColumn("loss {task.fields[loss]}"),
            console=console,
            disable=not console.is_interactive,
        )
        self._task = self._bar.add_task("train", total=1.0, step=0, left="?", loss="?")
        self._begin: tuple[float, float] | None = None

    @contextlib.contextmanager
    def progress_bar(self, steps_done: int) -> Iterator[None]:
        """Show the bar while the context lasts; nothing is drawn when not on a terminal.

        A resumed run starts with some steps done. What TensorBoard knows of later ones gives way.
        """
        self._purge_step = steps_done + 1 if steps_done else None
        with self._bar:
            yield
        self._record(SummaryWriter.flush)

    def _record(self, write: Callable[[SummaryWriter], object]) -> None:
        """Write to TensorBoard if the disk takes it; if not, no more until the next validation."""
        if self._disk_failed:
            return
        if not try_to_write("TensorBoard entries", lambda: write(self._open())):
            self._writer = None  # one that has failed once fails for ever
            self._disk_failed = True

    def _open(self) -> SummaryWriter:
        if self._writer is None:
            self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step)
            self._purge_step = None
        return self._writer

    def step(
        self, step: int, progress: float, views: int, measures: dict[str, float], skipped: int
    ) -> None:
        """Take in one step of `views` views; `progress` in [0, 1] is the share of the run done."""
        now_s = time.monotonic()
        if self._begin is None:
            self._begin = (now_s, progress)
            self._since_s = now_s
        for name, value in measures.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._n_steps += 1
        self._bar.update(self._task, completed=progress, step=step, left=self._left(progress))
        if step % self._every_steps:
            return
        means = {name: value / self._n_steps for name, value in self._sums.items()}
        means["views_per_s"] = self._n_steps * views / max(now_s - self._since_s, 1e-9)
        means["skipped"] = skipped
        self._record(lambda writer: _add_scalars(writer, "train", means, step))
        self._bar.update(self._task, loss=f"{means['loss']:.3f}")
        self._sums, self._n_steps, self._since_s = {}, 0, now_s
        log.info(
            "step %d (%.1f %%, left %s): loss %.3f, nll at 0/1 pokes %.3f %.3f, epe %.1f px, "
            "moving %.1f px, gradient %.2f, %.1f views/s",
            step,
            100 * progress,
            self._left(progress),
            means["loss"],
            means["nll/no_poke"],
            means["nll/one_poke"],
            means["epe_px/one_poke"],
            means["epe_px/one_poke_moving"],
            means["grad_norm"],
            means["views_per_s"],
        )

    def validation(
        self,
        step: int,
        measured: dict[str, float],
        model: FlowPokeModel,
        views: ValidationSet,
        device: torch.device,
    ) -> None:
        """Log a validation and draw some of its views."""
        listed = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
        log.info("validation at step %d: %s", step, listed)
        picture = draw_views(model, views, device)
        self._disk_failed = False  # perhaps there is room now

        def write(writer: SummaryWriter) -> None:
            _add_scalars(writer, "val", measured, step)
            writer.add_image("val/poke_truth_mean_influence", picture, step, dataformats="HWC")
            writer.flush()

        self._record(write)
        self._since_s = time.monotonic()
        self._sums, self._n_steps = {}, 0

    def _left(self, progress: float) -> str:
        if self._begin is None or progress <= self._begin[1]:
            return "?"
        per_share = (time.monotonic() - self._begin[0]) / (progress - self._begin[1])
        minutes, seconds = divmod(round(per_share * (1 - progress)), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _add_scalars(writer: SummaryWriter, group: str, values: dict[str, float], step: int) -> None:
    for name, value in values.items():
        writer.add_scalar(f"{group}/{name}", value, step)


def draw_views(model: FlowPokeModel, views: ValidationSet, device: torch.device) -> np.ndarray:
    """Rows of: image with the poke, true motion, predicted mean, influence; uint8 [H, W, 3] RGB.

    Motion is coloured by direction (hue) and length (brightness).
    """
    rows = slice(0, _N_PICTURES)
    flow, (before, after) = predict(model, views, rows, device)
    score = after.kl_divergence(before).float().cpu().numpy()
    mean, truth = after.mean().float().cpu().numpy(), flow.cpu().numpy()
    side = views.image.shape[-1]
    n = round(len(views.xy) ** 0.5)
    pictures = []
    for i in range(len(truth)):
        longest = np.linalg.norm(truth[i], axis=-1).argmax()
        poke = side * np.concatenate([views.xy[longest].numpy(), truth[i, longest]])
        image = draw.draw_pokes(views.image[i].permute(1, 2, 0).numpy(), poke[None])
        reach = max(float(np.linalg.norm(truth[i], axis=-1).max()), 1e-6)
        grey = np.clip(255 * score[i] / 4, 0, 255).astype(np.uint8).reshape(n, n, 1).repeat(3, 2)
        tiles = [_colour(truth[i], n, reach), _colour(mean[i], n, reach), grey]
        resized = [cv2.resize(t, (side, side), interpolation=cv2.INTER_NEAREST) for t in tiles]
        pictures.append(np.hstack([image, *resized]))
    return np.vstack(pictures)


def _colour(flow: np.ndarray, n: int, reach: float) -> np.ndarray:
    angle = np.arctan2(flow[:, 1], flow[:, 0])
    length = np.clip(np.linalg.norm(flow, axis=-1) / reach, 0, 1)
    hsv = np.stack([(angle / np.pi + 1) * 90 % 180, np.full_like(angle, 255), 255 * length], -1)
    return cv2.cvtColor(hsv.astype(np.uint8).reshape(n, n, 3), cv2.COLOR_HSV2RGB)
