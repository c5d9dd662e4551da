"""From a recording to a better model: shards, training, averaging, comparison, verdict.

Everything is in one folder: `recording/` (shards), `synthetic/` (made when none are given),
`training/` (a run of `fpt train`), `tuned.safetensors`, the report, and `promoted.json` with the
verdict. Each phase leaves whole files, so an interrupted run goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fpt_ros.core.checkpoint import load_checkpoint, save_checkpoint
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.errors import FptError, InvalidInputError
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.data.clips import make_shards
from fpt_ros.data.clips_report import save_report
from fpt_ros.data.samples import ShardIndex, describe
from fpt_ros.data.tarfiles import write_json
from fpt_ros.data.windows import ClipSettings
from fpt_ros.lock import hold
from fpt_ros.train import finetune_report, recipe, rehearsal
from fpt_ros.train.choose_weights import Chosen, choose_weights
from fpt_ros.train.compare import AFTER, BEFORE, Record, TestSet, compared
from fpt_ros.train.config import TrainConfig
from fpt_ros.train.finetune_config import FineTuneConfig
from fpt_ros.train.gate import POKES, Verdict, judge
from fpt_ros.train.loop import Trainer
from fpt_ros.train.progress import Listener, Tracker
from fpt_ros.train.report import Reporter
from fpt_ros.train.start import choose_device
from fpt_ros.train.state import BEST_FILE, STATE_FILE, TrainingError
from fpt_ros.train.telling import TellingReporter
from fpt_ros.train.validate import ValidationSet
from fpt_ros.weights import default_checkpoint

log = logging.getLogger(__name__)

PLAN_FILE = "finetune.json"
TUNED_FILE = "tuned.safetensors"
VERDICT_FILE = "promoted.json"
REPORT_FILE = "report.md"
HELD_OUT, SYNTHETIC = "held out of the recording", "synthetic test"

_VALIDATIONS = 10  # during training
_VALIDATION_VIEWS = 64
_FORGETTING_VIEWS = 256  # of 64 the error over all points goes up or down by 8 %, forgotten or not
_TIMED_STEPS = 3
_SPARE_BYTES = 200 << 20


class Stopped(FptError):
    """Asked to stop; what is there is whole, and the run can go on."""


@dataclass(frozen=True)
class Outcome:
    """What came out. `measures` maps a name with unit to (before, after)."""

    checkpoint: Path
    base_sha256: str  # of the file of weights it began with
    report: Path
    verdict: Verdict
    measures: dict[str, tuple[float, float]]
    text: str  # of the report


class FineTuning:
    """One run. Not to be used twice."""

    def __init__(self, config: FineTuneConfig, listener: Listener = lambda progress: None) -> None:
        """Check the settings against the folder, the base and the data that is given.

        Raises InvalidInputError or CheckpointError, naming what does not fit.
        """
        self.config = config
        self.tracker = Tracker(listener, config.budget_minutes)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.device = choose_device(config.device)
        base_path = config.base or default_checkpoint()
        self.base = load_checkpoint(base_path)
        if config.resume and not config.out.exists():
            raise InvalidInputError(f"nothing to resume: {config.out} does not exist")
        self.horizon_s = self._horizon_s()
        self.is_rehearsable = self._is_rehearsable()
        self.found: dict[str, str] = {}  # in the recordings
        hold(config.out)
        self.plan = self._plan()
        _check_space(config.out, base_path)

    def run(self, *, only_to_promote: bool = False) -> Outcome:
        """Do everything that is not done yet.

        only_to_promote: not to train when it turns out that nothing can be promoted.

        Raises:
            Stopped: SIGINT or SIGTERM came during training.
            FptError: the input cannot be used; the message says why.
        """
        if only_to_promote:
            self._check_comparable()
        recording = self._recording()
        unseen = _has_test(recording)
        if only_to_promote and not unseen:
            raise InvalidInputError(
                "nothing could be promoted, for there would be nothing unseen to compare on: the "
                "recordings are too short or show too little motion for a test split. Record more, "
                "or do it without promote"
            )
        self._keep_plan()  # not before: a recording that cannot be used is no run
        synthetic = self._synthetic() if self.is_rehearsable else None
        if only_to_promote and synthetic is None:
            raise InvalidInputError(
                "nothing could be promoted, for what is forgotten could not be measured without "
                "synthetic data: give some (the parameter rehearsal), or do it without promote"
            )
        elsewhere = rehearsal.elsewhere(synthetic, recording) if synthetic else None
        if not unseen:
            log.warning("there is no test split: the report is on validation, nothing is promoted")
        held_out = TestSet(
            ShardIndex.scan(recording, "test" if unseen else "val"), self.config.test_views
        )
        test_sets = {HELD_OUT: held_out}
        if elsewhere is not None:
            test_sets[SYNTHETIC] = TestSet(elsewhere.test, self.config.test_views)
        before = self._predictor(self.base.build_model())
        records = self._measured("measuring the base", test_sets, before, BEFORE)
        trainer, history = self._train(recording, synthetic)
        chosen = self._choose_weights(elsewhere, trainer)
        after = self._predictor(chosen.model)
        for name, rows in self._measured("measuring the result", test_sets, after, AFTER).items():
            records[name] += rows
        comparisons = {name: compared(rows) for name, rows in records.items()}
        verdict = judge(
            comparisons[HELD_OUT],
            comparisons.get(SYNTHETIC),
            self.config.forget_percent,
            unseen=unseen,
        )
        self._save(chosen, trainer, verdict)
        self._write_verdict(verdict)
        facts = self._facts(trainer, chosen, recording, synthetic, elsewhere)
        out = self.config.out
        text = finetune_report.save(out, verdict, facts, records, history)
        finetune_report.try_to_save_video(out / "held_out.mp4", held_out, before, after)
        self.tracker.advance(1.0)
        measures = {
            f"{label}, {name}, {pokes} pokes": (
                comparison.before[pokes, measure],
                comparison.after[pokes, measure],
            )
            for name, comparison in comparisons.items()
            for pokes in POKES
            for measure, label in (
                ("epe_moving_px", "end point error of moving points [px of 448]"),
                ("nll", "NLL [nats]"),
                ("coverage_90", "coverage of 90 % regions [share]"),
                ("coverage_90_likely", "coverage of 90 % regions, points likely to move [share]"),
            )
            if (pokes, measure) in comparison.before
        }
        return Outcome(
            out / TUNED_FILE, self.base.sha256, out / REPORT_FILE, verdict, measures, text
        )

    # ---- plan -----------------------------------------------------------------------------------

    def _plan(self) -> dict[str, Any]:
        """What a resumed run takes over: settings, base, and later the learning rate."""
        path = self.config.out / PLAN_FILE
        new: dict[str, Any] = {"config": self.config.decisive(), "base_sha256": self.base.sha256}
        if not path.exists():
            return new
        if not self.config.resume:
            raise InvalidInputError(
                f"{self.config.out} holds a run already: --resume it, or choose another --out"
            )
        try:
            known = json.loads(path.read_text())
            old = {**known["config"], "base": known["base_sha256"]}
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInputError(f"{path} is damaged ({error!r}): start a new run") from error
        now = {**new["config"], "base": self.base.sha256}
        changed = sorted(name for name in now if old.get(name) != now[name])
        if changed:
            raise InvalidInputError(
                f"cannot resume with other settings than the run began with: {', '.join(changed)}"
            )
        return known

    def _keep_plan(self) -> None:
        write_json(self.config.out / PLAN_FILE, self.plan)

    # ---- data -----------------------------------------------------------------------------------

    def _horizon_s(self) -> float:
        """The time that displacements of the recording span."""
        if self.config.data is not None:
            held_out = ("val", "test") if _has_test(self.config.data) else ("val",)
            return _horizon_of(self.config.data, "train", *held_out)
        horizon_s = self.config.horizon_s or self.base.horizon_s
        if not horizon_s:
            raise InvalidInputError(
                f"{self.base.path} does not say what time its displacements span: give one "
                "(--horizon-s; the parameter horizon_s of the node)"
            )
        return horizon_s

    def _is_rehearsable(self) -> bool:
        """Tell whether the synthetic data is about the same time; say at once if it is not."""
        folder, other_s = self.config.rehearsal, rehearsal.HORIZON_S
        if folder is not None:
            learned = ("train",) if self.config.rehearsal_share else ()
            other_s = _horizon_of(folder, *learned, "val", "test")
        if other_s != self.horizon_s:
            log.warning(
                "the recording is about %g s, the synthetic data about %g s: nothing is rehearsed, "
                "forgetting cannot be measured, and so nothing can be promoted",
                self.horizon_s,
                other_s,
            )
        return other_s == self.horizon_s

    def _check_comparable(self) -> None:
        """Raise InvalidInputError if it is known already that forgetting cannot be measured."""
        obstacle = "" if self.config.rehearsal else rehearsal.obstacle()
        if not self.is_rehearsable:
            obstacle = f"the synthetic data is not about {self.horizon_s:g} s (horizon_s)"
        if obstacle:
            raise InvalidInputError(
                "nothing could be promoted, for what is forgotten could not be measured: "
                f"{obstacle}. Give other synthetic data (the parameter rehearsal), or send the "
                "goal without promote"
            )

    def _recording(self) -> Path:
        """The folder with the recording's shards, made if need be."""
        if self.config.data is not None:
            return self.config.data
        self.tracker.begin("reading the recording")
        folder = self.config.out / "recording"
        found = make_shards(
            self.config.bag,
            self.config.topics,
            folder,
            ClipSettings(self.horizon_s, test=True),
            progress=lambda share, doing: self.tracker.advance(share),
        )
        self.found = {
            "samples": ", ".join(f"{n} {split}" for split, n in found.samples.items()),
            "dropped": describe(found.dropped + found.skipped) or "nothing",
            "what was tracked": "[recording/tracks.md](recording/tracks.md)",
        }
        save_report(folder, found)
        log.info("recording: %s", self.found)
        for split in ("train", "val"):
            if not found.samples[split]:
                raise InvalidInputError(
                    f"the recordings give no samples for {split}; dropped or unusable: "
                    f"{self.found['dropped']}. Longer recordings with visible motion are needed; "
                    "those that overlap in time count as one"
                )
        return folder

    def _synthetic(self) -> Path | None:
        """The folder with synthetic shards, made if need be, or None if that cannot be."""
        if self.config.rehearsal is not None:
            return self.config.rehearsal
        self.tracker.begin("making synthetic data")
        folder = self.config.out / "synthetic"
        return folder if rehearsal.make(folder, self.tracker.advance) else None

    # ---- training -------------------------------------------------------------------------------

    def _train(
        self, recording: Path, synthetic: Path | None
    ) -> tuple[Trainer, list[dict[str, float]]]:
        """Train; the trainer with its final state, and the course of validation."""
        self.tracker.begin("training")
        out = self.config.out / "training"
        out.mkdir(exist_ok=True)
        (out / "model.json").write_text(self.base.config.to_json())
        config = self._train_config(recording, synthetic, out)
        if "learning_rate" not in self.plan:
            self.plan["learning_rate"] = self._learning_rate(config)
            self._keep_plan()
        config = dataclasses.replace(config, learning_rate=self.plan["learning_rate"])
        reporters: list[TellingReporter] = []

        def reporter(folder: Path, every_steps: int) -> Reporter:
            reporters.append(TellingReporter(folder, every_steps, self.tracker))
            return reporters[0]

        trainer = Trainer(config, reporter)
        if not trainer.run():
            raise Stopped(f"stopped at step {trainer.step}; go on with --resume")
        return trainer, reporters[0].history()

    def _train_config(self, recording: Path, synthetic: Path | None, out: Path) -> TrainConfig:
        config = self.config
        minutes, steps = config.budget_minutes, config.steps
        rehearsed = synthetic if config.rehearsal_share else None
        return TrainConfig(
            data=recording,
            out=out,
            model=str(out / "model.json"),
            init=self.base.path,
            resume=(out / STATE_FILE).exists(),
            steps=steps or 1,
            minutes=minutes,
            rehearsal=rehearsed,
            rehearsal_share=config.rehearsal_share,
            batch=config.batch,
            selection=config.selection,
            part_weight=0.0,  # tracks do not know parts
            schedule="thirds",
            warmup=0.15,
            patience=config.patience,
            validate_steps=max(1, (steps or 0) // _VALIDATIONS) if steps else 0,
            validate_minutes=(minutes or math.inf) / _VALIDATIONS,
            val_views=_VALIDATION_VIEWS,
            checkpoint_minutes=1.0,
            seed=config.seed,
            device=config.device,
            threads=config.threads,
            workers=config.workers,
            licence=self.base.licence,
        )

    def _learning_rate(self, config: TrainConfig) -> float:
        if self.config.learning_rate is not None:
            return self.config.learning_rate
        steps = self.config.steps or max(1, self._steps_in(config))
        rate = recipe.learning_rate(steps, config.batch, recipe.base_rate(self.base.training))
        log.info("learning rate %.2g for about %d steps of %d views", rate, steps, config.batch)
        return rate

    def _steps_in(self, config: TrainConfig) -> int:
        """How many steps the minutes of the budget hold, from timing a few."""
        assert config.minutes is not None
        return int(60 * config.minutes / Trainer(config).seconds_per_step(_TIMED_STEPS))

    def _choose_weights(self, elsewhere: rehearsal.Elsewhere | None, trainer: Trainer) -> Chosen:
        self.tracker.begin("averaging weights")
        other = None
        if elsewhere is not None:
            other = ValidationSet.load(
                elsewhere.val,
                _FORGETTING_VIEWS,
                trainer.config.val_grid,
                self.base.config.encoder.input_px,
            )
        best = trainer.config.out / BEST_FILE
        if not best.exists():
            raise TrainingError(
                "no validation of the training was a number, so that there are no best weights: "
                "look at its log for samples that cannot be validated on, or lower --learning-rate"
            )
        return choose_weights(
            self.base,
            best,
            trainer.val,
            other,
            self.config.forget_percent,
            self.device,
            self.tracker.advance,
        )

    # ---- results --------------------------------------------------------------------------------

    def _predictor(self, model: FlowPokeModel) -> MotionPredictor:
        return MotionPredictor(TorchEngine(model, self.device), horizon_s=self.base.horizon_s)

    def _measured(
        self, phase: str, test_sets: dict[str, TestSet], predictor: MotionPredictor, name: str
    ) -> dict[str, list[Record]]:
        self.tracker.begin(phase)
        records = {}
        for number, (data, test_set) in enumerate(test_sets.items()):

            def advance(share: float, number: int = number) -> None:
                self.tracker.advance((number + share) / len(test_sets))

            records[data] = test_set.measure(predictor, name, advance)
            if not records[data]:
                raise InvalidInputError(f"nothing moves in any sample of the set {data!r}")
        return records

    def _save(self, chosen: Chosen, trainer: Trainer, verdict: Verdict) -> None:
        # Of a base that was fine-tuned itself the details go: a robot does this every night.
        base_training = {k: v for k, v in self.base.training.items() if k != "fine_tuning"}
        save_checkpoint(
            self.config.out / TUNED_FILE,
            chosen.model,
            horizon_s=trainer.horizon_s,
            licence=self.base.licence,
            training={
                "init": {"sha256": self.base.sha256, "training": base_training},
                "fine_tuning": {
                    "config": trainer.config.to_dict(),
                    "steps": trainer.step,
                    "share_of_tuned_weights": chosen.share,
                    "promoted": verdict.promoted,
                },
            },
        )

    def _facts(
        self,
        trainer: Trainer,
        chosen: Chosen,
        recording: Path,
        synthetic: Path | None,
        elsewhere: rehearsal.Elsewhere | None,
    ) -> dict[str, Any]:
        config = self.config
        n_views = trainer.step * config.batch
        n_rehearsed = rehearsal.count(n_views, config.rehearsal_share)
        return {
            "base": f"{self.base.path.name} ({self.base.sha256[:12]})",
            "recording": ", ".join(map(str, config.bag or (recording,))),
            **self.found,
            "held out": "the test split, used for nothing else"
            if _has_test(recording)
            else "the validation split, on which the weights were chosen; there is no test split: "
            "none was asked for, or the recordings are too short or show too little motion for one",
            "training": f"{trainer.step} steps of {config.batch} views in "
            f"{trainer.elapsed_s / 60:.1f} minutes, peak rate {trainer.config.learning_rate:.2g}, "
            f"halved at each third; {trainer.data['views']} views",
            "rehearsal": f"{n_rehearsed} of the {n_views} views that were seen "
            f"({n_rehearsed / n_views:.1%}), from {synthetic}"
            if synthetic and n_rehearsed
            else "none",
            "forgetting": _forgetting(elsewhere),
            "weights": f"{chosen.share:.0%} tuned, {1 - chosen.share:.0%} base, chosen on "
            "validation",
            "horizon": f"{trainer.horizon_s:g} s",
        }

    def _write_verdict(self, verdict: Verdict) -> None:
        tuned = load_checkpoint(self.config.out / TUNED_FILE)
        content = {
            "promoted": verdict.promoted,
            "reasons": list(verdict.reasons),
            "checkpoint": TUNED_FILE,
            "sha256": tuned.sha256,
            "base": str(self.base.path),
            "base_sha256": self.base.sha256,
        }
        write_json(self.config.out / VERDICT_FILE, content)


def _horizon_of(folder: Path, *splits: str) -> float:
    """The horizon of all these splits. Raises InvalidInputError if one is missing or differs."""
    horizons_s = {split: ShardIndex.scan(folder, split).horizon_s for split in splits}
    if len(set(horizons_s.values())) > 1:
        listed = ", ".join(f"{split} {horizon_s:g} s" for split, horizon_s in horizons_s.items())
        raise InvalidInputError(f"the splits of {folder} have different horizons: {listed}")
    return horizons_s[splits[0]]


def _forgetting(elsewhere: rehearsal.Elsewhere | None) -> str:
    if elsewhere is None:
        return "not measured"
    without = f" without {', '.join(elsewhere.left_out)}, which the recording shows"
    return "measured on the synthetic scenes" + (without if elsewhere.left_out else "")


def _has_test(folder: Path) -> bool:
    """Tell whether shards hold something that is used for nothing but the report.

    They do not where recordings are too short for it, or nothing moved in what was held out for it,
    or nobody asked for it.
    """
    return any(folder.glob("test-*.tar"))


def _check_space(out: Path, base: Path) -> None:
    needed = 12 * base.stat().st_size + _SPARE_BYTES
    free = shutil.disk_usage(out).free
    if free < needed:
        raise InvalidInputError(
            f"{out} has {free >> 20} MB left, fine-tuning needs about {needed >> 20} MB"
        )
