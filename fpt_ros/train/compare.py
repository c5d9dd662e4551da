"""Before and after fine-tuning, on the same samples with the same pokes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.data.samples import ShardIndex
from fpt_ros.evaluate.baselines import BASELINES
from fpt_ros.evaluate.metrics import mean_with_interval
from fpt_ros.evaluate.runner import MODEL, EvaluationSettings, TestSample, evaluate, load_samples
from fpt_ros.train.gate import (
    COVERAGES,
    ERRORS,
    LIMITED,
    POKES,
    Change,
    Comparison,
    Interval,
)

BEFORE, AFTER = "before", "after"
_POINTS_PER_SIDE = 32
"""Of the finer grid of the shards, about so many are asked about."""
_ALWAYS_DEFINED = (*ERRORS, *LIMITED, "coverage_90")  # NaN: the prediction is no number

Record = dict[str, Any]


@dataclass(frozen=True)
class TestSet:
    """One outcome of each of at most `n_views` views, spread evenly over `index`."""

    __test__ = False  # the name is the field's term; it is no pytest class

    index: ShardIndex
    n_views: int

    def samples(self) -> Iterator[TestSample]:
        """What to measure on, always the same."""
        chosen = self.index.take(self.n_views)
        single = [replace(view, outcomes=view.outcomes[:1]) for view in chosen.views]
        for sample in load_samples(replace(chosen, views=single)):
            stride = max(1, len(sample.valid) // _POINTS_PER_SIDE)
            asked = np.zeros_like(sample.valid)
            asked[stride // 2 :: stride, stride // 2 :: stride] = True
            yield replace(sample, valid=sample.valid & asked)

    def measure(
        self, predictor: MotionPredictor, name: str, advance: Callable[[float], object]
    ) -> list[Record]:
        """Records of the predictor, called `name`; with BEFORE also those of all baselines."""
        settings = EvaluationSettings(
            poke_counts=POKES,
            joint_samples=0,
            compare_with=tuple(BASELINES) if name == BEFORE else (),
        )
        n_samples = min(self.n_views, len(self.index.views))

        def told() -> Iterator[TestSample]:
            for done, sample in enumerate(self.samples()):
                advance(done / n_samples)
                yield sample

        records = list(evaluate(predictor, told(), settings))
        for record in records:
            if record["method"] == MODEL:
                record["method"] = name
        return records


def compared(records: list[Record]) -> Comparison:
    """BEFORE and AFTER, by all measures that the gate looks at and some sample has."""
    before: dict[tuple[int, str], float] = {}
    after: dict[tuple[int, str], float] = {}
    changes = {}
    for pokes in POKES:
        for measure in {**ERRORS, **COVERAGES, **LIMITED}:
            sides, scenes = _pairs(records, pokes, measure)
            for means, values in ((before, sides[:, 0]), (after, sides[:, 1])):
                if measure not in _ALWAYS_DEFINED:  # one may find motion likely, the other not
                    values = values[~np.isnan(values)]
                if len(values):
                    means[pokes, measure] = float(values.mean())
            if len(sides):
                each = sides[:, 1] - sides[:, 0]
                of_blocks = (float(each[scenes == scene].mean()) for scene in np.unique(scenes))
                changes[pokes, measure] = Change(_interval(sides, scenes), tuple(of_blocks))
    return Comparison(before, after, changes)


def paired_change(records: list[Record], pokes: int, measure: str) -> Interval:
    """Mean of after minus before over samples, with a 95 % interval over scenes (blocks of time).

    NaN if one side is not finite in some sample: weights that fail on the hard samples must not
    look better for it. The bounds are NaN where there is one scene only.
    """
    return _interval(*_pairs(records, pokes, measure))


def _interval(sides: np.ndarray, scenes: np.ndarray) -> Interval:
    if not len(sides) or not np.isfinite(sides).all():
        return math.nan, math.nan, math.nan
    return mean_with_interval(sides[:, 1] - sides[:, 0], scenes)


def _pairs(records: list[Record], pokes: int, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """Values [N, 2] before and after, and scenes [N], of the samples that have this measure.

    Some measures are not defined for all samples: those are left out that are NaN on both sides.
    """
    values: dict[str, dict[str, float]] = {}
    scenes = {}
    for row in records:
        if row["pokes"] == pokes and row["method"] in (BEFORE, AFTER) and measure in row:
            values.setdefault(row["key"], {})[row["method"]] = row[measure]
            scenes[row["key"]] = row["scene"]
    keys = [
        key
        for key, sides in values.items()
        if measure in _ALWAYS_DEFINED or not all(map(math.isnan, sides.values()))
    ]
    pairs = [[values[key].get(side, math.nan) for side in (BEFORE, AFTER)] for key in keys]
    return np.array(pairs, float).reshape(-1, 2), np.array([scenes[key] for key in keys])
