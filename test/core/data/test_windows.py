"""Windows never cross a gap or an end, are fair, mix by weight, resume bit for bit, and come fast."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from trajectories import make_trajectory

from tc_mmwm_core.data.dataset import Dataset, DatasetError, DatasetWriter
from tc_mmwm_core.data.windows import WindowSampler


@pytest.fixture(scope="module")
def dataset(navigation, tmp_path_factory) -> Dataset:
    path = tmp_path_factory.mktemp("dataset")
    gap = np.ones(40, bool)
    gap[[15, 16, 30]] = False  # runs of 15, 13 and 9 steps
    writer = DatasetWriter(path, navigation)
    writer.append([make_trajectory(navigation, 0, 20), make_trajectory(navigation, 1, 40, gap)])
    writer.append([make_trajectory(navigation, 2, 8), make_trajectory(navigation, 3, 11)])
    return Dataset.open(path)


def test_windows_lie_within_runs_of_valid_steps(dataset):
    sampler = WindowSampler([dataset], batch=64, length=(10, 12))
    lengths, trajectories, starts = set(), set(), set()
    for _ in range(60):
        windows = sampler.sample()
        size = windows.action.shape[1]
        lengths.add(size)
        trajectories |= set(windows.trajectory.tolist())
        starts |= {
            start for trajectory, start in zip(windows.trajectory, windows.start, strict=True) if trajectory == 1
        }
        assert windows.valid.all() and windows.images["overhead"].shape == (64, size, 64, 64, 3)
        np.testing.assert_array_equal(windows.sensor[:, :, 0], windows.start[:, None] + np.arange(size))
        np.testing.assert_array_equal(windows.sensor[:, 0, 1], windows.trajectory)
        expected = dataset[int(windows.trajectory[5])]
        stretch = slice(int(windows.start[5]), int(windows.start[5]) + size)
        np.testing.assert_array_equal(windows.images["overhead"][5], expected.images["overhead"][stretch])
        np.testing.assert_array_equal(windows.action[5], expected.action[stretch])
        np.testing.assert_array_equal(windows.state[5], expected.state[stretch])
        np.testing.assert_array_equal(windows.violation[5], expected.violation[stretch])
    assert lengths == {10, 11, 12}
    assert trajectories == {0, 1, 3}  # 2 is shorter than any window
    assert starts == {0, 1, 2, 3, 4, 5, 17, 18, 19, 20}


def test_every_window_is_equally_likely(dataset):
    sampler = WindowSampler([dataset], batch=2000, length=(10, 10))
    windows = sampler.sample()
    _, counts = np.unique(windows.trajectory * 1000 + windows.start, return_counts=True)
    assert len(counts) == 11 + 6 + 4 + 2
    assert abs(counts - 2000 / 23).max() < 5 * np.sqrt(2000 / 23)


def test_windows_from_the_start_begin_where_a_run_does_each_that_is_long_enough_equally_likely(dataset):
    windows = WindowSampler([dataset], batch=2000, length=(10, 10), from_start=1).sample()
    begun, counts = np.unique(windows.trajectory * 1000 + windows.start, return_counts=True)
    assert begun.tolist() == [0, 1000, 1017, 3000]
    assert abs(counts - 2000 / 4).max() < 5 * np.sqrt(2000 / 4)
    windows = WindowSampler([dataset], batch=2000, length=(10, 10), from_start=3).sample()
    begun = np.unique(windows.trajectory * 1000 + windows.start).tolist()
    assert begun == [0, 1, 2, 1000, 1001, 1002, 1017, 1018, 1019, 3000, 3001]  # 3 has 11 steps


def test_datasets_mix_by_weight(dataset, navigation, tmp_path):
    real = make_trajectory(navigation, 7, 25)
    real.source, real.state = "real", None
    DatasetWriter(tmp_path, navigation).append([real])
    sampler = WindowSampler([dataset, Dataset.open(tmp_path)], batch=4000, length=(10, 10), weights=[3, 1])
    windows = sampler.sample()
    assert np.mean(windows.dataset == 1) == pytest.approx(0.25, abs=0.03)
    assert (
        np.isnan(windows.state[windows.dataset == 1]).all() and np.isfinite(windows.state[windows.dataset == 0]).all()
    )


@pytest.fixture(scope="module")
def longer(navigation, tmp_path_factory) -> Dataset:
    path = tmp_path_factory.mktemp("longer")
    DatasetWriter(path, navigation).append([make_trajectory(navigation, 8, 50), make_trajectory(navigation, 9, 26)])
    return Dataset.open(path)


def test_windows_longer_than_a_dataset_can_give_are_drawn_from_the_others(dataset, longer):
    middle = longer.subset([1])
    sampler = WindowSampler([dataset, longer, middle], batch=500, length=(10, 60), weights=[2, 1, 1])
    assert sampler.length == (10, 50)
    shares = {}
    for _ in range(200):
        windows = sampler.sample()
        assert windows.valid.all()
        shares.setdefault(windows.action.shape[1], np.bincount(windows.dataset, minlength=3) / 500)
    for size, expected in ((20, [0.5, 0.25, 0.25]), (26, [0, 0.5, 0.5]), (27, [0, 1, 0]), (50, [0, 1, 0])):
        np.testing.assert_allclose(shares[size], expected, atol=0.06)


def test_windows_that_every_dataset_can_give_are_drawn_as_ever(dataset, longer):
    """Runs that were begun go on with the same windows. Shares that are divided again would differ in a last bit."""
    weights = [0.3, 0.1, 0.7]
    sampler = WindowSampler([dataset, longer, dataset], batch=50, length=(10, 20), weights=weights, seed=3)
    rng = np.random.default_rng(3)
    for _ in range(5):
        rng.integers(10, 21)
        expected = rng.choice(3, 50, p=np.array(weights) / np.sum(weights))
        rng.random(50)
        np.testing.assert_array_equal(sampler.sample().dataset, expected)


def test_a_dataset_without_a_share_lends_no_length(dataset, longer):
    assert WindowSampler([dataset, longer], length=(10, 60), weights=[1, 0]).length == (10, 20)


def test_longest_window_is_the_longest_run_of_any_dataset(dataset):
    assert WindowSampler([dataset], length=(10, 30)).length == (10, 20)
    with pytest.raises(DatasetError, match="longest run of valid steps is 20, windows need 21"):
        WindowSampler([dataset], length=(21, 30))
    with pytest.raises(ValueError, match="shortest"):
        WindowSampler([dataset], length=(30, 10))
    with pytest.raises(ValueError, match="one for each of 1 datasets"):
        WindowSampler([dataset], weights=[1, 2])


def test_resumes_bit_for_bit(dataset):
    unbroken, broken = (WindowSampler([dataset], batch=8, seed=5) for _ in range(2))
    for _ in range(3):
        unbroken.sample()
        broken.sample()
    saved = json.loads(json.dumps(broken.state_dict()))
    resumed = WindowSampler([dataset], batch=8, seed=99)
    resumed.load_state_dict(saved)
    for _ in range(5):
        ours, theirs = unbroken.sample(), resumed.sample()
        np.testing.assert_array_equal(ours.images["overhead"], theirs.images["overhead"])
        np.testing.assert_array_equal(ours.start, theirs.start)


def test_windows_come_faster_than_training_eats_them(dataset):
    sampler = WindowSampler([dataset], batch=32, length=(10, 20))
    begin = time.perf_counter()
    for _ in range(50):
        sampler.sample()
    rate = 50 * 32 / (time.perf_counter() - begin)
    print(f"{rate:.0f} windows/s")
    assert rate > 2000
