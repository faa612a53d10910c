"""docs/own_policy.md as it stands: a policy that heeds no rule, kept from breaking it, over DDS."""

import re
import sys

import numpy as np
from tc_mmwm_ros.msg import CandidateActions, Screening

from tc_mmwm_core.domains.navigation.scene import draw_scene
from tc_mmwm_ros.loop import SENSOR, Loop, find_layouts
from tc_mmwm_ros.processes import Processes

TEXT = "drive to the green pad, never enter the blue zone"


def test_the_policy_of_the_page_is_followed_except_through_the_zone(repo_root, share, tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", (repo_root / "docs" / "own_policy.md").read_text(), re.DOTALL)
    policy = tmp_path / "go_to.py"
    policy.write_text(code)
    [seed] = find_layouts(1, 850_000, [TEXT])
    pad = draw_scene(seed).pad("green")
    heard: list[Screening] = []
    proposed: list[CandidateActions] = []
    with Loop(share / "bundles" / "navigation", tmp_path / "logs") as loop, Processes(tmp_path / "policy") as others:
        loop._node.create_subscription(Screening, "planner/screening", heard.append, SENSOR)
        loop._node.create_subscription(CandidateActions, "candidate_actions", proposed.append, 1)
        process = others.start("go_to", [sys.executable, policy, pad.x, pad.y])
        loop._wait(lambda: proposed, 30, "the policy")  # it is there before it has found the robot's odometry
        record = loop.run(seed, TEXT)
        assert process.poll() is None, others.tail("go_to")
    theirs = [message for message in heard if message.source[-1] == "go_to"]
    assert len(theirs) > 0.5 * len(heard) and set(theirs[0].source) >= {"safe", "policy", "fan", "go_to"}
    verdicts = np.array([message.verdict[-1] for message in theirs])
    followed = np.array([message.source[message.chosen] == "go_to" for message in theirs])
    accepted = verdicts == Screening.ACCEPTED
    assert 0 < (verdicts == Screening.REJECTED_VIOLATION).sum() < len(theirs)
    assert not followed[~accepted].any() and followed[accepted].mean() > 0.9  # while it leads somewhere
    assert record.reached and not record.violations, record.row()
