"""Whole runs on toy shards: they learn, resume, survive bad steps, and scale over processes."""

import dataclasses
import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from fpt_ros.core.checkpoint import load_checkpoint, save_checkpoint
from fpt_ros.core.config import (
    DinoEncoderConfig,
    HeadConfig,
    ModelConfig,
    PyramidEncoderConfig,
    TransformerConfig,
)
from fpt_ros.core.errors import CheckpointError, InvalidInputError
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.lock import LOCK_FILE
from fpt_ros.train.config import SelectionConfig, TrainConfig, check_resumable
from fpt_ros.train.loop import Trainer
from fpt_ros.train.optimize import learning_rate_factor
from fpt_ros.train.start import initial_model
from fpt_ros.train.state import TrainingError, load_state, save_state

TINY = ModelConfig(
    DinoEncoderConfig(input_px=28, width=32, depth=1, heads=2, patch_px=7, position_grid=4),
    TransformerConfig(width=32, depth=2, d_head=16),
    HeadConfig(n_components=2),
)


def settings(toy_data, folder):
    (folder / "tiny.json").write_text(TINY.to_json())
    return TrainConfig(
        data=toy_data,
        out=folder / "run",
        model=str(folder / "tiny.json"),
        steps=8,
        batch=4,
        outcomes=1,
        learning_rate=3e-3,
        head_rate=1.0,
        selection=SelectionConfig(pokes=3, queries=8, many_pokes=6, many_queries=2, many_every=4),
        threads=1,
        workers=0,
        val_views=4,
        val_grid=8,
        log_every=4,
        precision="fp32",  # which sums agree in, however they are split
    )


def final_state(config):
    trainer = Trainer(config)
    trainer.run()
    return load_state(config.out)


@pytest.fixture
def config(toy_data, tmp_path):
    return settings(toy_data, tmp_path)


@pytest.fixture(scope="module")
def finished(toy_data, tmp_path_factory):
    """The settings of a run that nothing disturbed."""
    config = settings(toy_data, tmp_path_factory.mktemp("finished"))
    final_state(config)
    return config


@pytest.fixture(scope="module")
def straight(finished):
    """What that run came to."""
    return load_state(finished.out)


def assert_same_weights(a, b, tolerance=0.0):
    for key in ("objective", "ema"):
        assert a[key].keys() == b[key].keys()
        for name, value in a[key].items():
            torch.testing.assert_close(value, b[key][name], rtol=0, atol=tolerance)


