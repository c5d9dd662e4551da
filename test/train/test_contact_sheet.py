"""The contact sheet against shards whose content is known."""

import itertools

import cv2
import numpy as np
import pytest

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data import contact_sheet


def test_each_family_is_shown_once_with_two_outcomes(toy, tmp_path):
    samples = {
        f"{family}{view}_{outcome}": toy.members(
            np.random.default_rng(outcome), view, outcome, family=family
        )
        for family in ("door", "lid")
        for view in (3, 4)
        for outcome in range(3)
    }
    samples["door3_0"]["npz"] = b"damaged"
    toy.write_shard(tmp_path / "val-00000.tar", samples)
    path = contact_sheet.save(tmp_path, "val")
    assert path == tmp_path / "val.jpg"
    sheet = cv2.imread(str(path))
    # Four panels in a row. In each, the toy world's only coloured thing, on grey: a tinted block.
    coloured = np.ptp(sheet.astype(int), axis=-1) > 60
    edges = np.linspace(0, sheet.shape[1], 5).astype(int)
    shares = [coloured[:, a:b].mean() for a, b in itertools.pairwise(edges)]
    assert len(shares) == 4
    assert min(shares) > 0.01
    assert sheet.shape[0] < 1.5 * sheet.shape[1] / 4  # one row


def test_nothing_to_show(tmp_path):
    with pytest.raises(InvalidInputError, match="no usable sample"):
        contact_sheet.save(tmp_path, "train")
