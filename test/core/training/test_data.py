"""Batches: windows cut into latent steps, aligned with their labels, split, shared and resumed."""

import dataclasses

import numpy as np
import pytest
import torch

from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.training.data import LabelledData, prefetch, source_weights, split, unseen

SKIP = 2


@pytest.fixture
def stage(config):
    return config.stages[2]


def equal(first, second):
    for field in dataclasses.fields(first):
        a, b = getattr(first, field.name), getattr(second, field.name)
        for x, y in zip(a, b, strict=True) if isinstance(a, list) else [(a, b)]:
            assert torch.equal(x.nan_to_num(), y.nan_to_num()) and torch.equal(x.isnan(), y.isnan()), field.name


@pytest.fixture(params=["whole", "cut"])
def drawn(request, data, stage):
    """A seed, the windows and the batch that it gives: they end with a latent step, or within one."""
    cut = request.param == "cut"
    seeds = (seed for seed in range(20) if (data.sampler(stage, seed).sample().valid.shape[1] % SKIP != 0) == cut)
    seed = next(seeds)
    batch = data.batch(data.sampler(stage, seed), stage, np.random.default_rng(0))
    return data.sampler(stage, seed).sample(), batch


def test_a_window_and_its_labels_are_those_of_its_place_in_the_trajectory(data, dataset, stage, drawn):
    windows, batch = drawn
    labels, interface = data.labels[0], dataset.interface
    steps, known = batch.valid.shape[1], windows.valid.shape[1] // SKIP
    assert stage.min_length <= steps <= stage.max_length and known >= steps - 1
    for b, (trajectory, start) in enumerate(zip(windows.trajectory, windows.start, strict=True)):
        recorded = dataset[int(trajectory)]
        at = start + SKIP * np.arange(steps)
        before = np.maximum(at - 1, start)  # what came between two latent steps
        np.testing.assert_array_equal(batch.images[0][b], recorded.images["overhead"][at])
        np.testing.assert_array_equal(batch.sensor[b], recorded.sensor[at])
        np.testing.assert_array_equal(batch.place[b], labels.place[trajectory][at])
        assert batch.elsewhere[b].shape == (steps, 0, labels.place[trajectory].shape[1] // 2, 2)  # there is one camera
        for t in range(known):  # a latent step's action is the mean over the control steps that it covers
            covered = interface.normalise_action(recorded.action[at[t] : at[t] + SKIP])
            np.testing.assert_allclose(batch.actions[b, t], covered.mean(0), atol=1e-6)
        for m in range(stage.instructions):
            (which,) = [c for c in range(3) if np.array_equal(labels.tokens[trajectory, c], batch.tokens[b, m])][:1]
            margin, violation = labels.margin[trajectory][which], labels.violation[trajectory][which]
            np.testing.assert_array_equal(batch.margin[b, m], np.maximum(margin[at], margin[before]))
            np.testing.assert_array_equal(batch.cost[b, m], labels.cost[trajectory][which][at])
            np.testing.assert_array_equal(batch.violation[b, m], np.maximum(violation[at], violation[before]))
            np.testing.assert_array_equal(batch.referents[b, m], labels.referents[trajectory, which])
            np.testing.assert_array_equal(batch.field[b, m], labels.field[trajectory, which].astype(np.float32))
            assert batch.expert[b, m] == labels.expert[trajectory, which]


def test_cameras_come_in_the_order_of_the_robot(config, two_cameras, domain, stage):
    data = LabelledData(two_cameras, config, domain, progress=False)
    overhead, front = data.batch(data.sampler(stage, 5), stage, np.random.default_rng(0)).images
    windows = data.sampler(stage, 5).sample()
    assert overhead.shape == front.shape and not torch.equal(overhead, front)
    for b, (which, trajectory, start) in enumerate(
        zip(windows.dataset, windows.trajectory, windows.start, strict=True)
    ):
        recorded = two_cameras[which][int(trajectory)]
        np.testing.assert_array_equal(overhead[b, 0], recorded.images["overhead"][start])
        np.testing.assert_array_equal(front[b, 0], recorded.images["front"][start])


def test_a_plan_is_the_actions_that_follow_and_are_whole_within_the_window(config, drawn):
    windows, batch = drawn
    known = windows.valid.shape[1] // SKIP
    for t in range(batch.valid.shape[1]):
        for k in range(config.model.horizon):
            assert (batch.plan_valid[:, t, k] == (t + k < known)).all()
            if t + k < known:
                assert torch.equal(batch.plan[:, t, k], batch.actions[:, t + k])


@pytest.mark.parametrize("from_start", [False, True])
@pytest.mark.parametrize("steps", [20, 21])
def test_what_an_episode_ends_with_is_learned(config, dataset, domain, tmp_path, stage, steps, from_start):
    """It may be the violation for which it ended: nothing came after it."""
    ended = []
    for trajectory in dataset:
        rows = {name: array[:steps] for name, array in trajectory.arrays().items() if name in ("sensor", "action")}
        rows["images"] = {name: image[:steps] for name, image in trajectory.images.items()}
        rows["violation"] = (np.arange(steps) == steps - 1).astype(np.int8)
        rows["valid"] = np.ones(steps, bool)
        ended.append(dataclasses.replace(trajectory, source="real", scene=None, state=None, **rows))
    DatasetWriter(tmp_path / "ended", dataset.interface).append(ended)
    data = LabelledData([Dataset.open(tmp_path / "ended")], config, domain, progress=False)
    most = {"max_length": -(-steps // SKIP), "from_start": from_start, "trajectories": 32}
    stage, rng = stage.model_copy(update=most), np.random.default_rng(0)
    sampler = data.sampler(stage, 0)
    assert any((data.batch(sampler, stage, rng).violation == 1).any() for _ in range(30))
    assert (data.whole(sampler, 0, 0, np.arange(1)).violation[0, 0] == 1).tolist()[-1]


def test_a_window_is_seen_under_several_instructions_drawn_without_repeats(data, config):
    stage = config.stages[2].model_copy(update={"instructions": 3})
    drawn = set()
    for seed in range(5):
        sampler = data.sampler(stage, seed)
        trajectories = data.sampler(stage, seed).sample().trajectory
        batch = data.batch(sampler, stage, np.random.default_rng(seed))
        for b, trajectory in enumerate(trajectories):
            mine = [tuple(row.tolist()) for row in batch.tokens[b]]
            assert sorted(mine) == sorted(tuple(row.tolist()) for row in data.labels[0].tokens[trajectory])
            drawn.add(mine.index(tuple(data.labels[0].tokens[trajectory, 0].tolist())))
    assert drawn == {0, 1, 2}  # the recorded one is not always first


def seeds(part):
    return [info.provenance["seed"] for info in part.trajectories]


def test_held_out_trajectories_are_never_trained_on_whatever_lies_beside_them(dataset):
    training, held_out = split(dataset, 0.4)
    assert len(training) > 1 and len(held_out) > 1
    assert sorted(seeds(training) + seeds(held_out)) == sorted(seeds(dataset))
    for left_out in range(len(dataset)):
        first, second = split(dataset.subset([i for i in range(len(dataset)) if i != left_out]), 0.4)
        assert set(seeds(first)) <= set(seeds(training)) and set(seeds(second)) <= set(seeds(held_out))
    assert set(seeds(split(dataset, 0.7)[1])) > set(seeds(held_out))
    assert len(split(dataset, 1e-9)[1]) == 1 and len(split(dataset, 1 - 1e-9)[0]) == 1  # never none, never all
    assert [len(part) for part in split(dataset.subset([0]), 1 - 1e-9)] == [1, 0]


def pieces(dataset, path, of):
    """``dataset`` again, each trajectory with its seed and what ``of`` its index tells as provenance."""
    made = [dataclasses.replace(t, provenance=t.provenance | of(index)) for index, t in enumerate(dataset)]
    DatasetWriter(path, dataset.interface).append(made)
    return Dataset.open(path)


CUT = {
    "a bag with events": lambda index: {"sha256": "b", "namespace": "/", "episode": f"{index // 2}", "scene_seed": 0},
    "bags without events": lambda index: {"sha256": f"{index // 2}", "episode": f"{index}", "scene_seed": None},
    "a LeRobotDataset": lambda index: {"lerobot_sha256": "l", "episode_index": index // 2},
    "a LeRobotDataset of a bag": lambda index: {
        **{"sha256": "b", "episode": f"{index // 2}", "scene_seed": 0},
        **{"lerobot_sha256": "l", "episode_index": index},
    },
}


@pytest.mark.parametrize("cut", CUT)
def test_pieces_of_an_episode_are_on_one_side_and_never_calibrate_what_was_trained_on_one(dataset, tmp_path, cut):
    cuts = pieces(dataset, tmp_path / "cut", CUT[cut])
    assert len({info.episode for info in cuts.trajectories}) == len(dataset) // 2
    for holdout in (0.1, 0.3, 0.5, 0.7, 0.9):
        training, held_out = ({seed // 2 for seed in seeds(part)} for part in split(cuts, holdout))
        assert training and held_out and not training & held_out
    first = next(info for info in cuts.trajectories if info.provenance["seed"] == 2)
    [left], repeated = unseen([cuts], {first.identity})
    assert sorted(seeds(left)) == [0, 1, 4, 5, 6, 7] and not repeated  # 3 is a piece of the same episode


def test_one_robot_s_episodes_are_not_another_s(dataset, tmp_path):
    two = pieces(dataset, tmp_path / "two", lambda index: {"sha256": "b", "namespace": f"/{index}", "episode": "1"})
    assert len({info.episode for info in two.trajectories}) == len(dataset)


def test_one_recording_alone_is_measured_by_its_pieces_and_calibrates_nothing(dataset, tmp_path):
    of = {"sha256": "b", "scene_seed": None}
    alone = pieces(dataset, tmp_path / "alone", lambda index: {"episode": f"{index}", **of})
    training, held_out = split(alone, 0.4)
    assert [seeds(part) for part in (training, held_out)] == [seeds(part) for part in split(dataset, 0.4)]
    assert not len(unseen([alone], {training.trajectories[0].identity})[0][0])


def test_episodes_of_one_trajectory_are_held_out_as_that_trajectory_is(dataset, tmp_path):
    whole = pieces(dataset, tmp_path / "whole", lambda index: {"sha256": "b", "episode": f"{index}", "scene_seed": 0})
    identities = sorted(info.identity for info in dataset.trajectories)
    for holdout in (0.1, 0.4, 0.8):
        held = min(max(sum(int(x[:13], 16) < holdout * 16**13 for x in identities), 1), len(identities) - 1)
        for each in (dataset, whole):
            training, held_out = split(each, holdout)
            assert [info.identity for info in held_out.trajectories] == identities[:held]
            assert [info.identity for info in training.trajectories] == identities[held:]


def test_the_split_is_the_same_however_the_trajectories_were_written(dataset, tmp_path):
    whole = [dataset[index] for index in range(len(dataset))]
    DatasetWriter(tmp_path / "one", dataset.interface).append(whole)
    for trajectory in reversed(whole):
        DatasetWriter(tmp_path / "many", dataset.interface).append([trajectory])
    one, many = (split(Dataset.open(tmp_path / name), 0.4) for name in ("one", "many"))
    assert list(map(seeds, one)) == list(map(seeds, many))


def test_episodes_of_one_layout_are_on_one_side_and_never_calibrate_what_was_trained_on_one(dataset, tmp_path):
    """Another driver over the same seeds, in a dataset of its own; a layout that is there once stays where it was."""
    others = [dataclasses.replace(dataset[index], instruction="drive to the red pad") for index in range(1, 6)]
    DatasetWriter(tmp_path / "others", dataset.interface).append(others)
    other = Dataset.open(tmp_path / "others")
    again = set(seeds(other))

    def held_out(part, holdout) -> set[int]:
        found = set()
        for info in part.trajectories:
            place = info.group if info.provenance["seed"] in again else info.identity
            if int(place[:13], 16) < holdout * 16**13:
                found.add(info.provenance["seed"])
        return found

    tried = 0
    for holdout in np.linspace(0.1, 0.9, 17):
        for part in (dataset, other):
            training, held = (set(seeds(side)) for side in split(part, holdout, [dataset, other]))
            assert training | held == set(seeds(part)) and not training & held
            if 0 < len(expected := held_out(part, holdout)) < len(part):  # else one is moved: never none, never all
                assert held == expected
                tried += 1
    assert tried > 10
    assert [seeds(part) for part in split(dataset, 0.4, [dataset])] == [seeds(part) for part in split(dataset, 0.4)]
    both = Dataset.open(*dataset.paths, *other.paths)
    for holdout in (0.3, 0.6):
        training, held = split(both, holdout)
        assert not set(seeds(training)) & set(seeds(held))
    [seen] = [info for info in dataset.trajectories if info.provenance["seed"] == min(again)]
    (left, right), _ = unseen([dataset, other], {seen.identity})
    assert min(again) not in {*seeds(left), *seeds(right)} and len(left) == len(dataset) - 1


def test_one_layout_alone_is_held_out_by_its_episodes(dataset, tmp_path):
    same = pieces(dataset, tmp_path / "same", lambda index: {"seed": 0})
    training, held_out = split(same, 0.4)
    assert [len(part) for part in (training, held_out)] == [len(part) for part in split(dataset, 0.4)]
    assert not len(unseen([same], {training.trajectories[0].identity})[0][0])


def test_a_trajectory_that_is_given_twice_calibrates_once(dataset, tmp_path):
    again = [dataset[0], *(dataset[index] for index in range(2, 5))]
    DatasetWriter(tmp_path / "again", dataset.interface).append(again)
    DatasetWriter(tmp_path / "again", dataset.interface).append(again[:1])
    overlapping = Dataset.open(tmp_path / "again")
    trained_on = {dataset.trajectories[2].identity}
    (first, second), repeated = unseen([dataset.subset([0, 1, 2, 3]), overlapping], trained_on)
    assert sorted(seeds(first)) == [0, 1, 3] and seeds(second) == [4]
    assert repeated == 3  # 0 twice more and 3 once; 2 was trained on
    assert unseen([dataset], ())[1] == 0


@pytest.mark.parametrize(("between", "expected"), [([0, 1], 1), ([1, 0], 1), ([-1, 0], -1), ([-1, 1], 1), ([0, 0], 0)])
def test_a_rule_broken_between_two_latent_steps_is_broken(data, stage, between, expected):
    count = len(data.labels[0].texts[0])
    lengths = [labels.shape[1] for labels in data.labels[0].violation]
    repeated = [np.resize(np.array(between, np.int8), length) for length in lengths]
    changed = dataclasses.replace(
        data.labels[0],
        violation=[np.broadcast_to(row, (count, len(row))) for row in repeated],
        margin=[np.broadcast_to(np.where(row < 0, np.nan, row - 0.5), (count, len(row))) for row in repeated],
    )
    other = data.under(data.config)
    other.labels = [changed]
    batch = other.batch(other.sampler(stage, 5), stage, np.random.default_rng(0))
    assert (batch.violation[..., 1:] == expected).all()
    margin = batch.margin[..., 1:]
    assert margin.isnan().all() if -1 in between else (margin == expected - 0.5).all()


def test_shares_of_a_batch_are_its_rows(data, stage):
    def batch(rows):
        return data.batch(data.sampler(stage, 7), stage, np.random.default_rng(3), rows)

    whole = batch(slice(None))
    for rows in (slice(0, 2), slice(2, 4)):
        equal(batch(rows), whole.rows(rows))


def test_simulated_and_real_trajectories_mix_by_weight(dataset, real, config, domain, stage):
    weights = config.data.model_copy(update={"simulated_weight": 1.0, "real_weight": 3.0})
    assert source_weights([dataset, real], weights) == pytest.approx([1.0, 3.0])
    shares = source_weights([dataset, real, real], weights)
    assert shares[0] == pytest.approx(1.0) and shares[1] == pytest.approx(shares[2]) == pytest.approx(1.5)

    mixed = LabelledData([dataset, real], config.model_copy(update={"data": weights}), domain, progress=False)
    sampler, judged, count = mixed.sampler(stage, 0), 0, 0
    for seed in range(20):
        batch = mixed.batch(sampler, stage, np.random.default_rng(seed))
        known = batch.cost.isfinite().all(-1)
        assert torch.equal(known, batch.field.isfinite().flatten(2).all(-1))
        assert torch.equal(known[:, 0], batch.place.isfinite().flatten(1).all(-1))
        judged, count = judged + int(known[:, 0].sum()), count + len(known)
    assert judged / count == pytest.approx(0.25, abs=0.15)


def test_prefetched_batches_go_on_where_the_samplers_state_was_taken(data, stage):
    def take(sampler, first, count):
        batches = prefetch(data, sampler, stage, seed=1, first=first)
        taken = [next(batches) for _ in range(count)]
        batches.close()
        return taken

    whole = take(data.sampler(stage, 2), 0, 5)
    resumed = data.sampler(stage, 99)
    resumed.load_state_dict(whole[1][1])
    for (batch, state), (again, state_again) in zip(whole[2:], take(resumed, 2, 3), strict=True):
        equal(batch, again)
        assert state == state_again


def test_an_error_while_reading_is_raised_where_the_batch_is_wanted(data, stage):
    class Broken:
        batch = 4

        def sample(self, rows):
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        next(prefetch(data, Broken(), stage, seed=1, first=0))
