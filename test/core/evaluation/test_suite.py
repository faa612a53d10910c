"""Putting real drivers through a small suite in the real simulator."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from tc_mmwm_core.cli import main
from tc_mmwm_core.domains.base import load_domain
from tc_mmwm_core.evaluation import suite as suites
from tc_mmwm_core.evaluation.journal import JournalError
from tc_mmwm_core.evaluation.measures import cost
from tc_mmwm_core.evaluation.suite import HOME, Contestant, EvaluationError, Suite, conditions, evaluate
from tc_mmwm_core.runtime.bundle import Bundle
from tc_mmwm_core.runtime.planner import PlannerConfig
from tc_mmwm_core.runtime.proposals import ProposalConfig

EXPERT = Contestant("navigation", "expert")
NIMBLE = PlannerConfig(proposals=ProposalConfig(candidates=16))


@pytest.fixture
def planner(share) -> Contestant:
    """The shipped bundle, deciding on few candidates: quick, if not good."""
    return Contestant("navigation", bundle=share / "bundles" / "navigation", planner=NIMBLE)


def timeless(episodes) -> list[tuple]:
    return [(e.seed, e.instruction, e.steps, e.success, e.violations, e.distance, e.named) for e in episodes]


def test_conditions_are_home_each_factor_alone_and_each_perturbation(planner):
    domain = load_domain("navigation")
    asked = Suite(episodes=3, factor_episodes=2, perturbed_episodes=1, factors=("size", "light"))
    found = [(c.name, c.episodes, c.factors, c.perturbation) for c in conditions(asked, domain, planner)]
    assert found[:3] == [(HOME, 3, (), None), ("size", 2, ("size",), None), ("light", 2, ("light",), None)]
    assert [row[3] for row in found[3:]] == ["occlusion", "sensor_noise", "action_noise"]
    assert len(conditions(asked, domain, EXPERT)) == 3
    with pytest.raises(EvaluationError, match="factor weather: navigation has wording"):
        conditions(Suite(factors=("weather",)), domain, EXPERT)


def test_the_expert_succeeds_and_chance_does_not():
    asked = Suite(episodes=2, probes=0)
    expert = evaluate(EXPERT, asked, progress=False).episodes[HOME]
    chance = evaluate(Contestant("navigation", "random"), asked, progress=False).episodes[HOME]
    assert all(e.success and not e.broken and e.distance > 0 for e in expert)
    assert not all(e.success for e in chance)
    assert [e.instruction for e in expert] == [e.instruction for e in chance]
    assert any(e.named for e in expert)


def test_factors_change_the_episode_and_are_driven_too():
    asked = Suite(episodes=1, factor_episodes=1, factors=("composition", "size"), probes=0)
    found = evaluate(EXPERT, asked, progress=False).episodes
    assert list(found) == [HOME, "composition", "size"]
    assert found["composition"][0].instruction != found[HOME][0].instruction


def test_what_is_done_is_not_done_again_by_whatever_number_of_workers(tmp_path, monkeypatch):
    log = tmp_path / "episodes.jsonl"
    first = evaluate(EXPERT, Suite(episodes=2, probes=0), log, progress=False)
    more = evaluate(EXPERT, Suite(episodes=4, probes=0), log, workers=2, progress=False)
    assert timeless(more.episodes[HOME])[:2] == timeless(first.episodes[HOME])
    assert len(log.read_text().splitlines()) == 1 + 4
    monkeypatch.setattr(suites, "Bench", None)  # nothing is driven any more
    again = evaluate(EXPERT, Suite(episodes=4, probes=0), log, progress=False)
    assert again == more
    with pytest.raises(JournalError, match="driver was expert, is wanderer"):
        evaluate(Contestant("navigation", "wanderer"), Suite(episodes=4, probes=0), log, progress=False)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_evaluation_that_is_interrupted_or_killed_takes_its_workers_along(tmp_path, how, code):
    """Ctrl-C reaches the whole group of processes, a kill the first alone."""
    log = tmp_path / "episodes.jsonl"
    command = [sys.executable, "-m", "tc_mmwm_core", "evaluate", "--driver", "expert", "--episodes", "2000"]
    command += ["--workers", "2", "--output", str(tmp_path)]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text().count("\n") > 2) and time.monotonic() < deadline:
            time.sleep(0.05)
        (os.killpg if how == signal.SIGINT else os.kill)(process.pid, how)
        _, errors = process.communicate(timeout=30)  # the pipe closes when the last of the processes has ended
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == code and b"Traceback" not in errors


def test_what_keeps_a_driver_from_starting_is_told_alike_by_any_number_of_workers(tmp_path, capsys, monkeypatch):
    (tmp_path / "no_policy.py").write_text("def make():\n    return 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    command = ["evaluate", "--driver", "no_policy:make", "--episodes", "3", "--quiet", "--workers"]
    assert [main([*command, workers]) for workers in ("1", "2")] == [2, 2]
    alone, shared = capsys.readouterr().err.splitlines()
    assert alone == shared == ("tc-mmwm evaluate: policy 'no_policy:make' is of type int, without reset and propose()")


def test_the_planner_is_probed_and_perturbed(planner):
    asked = Suite(episodes=1, factors=(), perturbed_episodes=1, probes=2, candidates=6)
    found = evaluate(planner, asked, progress=False)
    assert list(found.episodes) == [HOME, "occlusion", "sensor_noise", "action_noise"]
    weights = [row for row in found.episodes[HOME][0].contributions if row is not None]
    np.testing.assert_allclose(np.sum(weights, axis=1), 1, atol=1e-5)
    assert found.truths and all(len(row) == 6 for truth in found.truths for row in (*truth.foretold, *truth.broken))
    assert all(len(e.latencies) == e.steps and min(e.latencies) > 0 for e in found.episodes[HOME])
    assert found.threshold == Bundle.load(planner.bundle).manifest.threshold


def test_another_policy_is_screened_and_followed_where_it_is_accepted(planner):
    asked = Suite(episodes=2, probes=0)
    [heedless, screened] = (
        evaluate(replace(planner, kind=kind, screens=screens), asked, progress=False)
        for kind, screens in (("heedless", None), ("planner", "heedless"))
    )
    assert {e.followed for e in heedless.episodes[HOME]} == {None}
    assert all(0 < e.followed <= 1 for e in screened.episodes[HOME])
    assert 0 < cost(screened)["other_policy_followed"] <= 100 and "other_policy_followed" not in cost(heedless)
    with pytest.raises(EvaluationError, match=r"driver 'headless': navigation has expert.*did you mean 'heedless'"):
        evaluate(replace(planner, screens="headless"), asked)
    with pytest.raises(EvaluationError, match="driver 'expert' screens nobody, planner does"):
        evaluate(Contestant("navigation", "expert", screens="heedless"), asked)


def test_asking_what_is_left_takes_nothing_from_who_is_at_it(tmp_path):
    log = tmp_path / "episodes.jsonl"
    evaluate(EXPERT, Suite(episodes=1, probes=0), log, progress=False)
    with log.open("a") as file:
        file.write('{"key": "in_distribution/900001", "resu')  # another process is in the middle of a line
    written = log.read_bytes()
    assert len(suites.remaining(EXPERT, Suite(episodes=2, probes=0), log)) == 1 and log.read_bytes() == written


def test_the_policy_alone_is_driven_but_not_probed(planner):
    found = evaluate(Contestant("navigation", "policy", planner.bundle), Suite(episodes=1), progress=False)
    assert found.episodes[HOME][0].steps > 0 and not found.truths


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--candidates", "-4"], "--candidates: 'candidates' is -4: Input should be greater than or equal to 8"),
        (["--candidates", "0"], "--candidates: 'candidates' is 0: Input should be greater than or equal to 8"),
        (["--threshold", "nan"], "--threshold: nan is not a finite number"),
        (["--threshold", "inf"], "--threshold: inf is not a finite number"),
        (["--workers", "0"], "--workers: 0 is not a whole number above 0"),
        (
            ["--driver", "expert", "--planner", "p.yaml", "--threshold", "0"],
            "--planner, --threshold: of the planner, and --driver expert drives without it",
        ),
        (
            ["--driver", "policy", "--candidates", "16"],
            "--candidates: of the planner, and --driver policy drives without",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options, told, capsys):
    try:
        code = main(["evaluate", "--episodes", "1", *options])
    except SystemExit as refused:
        code = refused.code
    assert code == 2 and told in capsys.readouterr().err


def test_the_command_says_which_settings_the_planner_has(tmp_path, capsys):
    (tmp_path / "p.yaml").write_text("proposals: {candidates: 16}\ncaution: 0.5\n")
    command = ["evaluate", "--episodes", "1", "--probes", "0", "--open-loop", "0", "--quiet", "--candidates", "12"]
    command += ["--threshold", "1e9", "--json", str(tmp_path / "x.json"), "--planner"]
    assert main([*command, str(tmp_path / "p.yaml")]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"planner: {tmp_path / 'p.yaml'}"
    used = json.loads((tmp_path / "x.json").read_text())["driver"]["planner"]
    assert (used["caution"], used["proposals"]["candidates"], used["threshold"]) == (0.5, 12, 1e9)


def test_the_command_prints_writes_and_goes_on(tmp_path, capsys):
    command = ["evaluate", "--driver", "expert", "--episodes", "2", "--factors", "light", "--factor-episodes", "2"]
    command += ["--output", str(tmp_path / "e"), "--json", str(tmp_path / "x.json"), "--quiet"]
    assert main(command) == 0
    table = capsys.readouterr().out
    assert table.splitlines()[1].split()[:2] == ["task_success", "100.0"] and "ood_retention" in table
    content = json.loads((tmp_path / "x.json").read_text())
    retention = content["measures"]["ood_retention"]
    assert retention["mean"] == 100 and retention["n_episodes"] == 2 and retention["low"] < 50  # two episodes
    assert content["schema"] == 3
    assert content["environment"]["packages"] and len(content["episodes"]["light"]) == 2
    assert (tmp_path / "e" / "evaluation.png").stat().st_size > 10_000
    assert main(command) == 0
    assert capsys.readouterr().out == table
    assert main([*command, "--seed", "1"]) == 2
    assert "holds the results of something else: seed was 900000, is 1" in capsys.readouterr().err
