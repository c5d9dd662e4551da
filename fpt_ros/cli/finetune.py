"""`fpt finetune`: adapt a model to recordings, and say whether it got better."""

from __future__ import annotations

import logging
import math
import sys
from typing import Annotated

import tyro

from fpt_ros.train.finetune_config import FineTuneConfig

log = logging.getLogger(__name__)


def finetune(config: Annotated[FineTuneConfig, tyro.conf.arg(name="")]) -> int:
    """Fine-tune a model on recordings, and say whether it got better.

    The recordings are split in time, so that nothing of what is measured on was trained on. The
    result is promoted only if it is better there and has forgotten little of the synthetic world.
    Exit code: 0 promoted, 1 not. An interrupted run (130) goes on with --resume.

    Example: fpt finetune --bag recording/ --out runs/kitchen --minutes 10
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from fpt_ros.train.finetune import FineTuning, Stopped
    from fpt_ros.train.progress import Progress

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    phases: list[str] = []

    def tell(progress: Progress) -> None:
        # Training has a bar of its own.
        if progress.phase not in phases:
            phases.append(progress.phase)
            left_min = progress.time_left_s / 60
            left = "" if math.isnan(left_min) else f", about {left_min:.0f} min left"
            log.info("%s (%.0f %% of all done%s)", progress.phase, 100 * progress.fraction, left)

    try:
        outcome = FineTuning(config, tell).run()
    except Stopped as stop:
        print(f"fpt finetune: {stop}", file=sys.stderr)
        return 130
    Console().print(Markdown(outcome.text))
    print(f"{outcome.verdict.sentence()}\n{outcome.checkpoint}\n{outcome.report}")
    return 0 if outcome.verdict.promoted else 1
