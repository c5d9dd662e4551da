"""What becomes a poke or a query, and that a batch depends on the seed and the step alone."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fpt_ros.core.errors import InvalidInputError
from fpt_ros.data.augment import NO_AUGMENTATION
from fpt_ros.data.samples import ShardIndex
from fpt_ros.train.batches import TrainingBatches
from fpt_ros.train.config import SelectionConfig, TrainConfig
from fpt_ros.train.rehearsal import count, turn


@pytest.fixture
def config(toy_data, tmp_path):
    selection = SelectionConfig(
        pokes=4,
        queries=6,
        many_pokes=10,
        many_queries=2,
        many_every=3,
        queries_on_parts=0.3,
        queries_at_borders=0.2,
    )
    return TrainConfig(toy_data, tmp_path, batch=8, outcomes=2, steps=20, selection=selection)


def batches(config, **changes):
    return TrainingBatches(ShardIndex.scan(config.data, "train"), config, 48, **changes)


def same(a, b):
    return all(torch.equal(vars(a)[name], vars(b)[name]) for name in vars(a) if name != "n_skipped")


def test_shapes_and_long_sequences(config):
    data = batches(config)
    batch = data[0]
    assert batch.image.shape == (8, 3, 48, 48)
    assert batch.image.dtype == torch.uint8
    assert batch.poke_xy.shape == batch.poke_flow.shape == (8, 2, 4, 2)
    assert batch.query_xy.shape == batch.query_flow.shape == (8, 2, 5, 6, 2)
    assert batch.query_moves.shape == (8, 2, 5, 6)
    assert data[2].query_xy.shape == (8, 2, 11, 2, 2)
    for xy in (batch.poke_xy, batch.query_xy):
        assert xy.min() > 0
        assert xy.max() < 1


def test_same_step_same_batch_and_seeds_differ(config, toy_data, tmp_path):
    assert same(batches(config)[5], batches(config)[5])
    assert not same(batches(config)[5], batches(config)[4])
    other = TrainConfig(**{**vars(config), "seed": 1})
    assert not same(batches(config)[5], batches(other)[5])


def test_processes_share_the_global_batch(config):
    whole = batches(config)[1]
    halves = [batches(config, rank=rank, world=2)[1] for rank in (0, 1)]
    for name in vars(whole):
        if name != "n_skipped":
            parts = torch.cat([vars(half)[name] for half in halves])
            assert torch.equal(parts, vars(whole)[name])
    pieces = whole.split(4)
    assert torch.equal(torch.cat([piece.query_xy for piece in pieces]), whole.query_xy)


def test_every_epoch_visits_every_view_once(config, toy_data):
    """12 views in batches of 4: three steps see each image once."""
    plain = TrainConfig(**{**vars(config), "batch": 4})
    data = batches(plain)
    seen = []
    data._load = lambda view, rng, load=data._load: (seen.append(view.scene_seed), load(view, rng))[
        1
    ]
    for step in range(6):
        data[step]
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:]


@pytest.mark.parametrize(
    ("n", "m", "share"), [(19608, 21300, 0.6), (200, 134, 0.5), (3, 1000, 0.001)]
)
def test_rehearsal_has_its_share_whatever_the_sizes(n, m, share):
    """Every view of a source comes equally often, but for the epoch that is not over."""
    n_positions = 3 * (n + m)
    turns = [turn(position, share) for position in range(n_positions)]
    counts = np.bincount([is_rehearsal for is_rehearsal, _ in turns], minlength=2)
    assert counts[1] / n_positions == pytest.approx(share, abs=1 / n_positions)
    assert counts[1] == count(n_positions, share)
    for source, size in enumerate((n, m)):
        numbers = [number for is_rehearsal, number in turns if is_rehearsal == source]
        assert numbers == list(range(counts[source]))
        assert np.ptp(np.bincount(np.array(numbers) % size, minlength=size)) <= 1


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 10**12), st.integers(1, 200))
def test_every_stretch_of_a_run_has_its_share_of_rehearsal(share, first, n):
    turns = [turn(position, share) for position in range(first, first + n)]
    assert abs(sum(is_rehearsal for is_rehearsal, _ in turns) - Fraction(share) * n) <= 1
    for source in (False, True):
        numbers = [number for is_rehearsal, number in turns if is_rehearsal == source]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True


def test_rehearsal_is_mixed_into_every_batch(toy, config, tmp_path):
    other = ShardIndex.scan(toy.write_world(tmp_path / "other", n_views=5, family="other"), "train")
    mixture = TrainConfig(**{**vars(config), "rehearsal_share": 0.625})
    seen = []

    def watched(**changes):
        data = batches(mixture, rehearsal=other, **changes)
        load = data._load

        def watched_load(view, rng):
            seen.append((view.family, view.scene_seed))
            return load(view, rng)

        data._load = watched_load
        return data

    whole = [watched()[step] for step in range(3)]
    families = np.array(seen)[:, 0].reshape(3, 8)
    assert (families == "other").sum(axis=1).tolist() == [5, 5, 5]
    for family, n in (("other", 5), ("toy", 9)):  # 9 of 12
        first_epoch = [seed for each, seed in seen if each == family][:n]
        assert len(set(first_epoch)) == n
    halves = [watched(rank=rank, world=2)[1] for rank in (0, 1)]
    assert torch.equal(torch.cat([half.image for half in halves]), whole[1].image)


def test_other_horizons_are_not_mixed(config, toy_data):
    longer = replace(ShardIndex.scan(toy_data, "train"), horizon_s=2.0)
    with pytest.raises(InvalidInputError, match=r"over 1 s.*over 2 s"):
        batches(config, rehearsal=longer)


def test_batch_must_divide(config):
    with pytest.raises(InvalidInputError, match="not a multiple"):
        batches(config, rank=0, world=3)


def test_pokes_and_queries_go_where_asked(config):
    data = batches(config)
    first, others, moving, n = 0.0, 0.0, 0.0, 12
    for step in range(0, n):
        batch = data[step]
        lengths = batch.poke_flow.norm(dim=-1)
        first += (lengths[:, :, 0] > 0).float().mean().item() / n
        others += (lengths[:, :, 1:] > 0).float().mean().item() / n
        moving += batch.query_moves.float().mean().item() / n
    area = 25 / 256  # the square's share of the picture, more after zooming in
    assert 0.8 < first < 0.97
    assert 0.4 < others < 0.65
    # 0.3 on the square, about half of the 0.2 at its border, and the square's share of the rest.
    assert 0.35 < moving < 0.3 + 0.15 + 0.5 * 3 * area
    assert torch.equal(batch.query_moves, batch.query_flow.norm(dim=-1) > 0)


def test_queries_do_not_know_what_moves(toy, config, tmp_path):
    """Of two equal parts one moves, in half of the outcomes this one, in half the other."""
    part = np.zeros((16, 16), np.int16)
    part[2:7, 2:7], part[9:14, 9:14] = 1, 2
    files = {}
    for view in range(4):
        for outcome in range(2):
            flow = np.zeros((2, 16, 16, 2), np.float16)
            flow[:, part == 1 + outcome] = 0.1
            members = toy.members(np.random.default_rng(0), view, outcome, flow=flow, part=part)
            files[f"{view}_{outcome}"] = members
    toy.write_shard(tmp_path / "train-00000.tar", files)
    alone = {**vars(config), "data": tmp_path, "outcomes": 1, "augment": NO_AUGMENTATION}
    data = batches(TrainConfig(**alone))
    xy = torch.cat([data[step].query_xy.flatten(0, 3) for step in range(24)])
    moves = torch.cat([data[step].query_moves.flatten() for step in range(24)])
    column, row = (16 * xy).long().unbind(-1)
    on_parts = torch.from_numpy(part)[row, column] > 0
    # Uniform queries would lie there with 50 / 256.
    assert on_parts.float().mean() == pytest.approx(0.3 + 0.2 * 0.4 + 0.5 * 50 / 256, abs=0.06)
    assert moves[on_parts].float().mean() == pytest.approx(0.5, abs=0.03)


def test_labels_are_exact_after_augmentation(config):
    """All points of the toy's square move alike, so every moving query equals the first poke."""
    batch = batches(config)[0]
    for view in range(8):
        for outcome in range(2):
            flows = batch.query_flow[view, outcome][batch.query_moves[view, outcome]]
            pokes = batch.poke_flow[view, outcome]
            pokes = pokes[pokes.norm(dim=-1) > 0]
            torch.testing.assert_close(flows, pokes[:1].expand_as(flows), atol=1e-6, rtol=0)


