"""Nothing of a held-out block is seen in training, by brute force over random recordings."""

from itertools import pairwise

import numpy as np
import pytest

from fpt_ros.data.blocks import plan_blocks


@pytest.mark.parametrize("test", [False, True])
def test_splits_keep_their_distance_and_their_share(test):
    rng = np.random.default_rng(0)
    for _ in range(200):
        horizon_s = rng.uniform(0.1, 3)
        durations_s = np.exp(rng.uniform(-1, 8, int(rng.integers(1, 9)))).tolist()
        blocks = plan_blocks(durations_s, horizon_s, test)
        assert [block.number for block in blocks] == list(range(len(blocks)))
        for recording, duration_s in enumerate(durations_s):
            mine = [block for block in blocks if block.recording == recording]
            assert mine[0].start_s >= 0
            assert mine[-1].stop_s <= duration_s + 1e-9
            for a, b in pairwise(mine):
                gap_s = b.start_s - a.stop_s
                assert gap_s >= (horizon_s if a.split != b.split else 0) - 1e-9
            if len(mine) > 1:
                assert {block.split for block in mine} >= {"train", "val"}
                assert all(block.stop_s - block.start_s > horizon_s for block in mine)
            if test and len(mine) > 2:
                assert "test" in {block.split for block in mine}
    hour = plan_blocks([3600.0], 1.0, test)
    held_out_s = sum(block.stop_s - block.start_s for block in hour if block.split == "val")
    assert held_out_s / 3600 == pytest.approx(0.2, abs=0.02)


def test_of_many_short_recordings_every_fifth_is_held_out():
    blocks = plan_blocks([2.0] * 10, 1.0, test=False)
    assert [block.split for block in blocks] == (["train"] * 4 + ["val"]) * 2


def test_a_wrong_clock_makes_no_millions_of_blocks():
    assert len(plan_blocks([1.7e9], 1.0, test=True)) <= 10_000
