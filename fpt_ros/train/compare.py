"""Before and after fine-tuning, on the same samples with the same pokes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fpt_ros.core.predictor import MotionPredictor
from fpt_ros.data.samples import ShardIndex
from fpt_ros.evaluate.baselines import BASELINES
from fpt_ros.evaluate.report import summarise
from fpt_ros.evaluate.runner import MODEL, EvaluationSettings, TestSample, evaluate, load_samples
from fpt_ros.train.gate import POKES, Comparison

BEFORE, AFTER = "before", "after"
_POINTS_PER_SIDE = 32
"""Of the finer grid of the shards, about so many are asked about."""

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
            joint_scenes=0,
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
    """Means of BEFORE and AFTER."""
    sides: dict[str, dict[tuple[int, str], float]] = {BEFORE: {}, AFTER: {}}
    for (pokes, method, measure), (mean, _, _) in summarise(records).items():
        if method in sides:
            sides[method][pokes, measure] = mean
    return Comparison(sides[BEFORE], sides[AFTER])
