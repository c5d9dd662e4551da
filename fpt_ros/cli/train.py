"""`fpt train`: train a model on shards of motion."""

from __future__ import annotations

import logging
from typing import Annotated

import tyro

from fpt_ros.train.config import TrainConfig


def train(config: Annotated[TrainConfig, tyro.conf.arg(name="")]) -> None:
    """Train a flow poke model; checkpoints and TensorBoard logs go to --out.

    An interrupted run goes on with --resume. Several processes share the batch:
    `torchrun --nproc-per-node 2 -m fpt_ros.cli.train --data ... --out ...`.
    """
    from fpt_ros.train.loop import Trainer, process_group

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with process_group():
        Trainer(config).run()


if __name__ == "__main__":
    tyro.cli(train)
