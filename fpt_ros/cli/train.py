"""`fpt train`: train a model on shards of motion."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated

import tyro

from fpt_ros.cli.logs import log_to_stderr
from fpt_ros.train.config import TrainConfig


def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> int:
    """Train a flow poke model; checkpoints and TensorBoard logs go to --out.

    An interrupted run (exit code 130) goes on with --resume. Several processes share the batch:
    `torchrun --nproc-per-node 2 -m fpt_ros.cli.train --data ... --out ...`.
    """
    from fpt_ros.train.control import process_group
    from fpt_ros.train.loop import Trainer

    is_first = os.environ.get("RANK", "0") == "0"
    log_to_stderr(logging.INFO if is_first else logging.WARNING)
    with process_group():
        return 0 if Trainer(config).run() else 130


if __name__ == "__main__":
    from fpt_ros.cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
