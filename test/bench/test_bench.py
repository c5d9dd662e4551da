"""The benchmark at its smallest: timings are taken, and what is made of them is right."""

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from fpt_ros.bench import fidelity, machine, refinement, timing
from fpt_ros.bench.cases import Cases
from fpt_ros.bench.report import Peaks, markdown, row
from fpt_ros.bench.timing import Case, Duration, Timings, measure
from fpt_ros.cli import main
from fpt_ros.core.config import FPT_SMALL, PyramidEncoderConfig
from fpt_ros.core.engine import TorchEngine
from fpt_ros.core.model import FlowPokeModel
from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.evaluate.runner import TestSample

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def engine():
    torch.manual_seed(0)
    model = FlowPokeModel(replace(FPT_SMALL, encoder=PyramidEncoderConfig(input_px=64)))
    with torch.no_grad():  # nothing that starts as zero stays so
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return TorchEngine(model)


def sample(camera_static=True):
    flow = np.zeros((32, 32, 2), np.float32)
    flow[8:24, 8:24] = (0.1, 0.02)
    image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    valid, part = np.ones((32, 32), bool), np.zeros((32, 32), np.int16)
    return TestSample("a", "door", "door-0", image, flow, valid, part, camera_static)


def test_the_command_prints_and_writes_every_case(tmp_path, capsys):
    arguments = ["--quick", "--engine", "torch", "--turns", "1", "--out", str(tmp_path)]
    assert main(["bench", *arguments]) == 0
    document = json.loads((tmp_path / "bench.json").read_text())
    names = [case["case"] for case in document["cases"]]
    assert len(names) == len(set(names)) >= 7
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in names)
    cpu_time = "* alone and ratio: by the time for which the one thread had the CPU" in table
    assert cpu_time == (torch.get_num_threads() == 1)
    for case in document["cases"]:
        assert 0 < case["p50_ms"] <= case["p95_ms"] <= case["p99_ms"]
        assert case["gflop"] > 0
        assert (case["ratio"] is None) == (case["plain_ms"] is None)
    assert min(document["peaks"].values()) > 0
    assert (tmp_path / "bench.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--engine", "torch", "--only", "nonsense", "--quick"], "no case has 'nonsense'"),
        (["--turns", "0"], "at least 1"),
        (["--base", "--checkpoint", "a.safetensors"], "leave out --checkpoint"),
        (["refine"], "needs test scenes"),
    ],
)
def test_wrong_use_is_explained(arguments, message, capsys, tmp_path):
    assert main(["bench", *arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def test_both_implementations_are_asked_the_same(engine):
    cases = Cases(engine.model, engine)

    def close(answer, plain):
        torch.testing.assert_close(answer, plain, rtol=1e-3, atol=1e-4)

    case = cases.query(2, 3, 5, None)
    motion, plain = case.run(), case.plain()
    assert motion.mixture.mean().shape[:2] == (2, 5)
    close(motion.mixture.mean()[0] / motion.transform.roi[2], plain.mean())
    case = cases.condition(2, 3)
    close(case.run()[0, 0], case.plain())
    case = cases.joint_step(2, 4, None)
    close(case.run()[1][0, 0], case.plain()[1])


def test_both_implementations_are_called_in_turns():
    calls = []
    case = Case("a", lambda: calls.append("e"), lambda: calls.append("p"), plain_calls=3)
    *_, (timings,) = measure([case], CPU, turns=2, calls_per_turn=2)
    assert "".join(calls) == "eepp" + "eepp" + "ppee"  # first to warm up and for the memory
    assert [(len(turn), len(plain)) for turn, plain in timings.turns] == [(2, 2)] * 2


def test_both_implementations_are_called_once_if_one_takes_long(monkeypatch):
    monkeypatch.setattr(timing, "_TURN_S", 0.01)
    case = Case("a", lambda: 0, lambda: time.sleep(0.02))
    *_, (timings,) = measure([case], CPU, turns=1, calls_per_turn=5)
    assert [(len(turn), len(plain)) for turn, plain in timings.turns] == [(1, 1)]


def test_memory_is_what_the_first_calls_add():
    kept = []

    def allocate():
        return torch.ones(50 << 20).sum()

    def keep():  # as engines that hold on to their buffers
        if not kept:
            kept.append(torch.ones(50 << 20))

    for run in (allocate, keep):
        (timings,) = next(measure([Case("a", run)], CPU, turns=1, calls_per_turn=1))
        assert 180e6 < timings.memory_bytes < 500e6


def test_memory_is_unknown_where_the_system_does_not_tell(monkeypatch):
    def refuse(*args):
        raise PermissionError

    monkeypatch.setattr(machine.Path, "write_text", refuse)
    (timings,) = next(measure([Case("a", lambda: 0)], CPU, turns=1, calls_per_turn=1))
    assert math.isnan(timings.memory_bytes)


def test_a_row_is_made_of_ratios_within_turns():
    case = Case("a", lambda: 0, lambda: 0, answers=10, flops=4e9, bytes_moved=1e9, target=3.0)
    turns = [([1.0, 1.0], [4.0, 4.0]), ([4.0, 2.0], [8.0, 10.0]), ([2.0], [10.0])]
    timings = Timings(
        case, [tuple([Duration(2 * s, s) for s in calls] for calls in turn) for turn in turns]
    )
    line = row(timings, Peaks(flops=8e9, fp32_flops=4e9, bytes=4e9))
    assert line.ratio == 4.0  # of 4, 3 and 5
    assert (line.p50_ms, line.alone_ms, line.plain_ms) == (4000, 2000, 8000)
    assert line.answers_per_s == 2.5
    assert (line.of_arithmetic, line.of_traffic) == (0.5, 0.25)
    assert "| 50 % of arithmetic |" in markdown([line], {})
    alone = row(Timings(Case("b", lambda: 0), [([Duration(1, 1)], [])]), Peaks(1, 1, 1))
    assert math.isnan(alone.ratio)
    assert "| - |" in markdown([alone], {})


def test_maps_from_more_queries_differ_less_from_those_of_every_pixel(engine, monkeypatch):
    monkeypatch.setattr(refinement, "UNIFORM", (8, 64))
    monkeypatch.setattr(refinement, "TOLERANCES_PX", (1.0, 0.1))
    monkeypatch.setattr(refinement, "GRID", 8)
    samples = [sample(), sample(camera_static=False)]
    *_, lines = refinement.compare(MotionPredictor(engine), samples)
    assert [line["scenes"] for line in lines] == [1] * 4
    coarse, same, fewer, more = lines
    assert coarse["fewer queries"] == 64
    assert same["fewer queries"] == 1
    assert 64 > fewer["fewer queries"] > more["fewer queries"]
    off = [line["displacement off by, px of 448"] for line in (coarse, fewer, more, same)]
    assert off == sorted(off, reverse=True)
    assert off[-1] == 0
    assert same["least"] == same["IoU with the mask from every pixel"] == 1


def test_the_density_of_joint_samples_is_that_of_drawing_them_one_by_one(engine):
    generator = torch.Generator().manual_seed(0)
    image = engine.encode(torch.randint(0, 256, (1, 3, 64, 64), generator=generator))
    poke_xy, poke_flow = torch.rand(2, 2, 2, generator=generator)
    points, flows = torch.rand(2, 3, 5, 2, generator=generator)
    question = image, poke_xy, 0.1 * poke_flow, points, 0.1 * flows
    exact = fidelity.exact_log_prob(engine.model, *question)
    one_by_one = [slice(i, i + 1) for i in range(5)]
    torch.testing.assert_close(
        exact, fidelity.stepwise_log_prob(engine, *question, one_by_one), rtol=1e-3, atol=1e-3
    )
    at_once = fidelity.stepwise_log_prob(engine, *question, [slice(0, 5)])
    torch.testing.assert_close(at_once[:, 0], exact[:, 0], rtol=1e-3, atol=1e-3)
    assert (at_once[:, 1:] - exact[:, 1:]).abs().max() > 0.01


def test_drawing_more_at_once_takes_fewer_steps(engine, monkeypatch):
    monkeypatch.setattr(fidelity, "POINTS_PER_STEP", (1, 8))
    *_, lines = fidelity.compare(engine, [sample(), sample(camera_static=False)])
    assert [line["points per step"] for line in lines] == ["1", "8", "all, independently"]
    steps = [line["steps"] for line in lines]
    assert steps[0] == 64
    assert 1 == steps[2] < steps[1] < 20
    assert lines[0]["divergence from exact, nats per point"] == 0
    assert all(math.isfinite(line["divergence from exact, nats per point"]) for line in lines)
