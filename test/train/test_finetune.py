"""Fine-tuning: schedule, mixing, averaging, the gate, and whole runs that are killed or refused."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from scipy import stats
from scipy.stats import mstats

from fpt_ros.core.checkpoint import load_checkpoint, save_checkpoint
from fpt_ros.core.config import DinoEncoderConfig, HeadConfig, ModelConfig, TransformerConfig
from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.data.samples import ShardIndex
from fpt_ros.train import recipe
from fpt_ros.train.blend import Trial, choose, interpolate
from fpt_ros.train.compare import AFTER, BEFORE, compared, paired_change
from fpt_ros.train.config import SelectionConfig, TrainConfig, check_resumable
from fpt_ros.train.finetune import FineTuning
from fpt_ros.train.finetune_config import FineTuneConfig
from fpt_ros.train.finetune_report import save as save_report
from fpt_ros.train.gate import Change, Comparison, Verdict, judge
from fpt_ros.train.loop import Trainer
from fpt_ros.train.optimize import learning_rate_factor
from fpt_ros.train.rehearsal import elsewhere

TINY = ModelConfig(
    DinoEncoderConfig(input_px=28, width=32, depth=1, heads=2, patch_px=7, position_grid=4),
    TransformerConfig(width=32, depth=2, d_head=16),
    HeadConfig(n_components=2),
)
SELECTION = SelectionConfig(pokes=3, queries=8, many_pokes=6, many_queries=2, many_every=4)


# ---- the recipe ---------------------------------------------------------------------------------


def test_the_rate_is_halved_after_each_third():
    def factor(progress):
        return learning_rate_factor(progress, 0.05, "thirds")

    assert factor(0.025) == pytest.approx(0.5)
    assert [factor(p) for p in (0.1, 0.33, 0.34, 0.66, 0.67, 1.0)] == [1, 1, 0.5, 0.5, 0.25, 0.25]


def test_the_papers_rate_for_the_papers_run_and_never_too_much():
    assert recipe.learning_rate(2_000_000, 128, 5e-5) == pytest.approx(5e-7)
    assert recipe.learning_rate(100_000, 128, 5e-5) == pytest.approx(5e-6)
    assert recipe.learning_rate(100_000, 32, 5e-5) == pytest.approx(2.5e-6)
    assert recipe.learning_rate(300, 16, 6e-4) == pytest.approx(2e-4)


def test_the_base_rate_is_that_of_the_run_that_brought_the_weights_up():
    assert recipe.base_rate({}) == recipe.PUBLISHED_RATE
    first = {"config": {"learning_rate": 7e-4}}
    assert recipe.base_rate(first) == 7e-4
    gentle = {"config": {"learning_rate": 2e-4}, "init": {"sha256": "", "training": first}}
    assert recipe.base_rate(gentle) == 7e-4
    for foreign in ({"config": None}, {"init": "runs/a"}, {"config": {"learning_rate": "high"}}):
        assert recipe.base_rate(foreign) == recipe.PUBLISHED_RATE


def test_forgetting_is_measured_on_families_that_the_recording_has_not(toy, tmp_path):
    """Of laptops more is learned, which would hide what is forgotten of boxes."""
    random = np.random.default_rng(0)
    folders = {
        "recording": {"train": ["laptop"], "val": ["laptop"]},
        "synthetic": {"val": ["box"], "test": ["box", "laptop", "tap", "laptop"]},
        "footage": {"train": ["kitchen/image"], "val": ["kitchen/image"]},
    }
    for name, splits in folders.items():
        (tmp_path / name).mkdir()
        for split, families in splits.items():
            samples = {f"{n}": toy.members(random, n, 0, family=f) for n, f in enumerate(families)}
            toy.write_shard(tmp_path / name / f"{split}-0.tar", samples)
    found = elsewhere(tmp_path / "synthetic", tmp_path / "recording")
    assert [view.family for view in found.val.views] == ["box"]
    assert [view.family for view in found.test.views] == ["box", "tap"]
    assert found.left_out == ("laptop",)
    found = elsewhere(tmp_path / "synthetic", tmp_path / "footage")
    assert found.test == ShardIndex.scan(tmp_path / "synthetic", "test")
    assert found.left_out == ()
    with pytest.raises(InvalidInputError, match=r"footage/val.* no other families .*kitchen/image"):
        elsewhere(tmp_path / "footage", tmp_path / "footage")


def test_settings_that_came_later_do_not_hinder_resuming():
    new = TrainConfig("data", "out").to_dict()
    old = {name: value for name, value in new.items() if name != "schedule"}
    check_resumable(old, new)
    with pytest.raises(InvalidInputError, match="schedule: 'cosine' -> 'thirds'"):
        check_resumable(old, new | {"schedule": "thirds"})


# ---- averaging ----------------------------------------------------------------------------------


def test_weights_between_two_models():
    a = {"w": torch.tensor([0.0, 2.0]), "n": torch.tensor(3)}
    b = {"w": torch.tensor([4.0, 0.0]), "n": torch.tensor(5)}
    between = interpolate(a, b, 0.25)
    torch.testing.assert_close(between["w"], torch.tensor([1.0, 1.5]))
    assert between["n"] == 5
    for share, end in ((0.0, a), (1.0, b)):
        copy = interpolate(a, b, share)
        assert all(torch.equal(copy[name], end[name]) for name in end)
        assert copy["w"] is not end["w"]


def trial(share, nll, *errors_px):
    """With the same errors in 100 views, over moving and over all points."""
    return Trial(share, nll, tuple(np.full(100, each) for each in errors_px) or None)


def test_the_best_share_that_forgets_little():
    base = trial(0.0, -6.0, 20.0, 6.0)
    trials = [
        trial(0.5, -6.5, 20.4, 5.9),
        trial(1.0, -7.0, 21.5, 6.0),
        trial(0.25, -6.2, 20.1, 6.0),
    ]
    assert choose(base, trials, 5.0).share == 0.5  # 1.0 is at 7.5 %
    assert choose(base, trials, 20.0).share == 1.0
    trials[0] = trial(0.5, -6.5, 19.0, 6.4)  # motion bleeds into what stays
    assert choose(base, trials, 5.0).share == 0.25
    far = [trial(0.5, -6.5, 30.0, 6.0), trial(1.0, -7.0, 20.0, 12.0)]
    assert choose(base, far, 5.0).share == 0.5
    assert choose(trial(0, -6.0), [trial(0.5, -6.5), trial(1.0, -7.0)], 5.0).share == 1.0


def test_what_is_forgotten_is_not_told_by_a_single_view():
    base, after = trial(0.0, -6.0, 20.0, 6.0), trial(1.0, -7.0, 20.5, 6.03)
    base.synthetic_epe_px[0][7] = after.synthetic_epe_px[0][7] = np.nan  # there nothing moves
    after.synthetic_epe_px[1][3] = 80.0
    assert after.forgotten(base) == pytest.approx((0.025, 0.0))
    after.synthetic_epe_px[1][:10] = 80.0
    assert after.forgotten(base)[0] > 0.5


@pytest.mark.parametrize("n", [1, 2, 3])
def test_of_few_scenes_it_is_not_known_what_is_forgotten(n):
    base = Trial(0.0, -6.0, (np.full(n, np.nan), np.full(n, 6.0)))
    trials = [
        Trial(share, -7 - share, (np.full(n, np.nan), np.full(n, 6.0))) for share in (0.25, 1.0)
    ]
    assert trials[0].forgotten(base) == (0.0, math.inf)
    assert choose(base, trials, 5.0).share == 0.25


def test_weights_whose_errors_are_no_numbers_are_not_chosen():
    base, good, bad = (trial(share, -6.0 - share, 20.0, 6.0) for share in (0.0, 0.25, 1.0))
    bad.synthetic_epe_px[1][3] = np.nan
    assert all(map(math.isnan, bad.forgotten(base)))
    assert choose(base, [bad, good], 5.0).share == 0.25
    good.synthetic_epe_px[1][:] = 9.0  # forgets too much, but something is known
    assert choose(base, [bad, good], 5.0).share == 0.25
    nothing = Trial(1.0, math.nan, good.synthetic_epe_px)
    assert choose(base, [nothing, good], 99.0).share == 0.25


def test_what_is_forgotten_is_as_uncertain_as_views_differ():
    random = np.random.default_rng(0)
    base = trial(0.0, -6.0, 20.0, 6.0)
    errors_px = 20 + random.standard_t(3, 100), 6 + random.standard_t(3, 100)
    limits = (0.02, 0.02)
    told = []
    for after, before in zip(errors_px, (20, 6), strict=True):
        change = (after - before) / before
        told.append((mstats.trimmed_mean(change, limits), mstats.trimmed_stde(change, limits)))
    expected = max(told, key=sum)
    after = Trial(1.0, -7.0, errors_px)
    assert after.forgotten(base) == pytest.approx(expected)
    less = Trial(0.5, -6.5, base.synthetic_epe_px)
    for percent, share in ((100 * sum(expected) + 0.1, 1.0), (100 * sum(expected) - 0.1, 0.5)):
        assert choose(base, [less, after], percent).share == share


# ---- the gate -----------------------------------------------------------------------------------


def side(epe_px=10.0, nll=-6.0, coverage=0.9, all_px=5.0):
    measures = {
        "epe_moving_px": epe_px,
        "epe_all_px": all_px,
        "nll": nll,
        "coverage_90": coverage,
    }
    return {(pokes, name): value for pokes in (1, 5) for name, value in measures.items()}


BETTER = Comparison(side(), side(7.0, -6.5))
MANY = 8 * (-0.5,)
CHANCE = {
    (1, "nll"): Change((-0.5, -0.9, -0.1), MANY),
    (5, "nll"): Change((-0.5, -1.1, 0.1), MANY),
}
ALL_OF_FEW = {(1, "nll"): Change((-0.5, -6.9, 5.9), (-0.9, -0.1))}
NOT_ALL_OF_FEW = {(5, "nll"): Change((-0.5, -0.9, -0.1), (-0.9, -0.8, 0.2))}
LIKELY = "coverage_90_likely"
WORSE_WHERE_LIKELY = Comparison(
    side() | {(1, LIKELY): 0.8, (5, LIKELY): 0.8},
    side(7.0, -6.5) | {(1, LIKELY): 0.7, (5, LIKELY): 0.76},
)
SAME = Comparison(side(20.0), side(20.8))


def test_better_and_little_forgotten_is_promoted():
    verdict = judge(BETTER, SAME, 5.0, unseen=True)
    assert verdict.promoted
    assert verdict.sentence().startswith("promoted")


@pytest.mark.parametrize(
    ("held_out", "synthetic", "reason"),
    [
        (Comparison(side(), side(10.0, -6.5)), SAME, r"moving points .* did not fall at one poke"),
        (Comparison(side(), side(7.0, -5.9)), SAME, "NLL .* did not fall at 5 pokes"),
        (Comparison(side(), side(float("nan"), -6.5)), SAME, "did not fall"),
        (
            Comparison(side(), side(7.0, -6.5, 0.8)),
            SAME,
            "cover 80 % of all points at one poke, before 90 %",
        ),
        (Comparison(side(coverage=0.7), side(7.0, -6.5, 0.99)), SAME, ""),
        (BETTER, Comparison(side(20.0), side(21.2)), "rose by 6.0 % at one poke, allowed are 5 %"),
        (BETTER, Comparison(side(20.0), side(float("nan"))), "rose by nan"),
        (BETTER, Comparison(side(), side(all_px=6.0)), "error over all points .* rose by 20.0 %"),
        (BETTER, None, "not known without synthetic data"),
        (dataclasses.replace(BETTER, changes=CHANCE), SAME, "NLL .* fell at 5 pokes .* by no more"),
        (dataclasses.replace(BETTER, changes=ALL_OF_FEW), SAME, ""),
        (
            dataclasses.replace(BETTER, changes=NOT_ALL_OF_FEW),
            SAME,
            "5 pokes .* not in every block",
        ),
        (WORSE_WHERE_LIKELY, SAME, "cover 70 % of points likely to move at one poke, before 80 %"),
        (Comparison(side(), side(7.0, float("-inf"))), SAME, "NLL .* is no number"),
    ],
)
def test_what_stands_against_promotion_is_said(held_out, synthetic, reason):
    verdict = judge(held_out, synthetic, 5.0, unseen=True)
    assert verdict.promoted == (not reason)
    assert len(verdict.reasons) == len(set(verdict.reasons))
    if reason:
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(verdict.sentence())


def test_weights_chosen_on_what_was_held_out_are_refused_however_good():
    verdict = judge(BETTER, SAME, 5.0, unseen=False)
    assert not verdict.promoted
    assert "there is no test split" in verdict.sentence()
    assert len(verdict.reasons) == 1


def rows_of(measure, pairs, scenes=None):
    """Records of samples with these values (before, after); each is a scene of its own."""
    return [
        {
            "method": method,
            "pokes": pokes,
            "key": key,
            "family": "toy",
            "nll": value,
            measure: value,
        }
        | {"scene": (scenes or {}).get(key, key)}
        for key, pair in pairs.items()
        for method, value in zip((BEFORE, AFTER), pair, strict=True)
        for pokes in (1, 5)
    ]


def test_changes_are_of_pairs():
    rows = rows_of("nll", {"a": (1.0, 0.0), "b": (5.0, 3.0), "c": (9.0, 6.0)})
    assert compared(rows).changes[1, "nll"].of_blocks == (-1.0, -2.0, -3.0)
    mean, lower, upper = paired_change(rows, 1, "nll")
    reach = stats.t(2).ppf(0.975) * math.sqrt(1 / 3)
    assert (mean, lower, upper) == pytest.approx((-2.0, -2.0 - reach, -2.0 + reach))
    assert math.isnan(paired_change(rows, 2, "nll")[0])


@pytest.mark.parametrize("failure", [math.nan, math.inf, -math.inf])
def test_failing_on_the_hard_samples_is_not_better(failure):
    pairs = {"easy": (10.0, 9.0), "hard": (50.0, failure)}
    comparison = compared(rows_of("epe_moving_px", pairs))
    assert not judge(comparison, SAME, 5.0, unseen=True).promoted
    assert math.isnan(comparison.changes[1, "epe_moving_px"].interval[0])


def test_samples_without_a_measure_say_nothing_about_it():
    pairs = {"a": (0.8, 0.9), "still": (math.nan, math.nan)}
    comparison = compared(rows_of("coverage_90_likely", pairs))
    assert comparison.after[1, "coverage_90_likely"] == 0.9
    assert math.isnan(comparison.after[1, "nll"])  # which every sample has
    none = compared(rows_of("coverage_90_likely", {"still": (math.nan, math.nan)}))
    assert (1, "coverage_90_likely") not in none.after
    # What is likely to move is for each side to say.
    pairs = {"a": (math.nan, 0.7), "b": (0.8, 0.9), "c": (0.6, math.nan)}
    own = compared(rows_of("coverage_90_likely", pairs))
    assert own.before[1, "coverage_90_likely"] == pytest.approx(0.7)
    assert own.after[1, "coverage_90_likely"] == pytest.approx(0.8)


def test_one_block_gives_means_without_intervals(tmp_path):
    pairs = {"a": (31.0, 30.0), "b": (34.0, 32.0)}
    one = rows_of("epe_moving_px", pairs, {"a": "block", "b": "block"})
    text = save_report(tmp_path, Verdict(True, ()), {}, {"held out": one}, [])
    assert "2 samples of 1 scene or block\n" in text
    assert "| **after** | 31.0 | - |" in text
    assert "| change | -1.50 | - |" in text
    two = rows_of("epe_moving_px", pairs)
    text = save_report(tmp_path, Verdict(True, ()), {}, {"held out": two}, [])
    assert "| **after** | 31.0 [18.3, 43.7] | - |" in text
    assert "is no number" not in text


# ---- whole runs ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world(toy, tmp_path_factory):
    """A recording, synthetic data, and a base that was trained a little."""
    folder = tmp_path_factory.mktemp("finetune")
    for name, family in (("recording", "kitchen/camera"), ("synthetic", "toy")):
        data = toy.write_world(folder / name, n_views=6, family=family)
        (data / "test-00000.tar").write_bytes((data / "val-00000.tar").read_bytes())
    torch.manual_seed(0)
    save_checkpoint(
        folder / "base.safetensors",
        FlowPokeModel(TINY),
        horizon_s=1.0,
        licence="CC-BY-4.0",
        training={"config": {"learning_rate": 9e-3}},
    )
    return folder


def settings(world, out):
    return FineTuneConfig(
        out=out,
        data=world / "recording",
        base=world / "base.safetensors",
        rehearsal=world / "synthetic",
        steps=20,
        batch=4,
        test_views=3,
        selection=SELECTION,
        threads=1,
        workers=0,
    )


@pytest.fixture
def config(world, tmp_path):
    return settings(world, tmp_path / "out")


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A whole run, and what it told of its progress."""
    config = settings(world, tmp_path_factory.mktemp("finished") / "out")
    told = []
    return SimpleNamespace(config=config, outcome=FineTuning(config, told.append).run(), told=told)