def test_unusable_samples_are_replaced_and_counted(toy, config, tmp_path, caplog):
    rng = np.random.default_rng(0)
    still = np.zeros((1, 16, 16, 2), np.float16)
    lost = np.full((1, 16, 16, 2), np.inf, np.float16)
    samples = {f"good{i}": toy.members(rng, i, 0) for i in range(4)}
    samples |= {"still": toy.members(rng, 10, 0, flow=still)}
    samples |= {"lost": toy.members(rng, 11, 0, flow=lost)}
    toy.write_shard(tmp_path / "train-00000.tar", samples)
    config = TrainConfig(**{**vars(config), "data": tmp_path, "batch": 6})
    data = batches(config)
    skipped = [data[step].n_skipped for step in range(4)]
    assert min(skipped) >= 2
    assert torch.isfinite(data[0].query_flow).all()
    messages = [record.getMessage() for record in caplog.records]
    assert sum("nothing moves" in message for message in messages) == 1
    assert sum("not finite" in message for message in messages) == 1


def test_points_of_unknown_motion_are_never_drawn(toy, config, tmp_path):
    """The lower half is unknown and claims a motion that nothing else has."""
    rng = np.random.default_rng(0)
    valid = np.ones((2, 16, 16), bool)
    valid[:, 8:] = False
    flow = np.full((2, 16, 16, 2), 0.3, np.float16)
    flow[:, :8] = -0.1
    files = {
        f"{i}_{outcome}": toy.members(rng, i, outcome, flow=flow, valid=valid)
        for i in range(4)
        for outcome in range(2)
    }
    # One outcome knows all; nothing of that may be drawn in the others.
    files["3_1"] = toy.members(rng, 3, 1, flow=np.full((2, 16, 16, 2), -0.1, np.float16))
    toy.write_shard(tmp_path / "train-00000.tar", files)
    config = TrainConfig(**{**vars(config), "data": tmp_path, "augment": NO_AUGMENTATION})
    data = batches(config)
    for step in range(4):
        batch = data[step]
        for drawn in (batch.query_flow, batch.poke_flow):
            torch.testing.assert_close(drawn, torch.full_like(drawn, -0.1), atol=1e-4, rtol=0)


def test_only_unusable_samples_stop_the_run(toy, config, tmp_path):
    still = np.zeros((1, 16, 16, 2), np.float16)
    files = toy.members(np.random.default_rng(0), 0, 0, flow=still)
    toy.write_shard(tmp_path / "train-00000.tar", {"still": files})
    config = TrainConfig(**{**vars(config), "data": tmp_path})
    with pytest.raises(InvalidInputError, match="in a row cannot be used"):
        batches(config)[0]


def test_points_for_the_part_loss_carry_their_part(config):
    """All of the square moves and nothing else, so in each view its points lie where it lies."""
    batch = batches(config)[0]
    assert batch.part_xy.shape == (8, 128, 2)
    assert 0.4 < (batch.part > 0).float().mean() < 0.75
    for view in range(8):
        moving = batch.query_xy[view][batch.query_moves[view]]
        on_square = batch.part_xy[view][batch.part[view] > 0]
        distance = torch.cdist(on_square, moving).min(1).values
        assert distance.max() < 4 * 2 / 16  # nothing is further than a few cells of the 16