def test_schedule():
    assert learning_rate_factor(0.05, 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(0.1, 0.1) == pytest.approx(1.0)
    assert learning_rate_factor(0.55, 0.1) == pytest.approx(0.5)
    assert learning_rate_factor(1.0, 0.1) == pytest.approx(0.0)


def test_learns_and_leaves_a_usable_checkpoint(config):
    config = dataclasses.replace(config, steps=60, batch=8, ema=0.9)
    trainer = Trainer(config)
    trainer.run()
    checkpoint = load_checkpoint(config.out / "best.safetensors")
    assert checkpoint.config == TINY
    assert checkpoint.horizon_s == 1.0
    assert checkpoint.licence == "Apache-2.0"
    assert checkpoint.training["config"]["batch"] == 8
    assert checkpoint.training["views_seen"] == 480
    assert checkpoint.training["validation"]["nll/one_poke"] < -1.0
    assert list((config.out / "tensorboard").iterdir())

    start = config.out / "best.safetensors"
    further = dataclasses.replace(config, out=config.out.with_name("further"), init=start, steps=1)
    Trainer(further).run()
    known = load_checkpoint(further.out / "last.safetensors").training["init"]
    assert known == {"sha256": checkpoint.sha256, "training": checkpoint.training}


def test_weights_whose_deviations_were_at_least_something_else_are_a_start_too(config):
    wide = dataclasses.replace(TINY, head=dataclasses.replace(TINY.head, min_std=0.03))
    start = config.out.with_name("wide.safetensors")
    save_checkpoint(start, FlowPokeModel(wide))
    Trainer(dataclasses.replace(config, init=start, steps=1)).run()
    assert load_checkpoint(config.out / "last.safetensors").config == TINY


def pyramid(input_px, depth):
    encoder = PyramidEncoderConfig(
        input_px, width_at_2=4, width_at_4=4, width_at_8=4, width=8, depth=depth, heads=1
    )
    return dataclasses.replace(TINY, encoder=encoder)


@pytest.fixture
def started(config, tmp_path):
    def make(saved, wanted):
        save_checkpoint(tmp_path / "start.safetensors", saved)
        (tmp_path / "model.json").write_text(wanted.to_json())
        start = dataclasses.replace(
            config, model=str(tmp_path / "model.json"), init=tmp_path / "start.safetensors"
        )
        return initial_model(start)[0]

    return make


def test_weights_for_pictures_of_another_size_are_a_start_too(started):
    saved = FlowPokeModel(pyramid(128, depth=1))
    rows = torch.arange(8.0).repeat_interleave(8)
    saved.image_embedder.position.data[:] = rows[:, None]
    start = started(saved, pyramid(64, depth=1))
    assert start.config == pyramid(64, depth=1)
    # Each row of the coarse grid covers two of the fine one.
    position = start.image_embedder.position.unflatten(1, (4, 4))[0, 1:3, :, 0]
    expected = torch.tensor([2.5, 4.5])[:, None].expand(2, 4)
    torch.testing.assert_close(position, expected, atol=0.1, rtol=0)


def test_weights_of_fewer_blocks_are_a_start_that_answers_as_before(started):
    saved = FlowPokeModel(pyramid(64, depth=1)).eval()
    start = started(saved, pyramid(64, depth=3))
    assert len(start.image_embedder.blocks) == 3
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(start.encode(image).maps, saved.encode(image).maps)
    start.encode(image).maps[0].sum().backward()
    assert start.image_embedder.blocks[2].attn.proj.weight.grad.abs().sum() > 0
    with pytest.raises(InvalidInputError, match="another network"):
        started(start, pyramid(64, depth=1))


def test_a_run_from_before_a_setting_of_the_network_existed_goes_on(finished, straight, tmp_path):
    resumed = dataclasses.replace(finished, out=tmp_path / "run", resume=True)
    known = json.loads(straight["model_config"])
    del known["head"]["stays"]
    resumed.out.mkdir()
    save_state(resumed.out, {**straight, "model_config": json.dumps(known)})
    assert Trainer(resumed).step == straight["step"]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_is_the_same_run(straight, config, optimizer, tmp_path):
    config = dataclasses.replace(config, optimizer=optimizer)
    if optimizer == "muon":
        straight = final_state(dataclasses.replace(config, out=tmp_path / "straight"))
    trainer = Trainer(config)
    step = trainer._train_step

    def stop_after_three(batch, progress):
        measures = step(batch, progress)
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return measures

    trainer._train_step = stop_after_three
    trainer.run()
    assert load_state(config.out)["step"] == 3
    resumed = final_state(dataclasses.replace(config, resume=True))
    assert resumed["step"] == straight["step"] == 8
    assert_same_weights(straight, resumed)


def test_resuming_a_finished_run_keeps_what_it_measured(config):
    config = dataclasses.replace(config, steps=1)
    for resume in (False, True):
        assert Trainer(dataclasses.replace(config, resume=resume)).run()
        measured = load_checkpoint(config.out / "last.safetensors").training["validation"]
        if not resume:
            before = measured
    assert measured == before
    assert math.isfinite(measured["nll/one_poke"])


def test_timing_steps_changes_nothing_for_the_run_that_follows(straight, config):
    trainer = Trainer(config)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    assert trainer.seconds_per_step(2) > 0
    assert trainer.step == 2
    assert any(not torch.equal(value, before[n]) for n, value in trainer.model.state_dict().items())
    assert [path.name for path in config.out.iterdir()] == [LOCK_FILE]
    assert_same_weights(straight, final_state(config))


# It saves its state at every step and stands still before the sixth.
STANDING_STILL = """
import sys
from fpt_ros.cli import main
from fpt_ros.train.loop import Trainer
step = Trainer._train_step
def stand_still(self, *arguments):
    if self.step == 5:
        print("now", flush=True)
        sys.stdin.read()
    return step(self, *arguments)
Trainer._train_step = stand_still
sys.exit(main(["train", *sys.argv[1:]]))
"""


@pytest.fixture
def standing_still(config):
    """A run with a loader process, in a group of processes of its own, and its settings."""
    config = dataclasses.replace(config, checkpoint_minutes=0.0, workers=1)
    with subprocess.Popen(
        [sys.executable, "-c", STANDING_STILL, *flags(config)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        assert any(line == "now\n" for line in process.stdout)
        process.stdout.close()
        yield process, config
        process.kill()


def test_killed_run_resumes_on_the_same_curve(straight, standing_still):
    """Kill -9 while it trains, go on from the last checkpoint, end with the same weights."""
    process, killed = standing_still
    process.send_signal(signal.SIGKILL)
    process.wait()  # for itself alone: its loader needs seconds to notice
    assert load_state(killed.out)["step"] == 5
    resumed = final_state(dataclasses.replace(killed, resume=True))
    assert_same_weights(straight, resumed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_its_processes_stops_a_run_with_a_checkpoint(standing_still, number):
    """As Ctrl-C, `timeout` and systemd send them."""
    process, stopped = standing_still
    os.killpg(process.pid, number)
    process.stdin.close()
    assert process.wait(60) == 130
    assert load_state(stopped.out)["step"] == 6


def test_two_processes_equal_one(straight, config):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    torchrun += ["-m", "fpt_ros.cli.train"]
    subprocess.run(
        [sys.executable, *torchrun, *flags(config)], env=environment(), check=True, timeout=300
    )
    assert_same_weights(straight, load_state(config.out), tolerance=2e-4)
    training = load_checkpoint(config.out / "last.safetensors").training
    assert training["processes"] == 2
    assert training["command"].startswith(f"train.py --data {config.data}")


def test_accumulation_changes_nothing(straight, config):
    parts = final_state(dataclasses.replace(config, accumulate=2))
    assert_same_weights(straight, parts, tolerance=2e-4)


def flags(config):
    """Arguments of `fpt train` for a config: what differs from the defaults."""
    flags = []
    defaults = TrainConfig(config.data, config.out)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        name = "--" + field.name.replace("_", "-")
        if field.name in ("data", "out"):
            flags += [name, str(value)]
        elif dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                inner_name = f"{name}.{inner.name.replace('_', '-')}"
                flags += [inner_name, str(getattr(value, inner.name))]
        elif value != getattr(defaults, field.name):
            flags += [name] if value is True else [name, str(value)]
    return flags


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def test_bad_steps_are_skipped_then_stop_the_run(config):
    config = dataclasses.replace(config, max_bad_steps=3, steps=20, checkpoint_minutes=0.0)
    trainer = Trainer(config)
    weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    load = trainer.batches.__class__.__getitem__

    class Poisoned(trainer.batches.__class__):
        def __getitem__(self, step):
            batch = load(self, step)
            if step not in (1, 2):
                batch.query_flow[:] = float("nan")
            return batch

    trainer.batches.__class__ = Poisoned
    with pytest.raises(TrainingError, match=r"3 steps in a row.*--init .*/run/last\.safetensors"):
        trainer.run()
    assert trainer.step == 6
    assert trainer.counts["step with a loss or gradient that is not finite"] == 4
    changed = trainer.model.state_dict()
    assert all(torch.isfinite(value).all() for value in changed.values())
    assert any(not torch.equal(changed[name], weights[name]) for name in weights)


def test_resume_refuses_other_settings(finished):
    with pytest.raises(InvalidInputError, match="holds a run already"):
        Trainer(finished)
    changed = dataclasses.replace(finished, resume=True, batch=8, seed=3, steps=20)
    bent = r"\(batch: 4 -> 8; seed: 0 -> 3; steps: 8 -> 20\).*--init"
    with pytest.raises(InvalidInputError, match=bent):
        Trainer(changed)


def test_the_budget_of_a_run_is_part_of_its_curve(config):
    new = dataclasses.replace(config, minutes=10.0).to_dict()
    with pytest.raises(InvalidInputError, match=r"\(minutes: None -> 10.0\).*go on longer"):
        check_resumable(config.to_dict(), new)


def test_nested_settings_are_named_and_may_come_later(config):
    new = config.to_dict()
    old = {**new, "selection": dict.fromkeys(("pokes", "queries"), 3)}
    augment = {name: value for name, value in new["augment"].items() if name != "p_jpeg"}
    with pytest.raises(InvalidInputError) as refused:
        check_resumable(old | {"augment": augment}, new)
    assert "selection.queries: 3 -> 8" in str(refused.value)
    assert "selection.pokes" not in str(refused.value)
    assert "augment" not in str(refused.value)


def test_resume_without_a_run_or_with_a_damaged_one(config):
    with pytest.raises(CheckpointError, match="nothing to resume"):
        Trainer(dataclasses.replace(config, resume=True))
    config.out.mkdir()
    (config.out / "state.pt").write_bytes(b"x" * 100)
    with pytest.raises(CheckpointError, match="cannot be read"):
        Trainer(dataclasses.replace(config, resume=True))
    for other in ([1, 2], {"model": {}}):
        torch.save(other, config.out / "state.pt")
        with pytest.raises(CheckpointError, match="not the state of a training run"):
            Trainer(dataclasses.replace(config, resume=True))
    plain = {"config": config.to_dict(), "model_config": TINY.to_json(), "data": {}}
    torch.save({**plain, "objective": [], "ema": {}}, config.out / "state.pt")
    with pytest.raises(CheckpointError, match="does not fit"):
        Trainer(dataclasses.replace(config, resume=True))


def test_what_another_process_wrote_until_it_left_the_run_is_gone_on_with(
    finished, straight, tmp_path, monkeypatch
):
    resumed = dataclasses.replace(finished, out=tmp_path / "run", resume=True)
    resumed.out.mkdir()
    save_state(resumed.out, {**straight, "step": 3})
    monkeypatch.setattr(
        "fpt_ros.train.loop.hold", lambda folder: save_state(folder, {**straight, "step": 5})
    )
    assert Trainer(resumed).step == 5


def test_other_data_is_noticed_on_resuming_also_if_it_is_as_much(toy, config, tmp_path, caplog):
    config = dataclasses.replace(config, data=toy.write_world(tmp_path / "data"), steps=1)
    final_state(config)
    moved = tmp_path / "moved"
    config.data.rename(moved)
    Trainer(dataclasses.replace(config, data=moved, resume=True))
    assert "not on the same curve" not in caplog.text
    rng = np.random.default_rng(0)
    samples = {f"{i}": toy.members(rng, i // 2, i % 2) for i in range(24)}
    toy.write_shard(moved / "train-00000.tar", samples)
    Trainer(dataclasses.replace(config, data=moved, resume=True))
    assert "not on the same curve" in caplog.text


def test_scores_of_other_validation_are_not_compared(finished, straight, tmp_path, caplog):
    resumed = dataclasses.replace(finished, out=tmp_path / "run", resume=True)
    resumed.out.mkdir()
    older = {name: value for name, value in straight.items() if name != "validated_on"}
    for state in (straight, older):
        save_state(resumed.out, state)
        assert Trainer(resumed).best == Trainer(resumed).best_saved == straight["best"]
    assert "not what it was" not in caplog.text
    save_state(resumed.out, straight)
    trainer = Trainer(dataclasses.replace(resumed, val_views=3, val_grid=4))
    assert "validation is not what it was" in caplog.text
    assert trainer.best == trainer.best_saved == math.inf
    assert trainer.n_validations_since_best == 0
    assert trainer.run()  # nothing is left to do but this
    assert load_state(resumed.out)["best_saved"] == trainer.best < math.inf
    assert (resumed.out / "best.safetensors").exists()


def test_the_state_knows_of_the_best_weights_as_soon_as_they_are_there(config, monkeypatch):
    """Killed in the step after a validation, it must not take worse weights for better ones."""
    trainer = Trainer(dataclasses.replace(config, validate_steps=3))

    def fail(*_):
        assert trainer.step < 3
        return step(*_)

    step, trainer._train_step = trainer._train_step, fail
    with pytest.raises(AssertionError):
        trainer.run()
    assert load_state(config.out)["best_saved"] == trainer.best_saved < math.inf


def test_a_run_that_is_stopped_and_cannot_be_written_says_so(config, monkeypatch, caplog):
    trainer = Trainer(config)
    step = trainer._train_step

    def stop(batch, progress):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(batch, progress)

    def full(*_):
        raise OSError(28, "No space left on device")

    trainer._train_step = stop
    monkeypatch.setattr("fpt_ros.train.loop.save_state", full)
    with pytest.raises(TrainingError, match="make room"):
        trainer.run()
    assert "go on with --resume" not in caplog.text


def test_full_disk_costs_checkpoints_not_the_run(config, monkeypatch, caplog):
    def full_for_torch(state, file):
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    def full_for_safetensors(state, path, metadata):
        path.write_bytes(b"half of it")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    trainer = Trainer(dataclasses.replace(config, checkpoint_minutes=0.0))
    names = ("state.pt", "last.safetensors", "best.safetensors")
    step, kept = trainer._train_step, {}

    def fill_disk(batch, progress):
        if trainer.step == 3:
            trainer._validate()
            kept.update({name: (config.out / name).read_bytes() for name in names})
            trainer.best = trainer.best_saved = math.inf
            monkeypatch.setattr(torch, "save", full_for_torch)
            monkeypatch.setattr("fpt_ros.core.checkpoint.save_file", full_for_safetensors)
        return step(batch, progress)

    trainer._train_step = fill_disk
    with pytest.raises(TrainingError, match="make room"):  # not done, and says so
        trainer.run()
    assert trainer.step == 8
    assert trainer.best_saved == math.inf > trainer.best
    assert {path.name for path in config.out.iterdir()} == {*names, LOCK_FILE, "tensorboard"}
    for name in names:
        assert (config.out / name).read_bytes() == kept[name]
        assert f"{name} not written" in caplog.text
    assert load_state(config.out)["step"] == 3


def test_config_is_plain_data(config):
    assert json.loads(json.dumps(config.to_dict())) == config.to_dict()


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        (None, "batch", 0),
        (None, "learning_rate", -1.0),
        (None, "warmup", 1.0),
        (None, "minutes", 0.0),
        (None, "minutes", math.inf),
        (None, "max_bad_steps", 0),
        (None, "val_grid", 0),
        (None, "seed", -1),
        (None, "beta2", math.nan),
        ("selection", "many_queries", 0),
        ("selection", "part_points", 0),
        ("selection", "queries_on_parts", -0.1),
        ("augment", "min_crop", 0.0),
        ("augment", "p_blur", 1.1),
        ("augment", "max_blur_px", 0.0),
    ],
)
def test_config_names_what_is_wrong(config, part, name, value):
    def change():
        inner = dataclasses.replace(getattr(config, part) if part else config, **{name: value})
        return dataclasses.replace(config, **{part: inner}) if part else inner

    with pytest.raises(InvalidInputError, match=f"^{name} must be .*, not {value}"):
        change()


def test_shares_of_queries_fit_together():
    with pytest.raises(InvalidInputError, match="add up to more than 1"):
        SelectionConfig(queries_on_parts=0.6, queries_at_borders=0.5)
