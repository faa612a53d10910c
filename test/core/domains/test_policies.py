"""A policy from elsewhere in the evaluation: alone, screened, and refused where it proposes no candidates."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tc_mmwm_core.cli import main
from tc_mmwm_core.data.dataset import Dataset
from tc_mmwm_core.domains.policies import PolicyError, load_policy, proposals
from tc_mmwm_core.evaluation.suite import Contestant, EvaluationError, Suite, jobs

POLICIES = '''
import numpy as np


class Straight:
    """Full speed ahead, for as many latent steps as it is told."""

    def __init__(self, horizon, speed=0.6):
        self.horizon, self.speed, self.begun = horizon, speed, 0

    def reset(self):
        self.begun += 1

    def propose(self, observation, instruction):
        assert observation["image.overhead"].dtype == np.uint8 and observation["sensor"].shape == (31,) and instruction
        assert self.begun
        return np.tile([self.speed, 0.0], (3, self.horizon, 1))


def make():
    return Straight(5)


def short():
    return Straight(4)


def lost():
    return Straight(5, np.nan)


def nothing():
    return object()


def kind():
    return Straight
'''


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "straight_policy.py").write_text(POLICIES)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("straight_policy", None)


def evaluate(*arguments: str) -> int:
    return main(["evaluate", "--episodes", "1", "--probes", "0", "--open-loop", "0", "--quiet", *arguments])


def test_it_drives_alone_and_is_screened(tmp_path):
    assert evaluate("--driver", "straight_policy:make", "--json", str(tmp_path / "alone.json")) == 0
    alone = json.loads((tmp_path / "alone.json").read_text())
    assert alone["driver"]["kind"] == "straight_policy:make" and "other_policy_followed" not in alone["cost"]
    few = "--candidates", "16"
    assert evaluate("--screen", "straight_policy:make", *few, "--json", str(tmp_path / "screened.json")) == 0
    screened = json.loads((tmp_path / "screened.json").read_text())
    assert screened["driver"]["screens"] == "straight_policy:make" and screened["cost"]["other_policy_followed"] > 0


def test_it_is_perturbed_where_a_bundle_tells_how_strong_sensor_noise_is(tmp_path, capsys):
    command = ["--driver", "straight_policy:make", "--perturbed-episodes", "1", "--output", str(tmp_path / "e")]
    assert evaluate(*command) == 0
    content = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert list(content["episodes"]) == ["in_distribution", "occlusion", "sensor_noise", "action_noise"]
    assert "robustness_drop" in content["measures"]
    suite = Suite(episodes=1, perturbed_episodes=1)
    with pytest.raises(EvaluationError, match="driver 'straight_policy:make' comes without a bundle of navigation"):
        jobs(Contestant("navigation", "straight_policy:make"), suite)
    (tmp_path / "own.py").write_text(
        "from tc_mmwm_core.domains.base import load_domain\n"
        "def make():\n"
        "    domain = load_domain('navigation')\n"
        "    return type('Own', (type(domain),), {'name': 'own'})()\n"
    )
    assert evaluate("--domain", "own:make", "--driver", "straight_policy:make", "--perturbed-episodes", "1") == 2
    told = capsys.readouterr().err
    assert "--bundle is missing (it tells how strong the sensor noise of --perturbed-episodes is), and none of" in told


def test_what_it_proposes_is_checked(capsys):
    assert evaluate("--screen", "straight_policy:short", "--candidates", "16") == 2
    message = "policy 'straight_policy:short' proposes [3, 4, 2], needed are [N, 5, 2]: N candidates of K steps"
    assert message in capsys.readouterr().err
    any_horizon = proposals(load_policy("straight_policy:short"), "short", actions=2)
    observation = {"image.overhead": np.zeros((64, 64, 3), np.uint8), "sensor": np.zeros(31, np.float32)}
    assert any_horizon(observation, {"instruction": "go"}).shape == (3, 4, 2)
    with pytest.raises(PolicyError, match="policy 'lost' proposes values that are not finite"):
        proposals(load_policy("straight_policy:lost"), "lost", actions=2)(observation, {"instruction": "go"})
    with pytest.raises(PolicyError, match=r"proposes \[3, 4, 2\], needed are \[N, K, 3\]"):
        proposals(load_policy("straight_policy:short"), "short", actions=3)(observation, {"instruction": "go"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere:make", "policy 'nowhere:make' cannot be loaded: No module named 'nowhere'"),
        (
            "straight_policy:mak",
            "'straight_policy:mak' cannot be loaded: module 'straight_policy' has no attribute 'mak'",
        ),
        ("straight_policy:kind", "'straight_policy:kind' returns the class Straight; an instance is needed"),
        ("straight_policy:nothing", "'straight_policy:nothing' is of type object, without reset and propose"),
    ],
)
def test_what_is_no_policy_is_named(name, message):
    with pytest.raises(PolicyError, match=message):
        load_policy(name)


def test_a_policy_that_cannot_be_loaded_is_told_before_anything_is_driven():
    suite = Suite(episodes=1)
    with pytest.raises(PolicyError, match="'nowhere:make' cannot be loaded"):
        jobs(Contestant("navigation", "nowhere:make"), suite)
    with pytest.raises(PolicyError, match="has no attribute 'mak'"):
        jobs(Contestant("navigation", screens="straight_policy:mak"), suite)


def test_the_learned_policy_of_the_page_learns_and_drives(repo_root, tmp_path, monkeypatch):
    data, weights = tmp_path / "heedless", tmp_path / "weights.pt"
    collect = ["collect", "--driver", "heedless", "--episodes", "6", "--seed", "850000"]
    assert main([*collect, "--output", str(data)]) == 0
    script = repo_root / "docs" / "pixel_policy.py"
    subprocess.run([sys.executable, script, data, "--output", weights, "--steps", "60"], check=True, timeout=300)
    monkeypatch.setenv("PIXEL_POLICY", str(weights))
    monkeypatch.syspath_prepend(script.parent)
    policy, dataset = load_policy("pixel_policy:make"), Dataset.open(data)
    ahead = np.arange(0, 10, 2)
    errors = []
    for trajectory in (dataset[i] for i in range(len(dataset))):
        mean = trajectory.action.mean(0)
        for t in range(0, len(trajectory) - 10, 5):
            seen = {"image.overhead": trajectory.images["overhead"][t], "sensor": trajectory.sensor[t]}
            told, true = policy.propose(seen, trajectory.instruction), trajectory.action[t + ahead]
            assert told.shape == (1, 5, 2)
            errors.append([np.abs(told[0] - true).mean(), np.abs(mean - true).mean()])
    learned, constant = np.mean(errors, 0)
    assert learned < 0.7 * constant
    assert evaluate("--driver", "pixel_policy:make") == 0
