"""What thresholds are calibrated on: scores and verdicts of recorded sequences, by a model and by its bundle."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tc_mmwm_core.data.dataset import Dataset, DatasetWriter
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.domains.collect import collect
from tc_mmwm_core.evaluation.proofs.bundle_scores import bundle_scores
from tc_mmwm_core.models.world_model import ModelConfig
from tc_mmwm_core.resources import robot_file
from tc_mmwm_core.runtime.screener import Screener
from tc_mmwm_core.training.calibration import CalibrationError, calibrate
from tc_mmwm_core.training.config import DataConfig, StageConfig, TrainConfig
from tc_mmwm_core.training.data import LabelledData
from tc_mmwm_core.training.export import Thresholds, export_bundle
from tc_mmwm_core.training.held_out import sequence_scores
from tc_mmwm_core.training.model import build_model
from tc_mmwm_core.training.validation import area_under_curve

HORIZON, SKIP, EPISODES = 3, 2, 8
CONFIG = TrainConfig(
    data=DataConfig(domain="navigation", instructions=4),
    model=ModelConfig(
        latent=16, width=16, hidden=32, slots=3, slot_width=4, field_channels=2, word_dimensions=16, horizon=HORIZON
    ),
    stages=(StageConfig(name="full", epochs=1, min_length=2, max_length=2),),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors so small are quicker so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    path = tmp_path_factory.mktemp("held_out") / "data"
    collect("navigation", robot_file("navigation.yaml"), path, EPISODES, 40, seed=0, workers=1, progress=False)
    return Dataset.open(path)


@pytest.fixture(scope="module")
def data(dataset) -> LabelledData:
    return LabelledData([dataset], CONFIG, load_domain("navigation"), progress=False)


class Oracle:
    """In a model's place: its latent is (control step, trajectory), its context the instruction, v the true margin.

    v of a latent step is the greatest margin of the control steps that it covers. The sensor vector holds the latent.
    """

    config = SimpleNamespace(frame_skip=SKIP, horizon=HORIZON)

    def __init__(self, data: LabelledData) -> None:
        [self.labels] = data.labels
        self.texts: dict[tuple[int, ...], int] = {}

    def eval(self) -> None:
        """There is nothing to switch."""

    def instruct(self, tokens, mask):
        which = [
            self.texts.setdefault(tuple(t[m].tolist()), len(self.texts)) for t, m in zip(tokens, mask, strict=True)
        ]
        return tokens[..., None].float(), torch.tensor(which).float()[:, None]

    def encode(self, images, sensor):
        latent = sensor[..., :2]
        nothing = {"features": latent[..., None], "told": latent[..., :0], "visible": None, "keypoints": None}
        return SimpleNamespace(z_v=latent, z_s=latent, **nothing)

    def compose(self, z_v, z_l, z_s):
        return z_s, z_s

    def ground(self, features, words, mask, z_l, told, field):
        return z_l

    def goal(self, context):
        return -context[..., 0]

    def rollout(self, z, actions):
        return torch.stack([z + torch.tensor([k * SKIP, 0.0]) for k in range(1, HORIZON + 1)], -2)

    def judge(self, z, context, action):
        v = torch.empty(z.shape[:-1])
        for row, sequence in enumerate(z.long().tolist()):
            for k, (until, owner) in enumerate(sequence):
                places = zip(self.labels.tokens[owner], self.labels.mask[owner], strict=True)
                known = [self.texts.get(tuple(t[m].tolist())) for t, m in places]
                margin = self.labels.margin[owner][known.index(int(context[row, 0]))]
                v[row, k] = float(margin[until - SKIP + 1 : until + 1].max())
        return v, v


def test_a_model_that_knows_the_truth_is_scored_as_perfect_and_verdicts_are_the_oracle_s(data, tmp_path):
    [dataset] = data.datasets
    told = []
    for owner in range(len(dataset)):
        trajectory = dataset[owner]
        sensor = np.zeros_like(trajectory.sensor)
        sensor[:, 0], sensor[:, 1] = np.arange(len(sensor)), owner
        valid = np.arange(len(sensor)) >= (owner if owner < EPISODES - 1 else len(sensor) - 1)  # the last: one step
        told.append(replace(trajectory, sensor=sensor, valid=valid))
    DatasetWriter(tmp_path / "told", dataset.interface).append(told)
    known = LabelledData([Dataset.open(tmp_path / "told")], CONFIG, load_domain("navigation"), progress=False)
    found = sequence_scores(Oracle(known), known, stride=1, progress=False)

    expected = []
    for owner in range(len(dataset)):
        first = owner if owner < EPISODES - 1 else len(dataset[owner])
        first += (len(dataset[owner]) - first - 1) % SKIP  # so that the last control step is a latent one
        for start in range(first, len(dataset[owner]) - HORIZON * SKIP, SKIP):
            for text, margin in zip(known.labels[0].texts[owner], known.labels[0].margin[owner], strict=True):
                if margin[start] <= 0:
                    ahead = [margin[start + after] for after in range(1, HORIZON * SKIP + 1)]
                    expected.append((owner, text, any(value > 0 for value in ahead), max(ahead)))
    goals = set(zip(found.goal.tolist(), found.instruction.tolist(), strict=True))
    assert len(goals) == len(set(found.instruction.tolist())), "each of its own instruction"
    owners, texts, violating, scores = map(np.array, zip(*expected, strict=True))
    np.testing.assert_array_equal(found.trajectory, owners)
    np.testing.assert_array_equal(found.instruction, texts)
    np.testing.assert_array_equal(found.violating, violating)
    np.testing.assert_allclose(found.score, scores, atol=1e-6)
    assert 20 < violating.sum() < len(violating) - 20
    assert area_under_curve(found.score, found.violating) == 1
    np.testing.assert_array_equal(found.violations[0], found.score[violating])


def recorded(dataset: Dataset, path, pieces: int = 1) -> LabelledData:
    """As a robot's recordings: no scene, no state; one sequence each, which breaks its rule at its last step alone."""
    steps, real = HORIZON * SKIP + 1, []
    for index, trajectory in enumerate(dataset):
        rows = {
            name: array[:steps] for name, array in trajectory.arrays().items() if name in ("sensor", "action", "valid")
        }
        rows["images"] = {name: image[:steps] for name, image in trajectory.images.items()}
        rows["violation"] = (np.arange(steps) == steps - 1).astype(np.int8)
        of = {"sha256": "of a bag", "episode": str(index // pieces), "scene_seed": 0}
        real.append(replace(trajectory, source="real", scene=None, state=None, provenance=of, **rows))
    DatasetWriter(path, dataset.interface).append(real)
    return LabelledData([Dataset.open(path)], CONFIG, load_domain("navigation"), progress=False)


def test_a_recording_that_no_oracle_judges_counts_once_whatever_the_number_of_instructions(dataset, tmp_path):
    torch.manual_seed(0)
    data = recorded(dataset, tmp_path / "real")
    assert data.config.data.instructions == 4 and len(data.labels[0].texts[0]) == 4
    found = sequence_scores(build_model(CONFIG, dataset.interface), data, progress=False)
    np.testing.assert_array_equal(found.trajectory, np.arange(EPISODES))
    assert found.violating.all() and calibrate(*found.violations, 0.5, 0.1).method == "binomial"


def test_all_that_an_oracle_judged_counts_even_a_text_that_it_drew_twice(data):
    [labels] = data.labels
    assert all(labels.counted(index).tolist() == [0, 1, 2, 3] for index in range(EPISODES))
    texts = [[own[0], own[1], own[1], own[1]] for own in labels.texts]
    unjudged = [np.where([[True], [True], [True], [False]], margin, np.nan) for margin in labels.margin]
    assert replace(labels, texts=texts).counted(0).tolist() == [0, 1, 2, 3]
    assert replace(labels, texts=texts, margin=unjudged).counted(0).tolist() == [0, 1, 2]


def test_pieces_of_an_episode_are_one_trajectory_of_a_bound(dataset, tmp_path):
    data = recorded(dataset, tmp_path / "real", pieces=4)
    found = sequence_scores(build_model(CONFIG, dataset.interface), data, progress=False)
    assert sorted(found.trajectory.tolist()) == [0] * 4 + [1] * 4
    bound = calibrate(*found.violations, 0.5, 0.5)
    assert (bound.n, bound.sequences, bound.method) == (2, EPISODES, "betting")


def test_trajectories_that_are_all_too_short_are_named_as_that(dataset, tmp_path):
    short = [replace(t, valid=np.arange(len(t)) < HORIZON * SKIP) for t in dataset]
    DatasetWriter(tmp_path / "short", dataset.interface).append(short)
    data = LabelledData([Dataset.open(tmp_path / "short")], CONFIG, load_domain("navigation"), progress=False)
    told = (
        "none of 8 held-out trajectories is long enough: a sequence takes 7 valid steps without a gap, the longest.* 6"
    )
    with pytest.raises(CalibrationError, match=told):
        sequence_scores(build_model(CONFIG, dataset.interface), data, progress=False)


def test_a_bundle_scores_what_its_model_does_memory_included(dataset, tmp_path):
    dataset = dataset.subset(range(3))
    data = LabelledData([dataset], CONFIG, load_domain("navigation"), progress=False)
    torch.manual_seed(0)
    model = build_model(CONFIG, dataset.interface)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
        model.memory.seen[-1].bias.fill_(-1.0)  # much is remembered
    bundle = export_bundle(model, dataset.interface, CONFIG, tmp_path / "tiny", "tiny", Thresholds(0.0))
    screener, [labels] = Screener(bundle), data.labels
    found = bundle_scores(screener, dataset, labels, stride=2, complying_share=1.0, progress=False)
    expected = sequence_scores(model, data, stride=2, progress=False)
    for name in ("violating", "trajectory", "instruction"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-4)
    np.testing.assert_allclose(found.goal, expected.goal, atol=1e-4)
    assert expected.goal.std() > 0
    assert len(found.score) > 50 and found.score.std() > 0.01
    few = bundle_scores(screener, dataset, labels, stride=2, complying_share=0.2, progress=False)
    np.testing.assert_array_equal(few.violations[0], found.violations[0])
    assert 0.5 * len(found.score) > len(few.score) > len(few.violations[0])


def test_a_bundle_is_scored_on_recordings_as_its_model_is(dataset, tmp_path):
    """Each once, pieces of an episode as one; and where there is nothing to score, that is said."""
    torch.manual_seed(0)
    model = build_model(CONFIG, dataset.interface)
    bundle = export_bundle(model, dataset.interface, CONFIG, tmp_path / "tiny", "tiny", Thresholds(0.0))
    data = recorded(dataset, tmp_path / "real", pieces=4)
    expected = sequence_scores(model, data, progress=False)
    found = bundle_scores(Screener(bundle), data.datasets[0], data.labels[0], progress=False)
    assert len(found.score) == EPISODES
    np.testing.assert_array_equal(found.trajectory, expected.trajectory)
    np.testing.assert_allclose(found.score, expected.score, atol=1e-4)
    with pytest.raises(CalibrationError, match="none of 0 trajectories gives a sequence of 7 valid steps"):
        bundle_scores(Screener(bundle), dataset.subset([]), data.labels[0], progress=False)
