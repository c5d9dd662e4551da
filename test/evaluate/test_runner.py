"""Records and report of a predictor that knows the truth, and of samples that test its limits."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.core.mixture import GaussianMixture
from fpt_ros.data.samples import choose_pokes
from fpt_ros.evaluate import report
from fpt_ros.evaluate.runner import (
    MODEL,
    EvaluationSettings,
    TestSample,
    evaluate,
    numbers_only,
)

GRID, SIDE_PX = 8, 64
STD_PX = 0.02 * SIDE_PX


class Oracle:
    """Expects rest, and after any poke what will happen, each with the same deviation."""

    def __init__(self, flow):
        self.truth_px = torch.from_numpy(flow.reshape(-1, 2)).double() * SIDE_PX
        self.asked_jointly = []

    def set_image(self, rgb):
        assert rgb.shape == (SIDE_PX, SIDE_PX, 3)

    def predict(self, pokes, queries, camera_static):
        means = self._truth_px(queries) * bool(len(pokes))
        mixture = GaussianMixture(
            torch.zeros(len(queries), 1, dtype=torch.float64),
            means[:, None],
            (STD_PX * torch.eye(2, dtype=torch.float64)).expand(len(queries), 1, 2, 2),
        )
        return SimpleNamespace(mixture=mixture)

    def sample_jointly(self, pokes, queries, n_samples, generator, camera_static):
        self.asked_jointly.append(queries)
        return np.repeat(self._truth_px(queries).numpy()[None], n_samples, axis=0)

    def _truth_px(self, queries):
        column, row = (queries / SIDE_PX * GRID).astype(int).T
        return self.truth_px[row * GRID + column]


def sample(key="a", family="door", camera_static=True, moves=True):
    flow = np.zeros((GRID, GRID, 2), np.float32)
    part = np.zeros((GRID, GRID), np.int16)
    part[2:5, 3:6] = 1
    if moves:
        flow[2:5, 3:6] = (0.1, -0.05)
        flow[2, 3] = (0.2, 0.0)
    image = np.zeros((SIDE_PX, SIDE_PX, 3), np.uint8)
    valid = np.ones((GRID, GRID), bool)
    return TestSample(key, family, f"{family}-{key}", image, flow, valid, part, camera_static)


def records_of(*samples, poke_counts=(0, 1, 5)):
    settings = EvaluationSettings(poke_counts=poke_counts)
    return list(evaluate(Oracle(samples[0].flow), samples, settings))


def test_who_knows_the_truth_is_measured_so():
    records = {(r["pokes"], r["method"]): r for r in records_of(sample())}
    before, after = records[0, MODEL], records[1, MODEL]
    step_px = 448 * (8 * np.hypot(0.1, 0.05) + 0.2) / 9
    assert before["epe_moving_px"] == pytest.approx(step_px, rel=1e-5)
    assert before["epe_all_px"] == pytest.approx(step_px * 9 / 64, rel=1e-5)
    assert (before["iou_kl"], before["iou_flow"]) == (0.0, 0.0)
    assert after["epe_all_px"] == pytest.approx(0, abs=1e-4)
    assert (after["iou_kl"], after["iou_flow"], after["pck_2px"]) == (1.0, 1.0, 1.0)
    assert after["nll"] == pytest.approx(np.log(2 * np.pi * 0.02**2), rel=1e-6)
    assert records[5, "no motion"]["epe_moving_px"] == pytest.approx(step_px, rel=1e-5)


def test_the_first_poke_is_the_longest_motion_and_none_comes_twice():
    flow = sample().flow.reshape(-1, 2)
    order = choose_pokes(flow, 64, np.random.default_rng(0))
    assert order[0] == 2 * GRID + 3
    assert sorted(order) == list(range(64))


def test_parts_are_not_scored_under_a_moving_camera_nor_stills_at_all():
    records = records_of(sample(camera_static=False), sample("b", moves=False))
    assert {r["key"] for r in records} == {"a"}
    assert all(np.isnan(r["iou_flow"]) for r in records)


def two_parts(key, scene, **changes):
    """Part 1, which holds the longest motion, has 16 points, part 2 has 20."""
    flow, part = np.zeros((GRID, GRID, 2), np.float32), np.zeros((GRID, GRID), np.int16)
    part[:4, :4], part[4:, 3:] = 1, 2
    flow[part > 0] = (0.1, 0.0)
    flow[0, 0] = (0.2, 0.0)
    return replace(sample(key), scene=scene, flow=flow, part=part, **changes)


def test_halved_and_doubled_thresholds_take_more_and_fewer_points():
    kl_nats = np.repeat([0.75, 1.5, 3.0], [4, 3, 2])  # threshold 1; shift^2 / 2 std^2
    flow = np.zeros((GRID, GRID, 2), np.float32)
    flow.reshape(-1, 2)[:9, 0] = 0.02 * np.sqrt(2 * kl_nats)
    settings = EvaluationSettings(poke_counts=(1,), threshold_nats=1.0, compare_with=())
    (record,) = evaluate(Oracle(flow), [replace(sample(), flow=flow)], settings)
    got = [record[f"iou_kl{which}"] for which in ("_half", "", "_double")]
    assert got == pytest.approx([1.0, 5 / 9, 2 / 9])


class Doubtful(Oracle):
    """Expects each point to stay, or if poked with some probability to move by a tenth."""

    def __init__(self, probability, still):
        self.probability = torch.from_numpy(probability.reshape(-1)).double()
        self.still = torch.from_numpy(still.reshape(-1)).double()

    def predict(self, pokes, queries, camera_static):
        probability = self.probability if len(pokes) else self.still
        weights = torch.stack([1 - probability, probability], dim=-1)
        means_px = torch.tensor([[0.0, 0.0], [0.1 * SIDE_PX, 0.0]], dtype=torch.float64)
        mixture = GaussianMixture(
            weights.log(),
            means_px.expand(len(queries), 2, 2),
            (1e-4 * SIDE_PX * torch.eye(2, dtype=torch.float64)).expand(len(queries), 2, 2, 2),
        )
        return SimpleNamespace(mixture=mixture)


def test_the_mask_is_what_is_influenced_and_likely_to_move():
    probability, still = np.full((2, GRID, GRID), 0.01)  # the mean moves by 0.1 % of the side
    probability[0] = 0.35  # by 3.5 %; not likely enough
    probability[1] = 0.45
    probability[2] = still[2] = 0.9  # moves anyway
    flow = np.zeros((GRID, GRID, 2), np.float32)
    flow[1, :, 0] = 0.1
    settings = EvaluationSettings(poke_counts=(1,), compare_with=())
    predictor = Doubtful(probability, still)
    (record,) = evaluate(predictor, [replace(sample(), flow=flow)], settings)
    assert record["iou_mask"] == 1.0
    assert record["iou_flow"] == pytest.approx(1 / 3)


class Calibrated:
    """Expects one of two motions at each point, and what happens is drawn from just that."""

    def __init__(self):
        rng, n = np.random.default_rng(0), 64 * 64
        self.std = np.repeat(rng.uniform(0.01, 0.1, n), 2).reshape(n, 2)
        self.modes = rng.normal(0, 0.1, (n, 2, 2))
        self.truth, self.sample = (self.draw(rng) for _ in range(2))

    def draw(self, rng):
        mode = (rng.random(len(self.modes)) < 0.2).astype(int)
        return rng.normal(self.modes[np.arange(len(mode)), mode], self.std)

    def set_image(self, rgb):
        pass

    def predict(self, pokes, queries, camera_static):
        n = len(queries)
        mixture = GaussianMixture.from_covariances(
            torch.tensor([0.8, 0.2], dtype=torch.float64).expand(n, 2),
            SIDE_PX * torch.from_numpy(self.modes),
            torch.from_numpy(SIDE_PX * self.std[:, :1, None]).expand(n, 2, 1).square()
            * torch.tensor([1.0, 0.0, 1.0]),
        )
        return SimpleNamespace(mixture=mixture)


def test_coverage_and_correlations_of_who_expects_what_happens():
    told = Calibrated()
    view = replace(
        sample(),
        flow=told.truth.reshape(64, 64, 2),
        valid=np.ones((64, 64), bool),
        part=np.zeros((64, 64), np.int16),
    )
    settings = EvaluationSettings(poke_counts=(0,), compare_with=())
    (record,) = evaluate(told, [view], settings)
    for level in (0.5, 0.9):
        error = np.sqrt(level * (1 - level) / 1024)  # a quarter of the points
        assert record[f"coverage_{level:.0%}"[:-1]] == pytest.approx(level, abs=3 * error)
        # Chosen by what is predicted, points are covered as often as all.
        likely = record[f"coverage_{level:.0%}"[:-1] + "_likely"]
        assert likely == pytest.approx(level, abs=6 * error)
    mean = 0.8 * told.modes[:, 0] + 0.2 * told.modes[:, 1]
    between = 0.8 * 0.2 * np.square(told.modes[:, 0] - told.modes[:, 1]).sum(-1)
    deviation = np.sqrt(2 * told.std[:, 0] ** 2 + between)
    for name, guess, tolerance in (
        ("", mean, 1e-6),
        ("_top_mode", told.modes[:, 0], 1e-6),
        ("_sample", told.sample, 0.05),
    ):
        error = np.linalg.norm(guess - told.truth, axis=-1)
        expected = pearsonr(deviation, error).statistic
        got = record[f"std_error_correlation{name}"]
        assert got == pytest.approx(expected, abs=tolerance)


def test_joint_samples_are_of_the_poked_part_once_a_scene():
    still, moving = two_parts("b", "s1"), two_parts("a", "s1", camera_static=False)
    again, other = two_parts("c", "s1"), two_parts("d", "s2")
    few = replace(two_parts("e", "s3"), valid=np.arange(GRID)[:, None].repeat(GRID, 1) > 1)
    unknown = replace(two_parts("f", "s4"), part=np.zeros((GRID, GRID), np.int16))
    oracle = Oracle(still.flow)
    samples = [moving, still, again, other, few, unknown]
    settings = EvaluationSettings(poke_counts=(1, 2), compare_with=())
    records = list(evaluate(oracle, samples, settings))
    joint = [r for r in records if "joint_best_epe_px" in r]
    assert [(r["key"], r["pokes"]) for r in joint] == [("b", 1), ("d", 1)]
    assert [r["joint_best_epe_px"] for r in joint] == pytest.approx([0, 0], abs=1e-4)
    for queries in oracle.asked_jointly:
        assert len(np.unique(queries, axis=0)) == 16
        assert queries.max() < SIDE_PX / 2
    none = replace(settings, joint_samples=0)
    assert not [r for r in evaluate(oracle, samples, none) if "joint_best_epe_px" in r]


def test_points_of_unknown_motion_are_left_out():
    whole = sample()
    wild = whole.flow.copy()
    wild[5:] = 0.9  # would count as moving and become the first poke
    partly = replace(whole, flow=wild, valid=np.arange(GRID)[:, None].repeat(GRID, 1) < 5)
    (record,) = [r for r in records_of(partly, poke_counts=(0,)) if r["method"] == "no motion"]
    lengths = np.linalg.norm(whole.flow, axis=-1)
    assert record["epe_all_px"] == pytest.approx(448 * lengths.sum() / 40, rel=1e-5)
    assert record["epe_moving_px"] == pytest.approx(448 * lengths[lengths > 0].mean(), rel=1e-5)


@pytest.mark.parametrize("poke_counts", [(0, 1, 5), (0, 2)])
def test_a_report_for_any_poke_counts(tmp_path, poke_counts):
    samples = [sample(), sample("b"), sample("c", "drawer", camera_static=False)]
    records = records_of(*samples, poke_counts=poke_counts)
    text = report.save(tmp_path, "Title", records, {"checkpoint": "oracle"})
    assert "* checkpoint: oracle" in text
    assert ("## By family" in text) == (1 in poke_counts)
    if 1 in poke_counts:
        door = next(line for line in text.splitlines() if line.startswith("| door |"))
        cells = door.split("|")
        assert cells[2].startswith(" 0.000")
        assert float(cells[5].split("[")[0]) > 1  # the best baseline is not the model
        assert "| static | 2 | 0.000" in text
        assert "| moving | 1 | 0.000" in text
        assert all(f"PCK moving, {limit} px" in text for limit in (2, 4, 8, 16, 32))
    document = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert len(document["records"]) == len(records)
    assert (tmp_path / "report.png").stat().st_size > 1000


def test_the_model_is_set_against_the_best_baseline_sample_by_sample():
    def rows(key, scene, **errors):
        common = {"key": key, "scene": scene, "family": "door", "pokes": 1, "camera_static": True}
        return [
            common | {"method": method, "epe_moving_px": epe, "epe_all_px": epe,
                      "iou_flow": 0.1, "iou_kl": 0.6, "iou_mask": 0.5}
            for method, epe in errors.items()
        ]  # fmt: skip

    records = [
        *rows("a", "s1", model=5.0, worse=20.0, better=8.0),
        *rows("b", "s1", model=7.0, worse=20.0, better=9.0),
        *rows("c", "s2", model=11.0, worse=2.0, better=12.0),
    ]
    text = report.markdown("Title", records, {}, report.summarise(records))
    # Mean of -3, -2 and -1; without the one or the other scene -1 and -2.5, so the jackknife has an
    # error of sqrt((1 + 0.25) / 2), times Student's 12.7062 of one degree of freedom.
    assert "| EPE moving, px | better, EPE moving, px | -2.00 [-12.05, +8.05] |" in text
    assert "| IoU by KL | worse, IoU by flow | +0.500 [+0.500, +0.500] |" in text


def test_an_answer_that_is_no_number_ends_the_comparison():
    broken = sample("b")
    flow = broken.flow.copy()
    flow[2, 4] = np.nan  # what the model will say
    settings = EvaluationSettings(poke_counts=(1,))
    records = numbers_only(evaluate(Oracle(flow), [broken], settings))
    with pytest.raises(InvalidInputError, match="model to sample b at 1 pokes holds NaN"):
        list(records)
    assert len(list(numbers_only(records_of(sample())))) == 3 * 8


def test_nothing_to_measure_is_said():
    with pytest.raises(InvalidInputError, match="nothing was measured"):
        report.save("unused", "Title", [], {})
    for counts in ((), (1, -1)):
        with pytest.raises(InvalidInputError, match="poke_counts"):
            EvaluationSettings(poke_counts=counts)
