"""The training run: steps, schedule, checkpoints, validation; one or several processes."""

from __future__ import annotations

import contextlib
import logging
import math
import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader

from fpt_ros.core.checkpoint import save_checkpoint
from fpt_ros.core.config import ModelConfig
from fpt_ros.core.errors import CheckpointError, InvalidInputError
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.data.samples import ShardIndex, describe
from fpt_ros.lock import hold
from fpt_ros.train.batches import Batch, TrainingBatches
from fpt_ros.train.config import TrainConfig, check_resumable
from fpt_ros.train.control import Clock, Decision, stop_for_parent_alone, stop_request
from fpt_ros.train.loss import Objective
from fpt_ros.train.optimize import build_optimizer, ema_update, learning_rate_factor
from fpt_ros.train.report import Reporter
from fpt_ros.train.start import choose_device, initial_model, wants_bf16
from fpt_ros.train.state import (
    BEST_FILE,
    LAST_FILE,
    STATE_FILE,
    TrainingError,
    load_state,
    save_state,
    try_to_write,
)
from fpt_ros.train.validate import ValidationSet, validate

log = logging.getLogger(__name__)

_UNBOUNDED_STEPS = 2**31


class Trainer:
    """One training run. `run()` trains to the end of the budget and leaves EMA checkpoints."""

    def __init__(
        self, config: TrainConfig, make_reporter: Callable[[Path, int], Reporter] = Reporter
    ) -> None:
        self.config = config
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = choose_device(config.device)
        self.autocast = wants_bf16(config.precision, self.device)

        # Before anything in it is read, which another process might go on to replace.
        if self.rank == 0 and (config.out.is_dir() or not config.resume):
            hold(config.out)
        if self.world > 1:
            dist.barrier()
        if config.resume:
            state = load_state(config.out)
            check_resumable(state["config"], config.to_dict())
        elif (config.out / STATE_FILE).exists():
            raise InvalidInputError(
                f"{config.out} holds a run already: --resume it, or choose another --out"
            )
        index = ShardIndex.scan(config.data, "train")
        val_index = ShardIndex.scan(config.data, "val")
        if index.horizon_s != val_index.horizon_s:
            raise InvalidInputError("train and val shards have different horizons")
        self.horizon_s = index.horizon_s
        self.data = {"views": len(index.views), "outcomes": index.n_outcomes}
        sources = [index]
        if config.rehearsal and config.rehearsal_share:
            sources.append(ShardIndex.scan(config.rehearsal, "train"))
            self.data["rehearsed views"] = len(sources[1].views)
        self.data_sha256 = "+".join(source.sha256() for source in sources)
        self.validated_on = {
            "sha256": val_index.sha256(),
            "views": config.val_views,
            "points per side": config.val_grid,
        }

        torch.manual_seed(config.seed)
        model, self.init = initial_model(config)
        self.model = model.to(self.device)
        self.objective = Objective(self.model, config.part_weight).to(self.device)
        self.ema = AveragedModel(self.model, multi_avg_fn=ema_update(config.ema))
        self.optimizer = build_optimizer(self.objective, config, self.device)
        self.step = 0
        self.elapsed_s = 0.0
        self.best = math.inf
        self.best_saved = math.inf  # the score of BEST_FILE, which a full disk may have kept old
        self.validation: dict[str, float] = {}
        self.validated_step = -1
        self.n_validations_since_best = 0
        self.n_bad_in_a_row = 0
        self.counts: Counter[str] = sum((source.skipped for source in sources), Counter())
        if config.resume:
            self._restore(state)

        input_px = self.model.config.encoder.input_px
        self.batches = TrainingBatches(index, config, input_px, self.rank, self.world, *sources[1:])
        self.val = ValidationSet.load(val_index, config.val_views, config.val_grid, input_px)
        self.forward: nn.Module = self.objective
        if self.world > 1:
            # The published layout holds one matrix that never gets a gradient: static_graph.
            self.forward = DistributedDataParallel(self.forward, static_graph=True)
        self.reporter: Reporter | None = None
        if self.rank == 0:
            self.reporter = make_reporter(config.out, config.log_every)

    def run(self) -> bool:
        """Train until the budget or the patience is used up, or SIGINT or SIGTERM asks to stop.

        Returns False in the last case: the run can go on with `resume`. Raises TrainingError when
        steps in a row cannot be used, or the disk does not take what the run came to.
        """
        config = self.config
        log.info(
            "training on %s%s, validating on %d; %.1f M parameters, %s",
            ", ".join(f"{n} {what}" for what, n in self.data.items()),
            f" (skipped: {describe(self.counts)})" if any(self.counts.values()) else "",
            len(self.val),
            sum(p.numel() for p in self.model.parameters()) / 1e6,
            "bf16" if self.autocast else "fp32",
        )
        last_step = _UNBOUNDED_STEPS if config.minutes else config.steps
        loader = DataLoader(
            self.batches,
            batch_size=None,
            sampler=range(self.step, last_step),
            num_workers=config.workers,
            prefetch_factor=4 if config.workers else None,
            worker_init_fn=stop_for_parent_alone,
        )
        clock = Clock(self.elapsed_s)
        bar = self.reporter.progress_bar(self.step) if self.reporter else contextlib.nullcontext()
        with stop_request() as stop_requested, bar:
            for batch in loader:
                self.elapsed_s = clock.now()
                decision = Decision(
                    self._progress(),
                    stop_requested(),
                    clock.due("checkpoint", config.checkpoint_minutes),
                    clock.due("validate", config.validate_minutes) or self._validates_here(),
                ).shared()
                has_new_best = decision.validate and self._validate()
                if decision.stop:
                    self._last_checkpoint()
                    log.warning("stopped on request at step %d; go on with --resume", self.step)
                    return False
                if decision.checkpoint or has_new_best:
                    self._checkpoint()
                if decision.progress >= 1 or self._patience_is_over():
                    break
                measures = self._train_step(batch.to(self.device), decision.progress)
                if self.reporter:
                    n_skipped = sum(self.counts.values())
                    self.reporter.step(
                        self.step, decision.progress, config.batch, measures, n_skipped
                    )
        self.elapsed_s = clock.now()
        if self.validated_step != self.step:
            self._validate()
        self._last_checkpoint()
        log.info("done: %d steps in %.1f minutes", self.step, self.elapsed_s / 60)
        return True

    def seconds_per_step(self, n_steps: int) -> float:
        """What a step takes on this machine, the fastest of a few. It trains: use another to run.

        Nothing is written, and a trainer that is built later begins as if this had never been.
        """
        loaders = self.config.workers
        durations_s = []
        for step in range(self.step, self.step + n_steps):
            begun_s = time.monotonic()
            batch = self.batches[step]
            loaded_s = time.monotonic() - begun_s
            begun_s = time.monotonic()
            self._train_step(batch.to(self.device), 0.0)  # waits for the device: it has numbers
            step_s = time.monotonic() - begun_s
            durations_s.append(max(step_s, loaded_s / loaders) if loaders else loaded_s + step_s)
        return min(durations_s)

    def _validates_here(self) -> bool:
        every = self.config.validate_steps
        return every > 0 and self.step % every == 0 and self.step not in (0, self.validated_step)

    def _patience_is_over(self) -> bool:
        return 0 < self.config.patience <= self.n_validations_since_best

    def _progress(self) -> float:
        if self.config.minutes is not None:
            return min(1.0, self.elapsed_s / (60 * self.config.minutes))
        return self.step / self.config.steps

    def _train_step(self, batch: Batch, progress: float) -> dict[str, float]:
        config = self.config
        if config.minutes is None:
            # The first step must not have rate zero, nor the last one: sample mid-step.
            progress = (self.step + 0.5) / config.steps
        factor = learning_rate_factor(progress, config.warmup, config.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["peak_rate"]
        pieces = batch.split(config.accumulate)
        totals: dict[str, Tensor] = {}
        for i, piece in enumerate(pieces):
            last = i == len(pieces) - 1
            ddp = self.forward if isinstance(self.forward, DistributedDataParallel) else None
            with (
                contextlib.nullcontext() if last or ddp is None else ddp.no_sync(),
                torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast),
            ):
                loss, measures = self.forward(piece)
                (loss / len(pieces)).backward()
            for name, value in {"loss": loss.detach(), **measures}.items():
                totals[name] = totals.get(name, 0) + value / len(pieces)
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), config.clip)
        # Gradients are averaged over processes, so every process sees the same verdict.
        if torch.isfinite(norm):
            self.optimizer.step()
            self.ema.update_parameters(self.model)
            self.n_bad_in_a_row = 0
        else:
            self.counts["step with a loss or gradient that is not finite"] += 1
            self.n_bad_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.counts["unusable sample"] += batch.n_skipped
        if self.n_bad_in_a_row >= config.max_bad_steps:
            saved = config.out / LAST_FILE
            start = f"--init {saved}" if saved.exists() else "the same start"
            raise TrainingError(
                f"loss or gradient not finite in {self.n_bad_in_a_row} steps in a row, the last "
                f"being step {self.step}; none of them changed the weights. Look for odd samples, "
                f"or start a new run with {start} and a --learning-rate below "
                f"{config.learning_rate:g}"
            )
        measured = {name: float(value) for name, value in totals.items()}
        return {
            **measured,
            "learning_rate": factor * config.learning_rate,
            "grad_norm": float(norm),
        }

    @property
    def averaged_model(self) -> FlowPokeModel:
        """The weights to validate and ship."""
        return cast(FlowPokeModel, self.ema.module) if self.config.ema else self.model

    def _validate(self) -> bool:
        """Measure; True if BEST_FILE is new, of which the state does not know yet.

        It should at once: if the process is killed first, worse weights may replace those.
        """
        measured = validate(self.averaged_model, self.val, self.device)
        self.validation = measured
        self.validated_step = self.step
        # Still points are many and easy: alone they would hide what is learned about motion.
        score = measured["nll/one_poke"] + measured["nll/one_poke_moving"]
        is_best = score < self.best
        if is_best:
            self.best = score
        self.n_validations_since_best = 0 if is_best else self.n_validations_since_best + 1
        if self.reporter is None:
            return False
        self.reporter.validation(self.step, measured, self.averaged_model, self.val, self.device)
        path = self.config.out / BEST_FILE
        if score < self.best_saved and try_to_write(str(path), lambda: self._export(path)):
            self.best_saved = score
            return True
        return False

    def _checkpoint(self) -> bool:
        """Write state and weights; False if the disk did not take both."""
        if self.rank:
            return True
        folder = self.config.out
        state = try_to_write(str(folder / STATE_FILE), lambda: save_state(folder, self._state()))
        last = try_to_write(str(folder / LAST_FILE), lambda: self._export(folder / LAST_FILE))
        return state and last

    def _last_checkpoint(self) -> None:
        if not self._checkpoint():
            raise TrainingError(
                f"the weights of the last steps could not be written into {self.config.out}, the "
                "errors above say why; make room, then go on from the last checkpoint with --resume"
            )

    def _export(self, path: Path) -> None:
        training = {
            "config": self.config.to_dict(),
            "data": self.data,
            "steps": self.step,
            "views_seen": self.step * self.config.batch,
            "minutes": round(self.elapsed_s / 60, 1),
            "processes": self.world,
            "validation": self.validation,
            "skipped": dict(self.counts),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            **({"init": self.init} if self.init else {}),
        }
        save_checkpoint(
            path,
            self.averaged_model,
            horizon_s=self.horizon_s,
            licence=self.config.licence,
            training=training,
        )

    def _state(self) -> dict[str, Any]:
        # Batches are a function of seed and step, and the network draws nothing at random: these
        # are all that the next step depends on.
        return {
            "config": self.config.to_dict(),
            "model_config": self.model.config.to_json(),
            "data": self.data,
            "data_sha256": self.data_sha256,
            "init": self.init,
            "step": self.step,
            "elapsed_s": self.elapsed_s,
            "validated_on": self.validated_on,
            "best": self.best,
            "best_saved": self.best_saved,
            "validation": self.validation,
            "validated_step": self.validated_step,
            "n_validations_since_best": self.n_validations_since_best,
            "n_bad_in_a_row": self.n_bad_in_a_row,
            "counts": dict(self.counts),
            "objective": self.objective.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _restore(self, state: dict[str, Any]) -> None:
        if ModelConfig.from_json(state["model_config"]) != self.model.config:
            raise InvalidInputError(
                f"--model {self.config.model} is not the network of the run in {self.config.out}: "
                "restore it, or start a new run"
            )
        # Runs from before there was a digest do not know theirs.
        known = (state["data"], state.get("data_sha256", self.data_sha256))
        if known != (self.data, self.data_sha256):
            log.warning(
                "the data is not what the run began with (%s, now %s): training goes on, but not "
                "on the same curve",
                state["data"],
                self.data,
            )
        try:
            self.objective.load_state_dict(state["objective"])
            self.ema.load_state_dict(state["ema"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.init = state.get("init", self.init)
            self.step = int(state["step"])
            self.elapsed_s = float(state["elapsed_s"])
            if state.get("validated_on", self.validated_on) == self.validated_on:
                self.best = float(state["best"])
                self.best_saved = float(state.get("best_saved", self.best))
                self.validation = dict(state.get("validation", {}))
                self.validated_step = int(state.get("validated_step", -1))
                self.n_validations_since_best = int(state.get("n_validations_since_best", 0))
            else:
                log.warning(
                    "validation is not what it was (%s, now %s): scores do not compare, and the "
                    "next weights will be the best ones",
                    state["validated_on"],
                    self.validated_on,
                )
            self.n_bad_in_a_row = int(state["n_bad_in_a_row"])
            self.counts = Counter(state["counts"])
        except (LookupError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{self.config.out / STATE_FILE} does not fit: {error!r}"
            ) from error