def test_a_run_leaves_weights_report_and_verdict(finished):
    config, outcome, told = finished.config, finished.outcome, finished.told
    tuned = load_checkpoint(outcome.checkpoint)
    assert tuned.config == TINY
    assert (tuned.horizon_s, tuned.licence) == (1.0, "CC-BY-4.0")
    base = load_checkpoint(config.base)
    assert tuned.training["init"] == {"sha256": base.sha256, "training": base.training}
    assert tuned.training["fine_tuning"]["config"]["learning_rate"] == pytest.approx(3e-3)
    assert any(not torch.equal(tuned.state_dict[n], w) for n, w in base.state_dict.items())

    verdict = json.loads((config.out / "promoted.json").read_text())
    assert verdict["promoted"] == outcome.verdict.promoted
    assert verdict["sha256"] == tuned.sha256
    text = (config.out / "report.md").read_text()
    assert outcome.verdict.sentence().capitalize() in text
    assert "rehearsal: 40 of the 80 views that were seen (50.0%)" in text
    for row in ("**before**", "**after**", "change", "Gaussian fall-off", "no motion"):
        assert text.count(f"| {row} |") == 4  # two data sets, one and five pokes
    report = json.loads((config.out / "report.json").read_text(), parse_constant=pytest.fail)
    assert report["history"][-1]["step"] == 20
    for name in ("report.png", "held_out.mp4"):
        assert (config.out / name).stat().st_size > 1000
    assert list((config.out / "training" / "tensorboard").iterdir())

    phases = list(dict.fromkeys(progress.phase for progress in told))
    assert phases[-4:] == [
        "measuring the base",
        "training",
        "averaging weights",
        "measuring the result",
    ]
    fractions = [progress.fraction for progress in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(1.0)
    assert "nll/one_poke" in told[-1].measures
    with pytest.raises(InvalidInputError, match="holds a run already"):
        FineTuning(config)


def test_a_budget_of_minutes_becomes_steps_for_the_rate(config, monkeypatch):
    monkeypatch.setattr(Trainer, "seconds_per_step", lambda self, n_steps: 0.01)
    outcome = FineTuning(dataclasses.replace(config, steps=None, minutes=0.01)).run()
    rate = json.loads((config.out / "finetune.json").read_text())["learning_rate"]
    assert rate == recipe.learning_rate(60, config.batch, 9e-3)
    assert load_checkpoint(outcome.checkpoint).training["fine_tuning"]["steps"] > 0


def test_the_report_says_where_forgetting_was_measured(world, config, tmp_path):
    synthetic = tmp_path / "synthetic"
    synthetic.mkdir()
    for shard in (world / "synthetic").iterdir():
        (synthetic / shard.name).symlink_to(shard)
    for split in ("val", "test"):  # the families of both
        source = world / "recording" / f"{split}-00000.tar"
        (synthetic / f"{split}-00001.tar").symlink_to(source)
    outcome = FineTuning(dataclasses.replace(config, steps=1, rehearsal=synthetic)).run()
    assert "scenes without kitchen/camera, which the recording shows\n" in outcome.text
    records = json.loads((config.out / "report.json").read_text())["records"]
    assert {row["family"] for row in records["synthetic test"]} == {"toy"}


def test_a_killed_run_ends_with_the_same_weights(finished, config):
    state = config.out / "training" / "state.pt"
    # It saves its state at every step and stands still after some.
    code = """
import dataclasses, sys, time
from pathlib import Path
from fpt_ros.train import finetune, finetune_config, config, loop
make = finetune.TrainConfig
finetune.TrainConfig = lambda **all: make(**{**all, "checkpoint_minutes": 0.0})
step = loop.Trainer._train_step
def slow(self, batch, progress):
    if self.step == 9:
        print("now", flush=True)
        time.sleep(1000)
    return step(self, batch, progress)
loop.Trainer._train_step = slow
arguments = eval(sys.argv[1], vars(finetune_config) | {"PosixPath": Path})
finetune.FineTuning(arguments).run()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, repr(config)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "now\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert state.exists()
    assert not (config.out / "tuned.safetensors").exists()
    resumed = FineTuning(dataclasses.replace(config, resume=True)).run().checkpoint
    first, second = (
        load_checkpoint(path).state_dict for path in (finished.outcome.checkpoint, resumed)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_got_no_better_is_not_promoted(config):
    outcome = FineTuning(dataclasses.replace(config, steps=1, learning_rate=1e-12)).run()
    assert not outcome.verdict.promoted
    assert "did not fall" in (config.out / "report.md").read_text()
    assert not json.loads((config.out / "promoted.json").read_text())["promoted"]


def test_patience_ends_a_run(toy_data, tmp_path):
    (tmp_path / "tiny.json").write_text(TINY.to_json())
    trainer = Trainer(
        TrainConfig(
            data=toy_data,
            out=tmp_path / "run",
            model=str(tmp_path / "tiny.json"),
            steps=50,
            batch=2,
            learning_rate=1e-12,
            selection=SELECTION,
            part_weight=0.0,
            ema=0.0,
            validate_steps=2,
            patience=3,
            threads=1,
            workers=0,
            val_views=4,
            val_grid=8,
        )
    )
    validated = trainer._validate
    steps = []
    scores = iter([5.0, 3.0, 4.0, 3.0, float("nan")])

    def pretend():
        steps.append(trainer.step)
        score = next(scores)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "fpt_ros.train.loop.validate",
                lambda *_: {"nll/one_poke": score, "nll/one_poke_moving": 0.0},
            )
            patch.setattr(trainer.reporter, "validation", lambda *_: None)
            validated()

    trainer._validate = pretend
    assert trainer.run()
    assert steps == [2, 4, 6, 8, 10]
    assert trainer.best == 3.0


def test_resuming_needs_the_same_settings(config):
    with pytest.raises(InvalidInputError, match="nothing to resume"):
        FineTuning(dataclasses.replace(config, resume=True))
    FineTuning(config)._keep_plan()
    changed = dataclasses.replace(config, resume=True, batch=8, forget_percent=1.0)
    with pytest.raises(InvalidInputError, match="than the run began with: batch, forget_percent"):
        FineTuning(changed)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"data": None}, "--bag"),
        ({"minutes": 1.0}, "not both"),
        ({"steps": None, "minutes": 0.0}, "minutes must be positive"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"data": None, "bag": ("b",), "horizon_s": 0.0}, "horizon_s must be positive"),
        ({"horizon_s": 0.5}, "--horizon-s .* the shards of --data are made already"),
        ({"topics": ("/image",)}, "--topics .* the shards of --data are made already"),
        ({"threads": -1}, "threads must be at least 0"),
        ({"workers": -1}, "workers must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"rehearsal_share": 1.0}, "rehearsal_share"),
        ({"forget_percent": float("nan")}, "forget_percent"),
    ],
)
def test_settings_that_cannot_work_are_named(config, wrong, reason):
    with pytest.raises(InvalidInputError, match=reason):
        dataclasses.replace(config, **wrong)


def test_a_folder_in_which_another_process_works_is_left_alone(config, toy_data):
    training = TrainConfig(toy_data, config.out, model=str(config.out / "tiny.json"), workers=0)
    config.out.mkdir()
    (config.out / "tiny.json").write_text(TINY.to_json())
    code = (
        "import fcntl, sys; lock = open(sys.argv[1], 'a'); fcntl.lockf(lock, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, config.out / ".lock"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout.readline() == b"held\n"
        for begin in (lambda: FineTuning(config), lambda: Trainer(training)):
            with pytest.raises(InvalidInputError, match="another process is at work in"):
                begin()
        process.kill()
    Trainer(training)
    FineTuning(config)
    FineTuning(dataclasses.replace(config, resume=True))  # of this process


@pytest.mark.parametrize("device", ["banana", "cuda:99"])
def test_a_device_that_is_not_there_is_said_before_anything_is_written(config, device):
    with pytest.raises(InvalidInputError, match=f"device '{device}' cannot be used: "):
        FineTuning(dataclasses.replace(config, device=device))
    assert not config.out.exists()


@pytest.mark.parametrize(
    ("name", "split"), [("data", "val"), ("rehearsal", "val"), ("rehearsal", "train")]
)
def test_a_missing_split_is_said_before_anything_is_written(config, tmp_path, name, split):
    whole, part = getattr(config, name), tmp_path / "part"
    part.mkdir()
    for shard in whole.glob("*.tar"):
        if not shard.name.startswith(split):
            (part / shard.name).symlink_to(shard)
    with pytest.raises(InvalidInputError, match=rf"no usable sample in .*part/{split}-"):
        FineTuning(dataclasses.replace(config, **{name: part}))
    assert not config.out.exists()


def test_splits_of_different_horizons_are_refused(config, toy, tmp_path):
    part = toy.write_world(tmp_path / "part", n_views=2)
    longer = toy.members(np.random.default_rng(0), 0, 0, horizon_s=[1.0, 2.0])
    toy.write_shard(part / "test-00000.tar", {"0": longer})
    with pytest.raises(InvalidInputError, match=r"different horizons: train 1 s, .* test 2 s"):
        FineTuning(dataclasses.replace(config, data=part))


def test_what_was_tracked_in_a_recording_is_shown_also_if_it_is_too_little(config, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    grey = np.full((64, 64, 3), 99, np.uint8)
    for number in range(20):
        cv2.imwrite(str(pictures / f"{number}.png"), grey)
    with pytest.raises(InvalidInputError, match=r"no samples for train.*nothing moves"):
        FineTuning(dataclasses.replace(config, data=None, bag=(pictures,))).run()
    assert "nothing moves" in (config.out / "recording" / "tracks.md").read_text()
    assert not (config.out / "finetune.json").exists()


def test_without_a_test_split_nothing_is_promoted(config, world, tmp_path, caplog):
    shards = tmp_path / "shards"
    shards.mkdir()
    for split in ("train", "val"):
        (shards / f"{split}-00000.tar").symlink_to(world / "recording" / f"{split}-00000.tar")
    config = dataclasses.replace(config, data=shards, steps=2)
    with pytest.raises(InvalidInputError, match=r"too short .* for a test split"):
        FineTuning(config).run(only_to_promote=True)
    outcome = FineTuning(config).run()
    assert "there is no test split" in caplog.text
    assert "there is no test split" in outcome.verdict.sentence()
    assert not json.loads((config.out / "promoted.json").read_text())["promoted"]
    assert "held out: the validation split, on which the weights were chosen" in outcome.text


def test_without_rehearsal_nothing_is_promoted(config, monkeypatch):
    monkeypatch.setattr("fpt_ros.train.rehearsal.obstacle", lambda: "")  # it looked possible
    monkeypatch.setattr("fpt_ros.train.rehearsal.make", lambda folder, advance: False)
    config = dataclasses.replace(config, rehearsal=None, steps=2)
    with pytest.raises(InvalidInputError, match="without synthetic data: give some"):
        FineTuning(config).run(only_to_promote=True)
    outcome = FineTuning(dataclasses.replace(config, resume=True)).run()
    assert any("not known without synthetic data" in reason for reason in outcome.verdict.reasons)


def test_another_horizon_is_said_at_once_and_keeps_from_promotion(config, monkeypatch, caplog):
    bags = dataclasses.replace(config, data=None, bag=(config.out / "bag",), horizon_s=0.5)
    with pytest.raises(InvalidInputError, match="no such file"):
        FineTuning(bags).run()
    assert "about 0.5 s, the synthetic data about 1 s" in caplog.text
    monkeypatch.setattr("fpt_ros.train.rehearsal.HORIZON_S", 2.0)
    monkeypatch.setattr("fpt_ros.train.rehearsal.make", pytest.fail)
    assert not FineTuning(dataclasses.replace(config, rehearsal=None)).is_rehearsable


def test_a_full_disk_is_said_before_anything_is_done(config, monkeypatch):
    usage = type("Usage", (), {"free": 50 << 20})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    with pytest.raises(InvalidInputError, match="50 MB left"):
        FineTuning(config)
