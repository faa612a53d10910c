from dataclasses import replace

import numpy as np
import pytest
from tiny_bundle import FRAME_SKIP, HORIZON, position_commanded, write_tiny_bundle

from tc_mmwm_core.config import ConfigError
from tc_mmwm_core.interface.fault import Fault, FaultKind
from tc_mmwm_core.interface.robot import RobotInterface
from tc_mmwm_core.resources import resource
from tc_mmwm_core.runtime.candidates import ExternalCandidates
from tc_mmwm_core.runtime.planner import Planner, PlannerConfig, PlannerState, read_planner
from tc_mmwm_core.runtime.screener import InstructionError, Screener, ToldToStop
from tc_mmwm_core.runtime.selection import Verdict


@pytest.fixture
def planner(screener, navigation):
    return Planner(screener, navigation)


def test_best_accepted_is_executed_within_the_rate_limit(planner, screener, make_step):
    """Full speed is 0.7 m/s; from standstill 4 m/s² let 0.4 m/s through in the first period of 0.1 s."""
    instruction = screener.instruct("drive")
    decisions = [planner.decide(make_step(t / 10), instruction) for t in range(2)]
    assert [decision.state for decision in decisions] == [PlannerState.PLANNING] * 2
    np.testing.assert_allclose([decision.action[0] for decision in decisions], [0.4, 0.7], atol=1e-6)
    assert decisions[0].reason == ""
    assert set(decisions[0].timings) == {"encode", "propose", "screen", "select"}


def test_the_instruction_changes_what_is_done(planner, screener, make_step):
    slow = [planner.decide(make_step(t / 10), screener.instruct("drive slow")).action[0] for t in range(20)]
    assert 0.25 < max(slow) <= 0.325 + 1e-6  # normalised forward speed at most tau = 0.25


def test_everything_rejected_is_safe_and_says_why(planner, screener, make_step):
    decision = planner.decide(make_step(bumper=1.0), screener.instruct("drive"))
    assert decision.state == PlannerState.ALL_REJECTED
    np.testing.assert_array_equal(decision.action, [0, 0])
    assert "all 256 candidates rejected (256 violation); least violation 10.000, allowed is 0.250" in decision.reason
    assert decision.screening.chosen == -1
    assert all(decision.screening.reason(index) for index in range(256))


def test_where_even_stopping_is_rejected_it_retreats_to_what_is_foreseen_to_be_better(screener, navigation, make_step):
    """After "slow" the violation is the normalised forward speed: -0.4 at rest, lower only in reverse."""

    def decide(retreat):
        planner = Planner(screener, navigation, PlannerConfig(threshold=-1.5, retreat=retreat))
        return planner.decide(make_step(), screener.instruct("drive slow"))

    stopped, retreating = decide(False), decide(True)
    assert stopped.state == PlannerState.ALL_REJECTED and stopped.action[0] == 0
    assert retreating.state == PlannerState.RETREATING and retreating.action[0] < 0
    screening = retreating.screening
    assert screening.accepted == 0 and (screening.violation[screening.chosen] <= screening.violation[0]).all()
    assert "all 256 candidates rejected" in retreating.reason and "stopping it is -0.400" in retreating.reason


def test_it_stays_until_the_goal_is_seen_and_says_so(navigation, make_step, tmp_path):
    """The tiny bundle's goal is in view where it is bright; here more than -50 is needed."""
    screener = Screener(write_tiny_bundle(tmp_path / "tiny", goal_threshold=-50.0))
    planner = Planner(screener, navigation)
    planner.warm_up()
    dark = {name: np.full_like(image, 70) for name, image in make_step().images.items()}
    drive, slow = screener.instruct("drive"), screener.instruct("drive slow")

    def decide(at, instruction, images=None, *external):
        step = make_step(at)
        return planner.decide(step if images is None else replace(step, images=images), instruction, *external)

    missing = decide(0.0, drive, dark)
    assert missing.state == PlannerState.GOAL_NOT_FOUND and missing.screening is None and missing.scene is not None
    np.testing.assert_array_equal(missing.action, [0, 0])
    assert missing.reason == (
        "goal: nothing in view is what 'drive' asks for: progress is -57.000 in the best place, "
        "more than -50.000 is needed"
    )
    assert decide(0.1, drive).state == PlannerState.PLANNING
    assert decide(0.2, drive, dark).state == PlannerState.PLANNING, "it was seen, and may be hidden now"
    assert decide(0.3, slow, dark).state == PlannerState.GOAL_NOT_FOUND, "another instruction may have another goal"
    theirs = ExternalCandidates("other", round(0.4e9), np.tile(np.float32([0.1, 0.0]), (1, HORIZON, 1)))
    screened = decide(0.4, slow, dark, theirs)
    assert screened.state == PlannerState.PLANNING and screened.screening.chosen in screened.screening.external
    assert decide(0.5, slow, dark).state == PlannerState.GOAL_NOT_FOUND
    too_fast = replace(theirs, stamp_ns=round(0.5e9), actions=np.full((2, HORIZON, 2), 0.7, np.float32))
    refused = decide(0.5, slow, dark, too_fast)
    assert refused.state == PlannerState.GOAL_NOT_FOUND and refused.screening.accepted == 1, "to stop is not forbidden"
    np.testing.assert_array_equal(refused.action, [0, 0])
    assert "is needed; all 2 candidates rejected (2 violation); least violation 1.000" in refused.reason
    assert decide(0.6, slow).state == PlannerState.PLANNING
    planner.begin_episode()
    assert decide(0.7, slow, dark).state == PlannerState.GOAL_NOT_FOUND
    planner = Planner(screener, navigation, PlannerConfig(require_goal=False))
    assert decide(0.0, drive, dark).state == PlannerState.PLANNING
    planner = Planner(screener, navigation, PlannerConfig(external="only"))
    assert decide(0.0, drive, dark).state == PlannerState.WAITING, "where the goal is, is the other policy's affair"


def test_held_up_by_what_is_forbidden_it_trusts_the_policy_less_until_it_moves(bundle, navigation, make_step):
    """The policy would turn right on the spot, which is forbidden: whatever drives strays farther from it than rest."""

    class Turning(Screener):
        gained = 0.0

        def screen(self, *args):
            self.gained += 0.2
            rollouts = super().screen(*args)
            return replace(rollouts, progress=rollouts.progress + np.float32(self.gained))

        def encode(self, *args):
            scene = super().encode(*args)
            return replace(scene, proposal=np.broadcast_to(np.float32(proposal), scene.proposal.shape))

    def speeds(patience):
        few = {"candidates": 11, "policy": 0.0, "slowed": 0, "shifted": 0.0}  # a fan of 3 x 3, rest and the policy's
        planner = Planner(Turning(bundle), navigation, PlannerConfig(trust=100, patience=patience, proposals=few))
        instruction = planner.screener.instruct("drive right")
        return [float(planner.decide(make_step(t / 10), instruction).action[0]) for t in range(60)]

    rest = navigation.normalise_action(navigation.safe_action())[0]
    proposal = (rest, 1.0)
    assert max(speeds(0.0)) == 0
    patient = np.array(speeds(0.5))
    first = int(np.argmax(patient > 0))
    assert 5 < first < 40 and not patient[:first].any()
    assert (patient[first:] == 0).any(), "trust returns as it moves"
    proposal = (rest, 0.0)
    assert max(speeds(0.5)) == 0, "where the policy stands still, nothing holds it up"


def test_getting_no_nearer_it_trusts_the_policy_less_until_it_does_or_is_told_otherwise(bundle, navigation, make_step):
    """The policy would drive at half speed, and faster is better; what it may be worth does not make up for trust."""

    class Halting(Screener):
        gained = 0.0

        def encode(self, *args):
            scene = super().encode(*args)
            return replace(scene, proposal=np.broadcast_to(np.float32((half, rest)), scene.proposal.shape))

        def screen(self, *args):
            rollouts = super().screen(*args)
            return replace(rollouts, progress=rollouts.progress + np.float32(self.gained))

    rest = navigation.normalise_action(navigation.safe_action())[1]
    half = navigation.normalise_action(np.float32([0.3, 0.0]))[0]
    few = {"candidates": 11, "policy": 0.0, "slowed": 0, "shifted": 0.0}
    planner = Planner(Halting(bundle), navigation, PlannerConfig(trust=100, patience=0.1, proposals=few))

    def speeds(since, text="drive", gain=0.0):
        found = []
        for t in range(since, since + 25):
            planner.screener.gained += gain
            found.append(planner.decide(make_step(t / 10), planner.screener.instruct(text)).action[0])
        return np.array(found)

    stalled = speeds(0)
    np.testing.assert_allclose(stalled[:10], 0.3, atol=1e-6)
    assert stalled[-1] > 0.5
    np.testing.assert_allclose(speeds(25, gain=0.2)[-1], 0.3, atol=1e-6)
    assert speeds(50)[-1] > 0.5
    np.testing.assert_allclose(speeds(75, "drive right")[10:12], 0.3, atol=1e-6)


def holding(robot, screener, make_step, max_rate):
    """The arm, its planner, and a step in which its heading is ``place`` (rad)."""
    content = position_commanded(robot)
    content["action"]["fields"][1]["max_rate"] = max_rate
    arm = RobotInterface.from_dict(content, "arm")

    def at(place, t, bumper=0.0):
        step = make_step(t / 10, bumper)
        step.sensor[arm.sensor_names.index("odometry.heading")] = place
        return step

    return arm, Planner(screener, arm), at


def test_a_position_is_held_where_it_was_last_commanded(robot, screener, make_step):
    arm, planner, at = holding(robot, screener, make_step, max_rate=1.0)
    instruction = screener.instruct("drive")
    assert planner.decide(Fault(FaultKind.WAITING, "odom", "never seen"), instruction).action is None
    assert planner.decide(at(1.0, 0), None).action.tolist() == [0, 1]
    assert planner.decide(at(1.1, 1), None).action.tolist() == [0, 1], "a sagging arm would sink with it"
    moving = planner.decide(at(1.1, 2), instruction)
    assert moving.state == PlannerState.PLANNING
    stopping = arm.normalise_action(np.float32([0, 1]))
    np.testing.assert_allclose(arm.normalise_action(moving.screening.actions[0, 0]), stopping, atol=1e-6)
    assert moving.action[0] > 0 and abs(moving.action[1] - 1.0) == pytest.approx(0.1, abs=1e-6)
    held = [0, moving.action[1]]
    late = planner.decide(Fault(FaultKind.STALE, "odom", "old"), instruction)
    np.testing.assert_allclose(late.action, held, atol=1e-6)
    rejected = planner.decide(at(1.0, 3, bumper=1.0), instruction)
    assert rejected.state == PlannerState.ALL_REJECTED
    np.testing.assert_allclose(rejected.action, held, atol=1e-6)
    for t in range(4, 7):  # moved by hand, or sagging much: what stands is not let go of
        np.testing.assert_allclose(planner.decide(at(1.6, t, bumper=1.0), instruction).action, held, atol=1e-6)
    again = planner.decide(at(1.6, 7), instruction)  # from 1.4, which is what max_rate allows in a latent step
    assert again.state == PlannerState.PLANNING and again.action[1] == pytest.approx(1.3, abs=1e-6)
    planner.begin_episode()  # it was put somewhere else
    np.testing.assert_allclose(planner.decide(at(-2.0, 8), None).action, [0, -2], atol=1e-6)


def test_a_position_without_a_rate_limit_is_held_where_it_was_sensed(robot, screener, make_step):
    """It may have been commanded anywhere: to go on to there would be no stop."""
    _, planner, at = holding(robot, screener, make_step, max_rate=None)
    moving = planner.decide(at(1.1, 0), screener.instruct("drive"))
    assert moving.state == PlannerState.PLANNING and abs(moving.action[1] - 1.1) > 0.5
    for place in (1.1, 1.2):
        np.testing.assert_allclose(planner.decide(at(place, 1), None).action, [0, 1.1], atol=1e-6)


def test_of_a_position_a_slower_copy_goes_less_far(robot, screener, make_step):
    arm = RobotInterface.from_dict(position_commanded(robot), "arm")
    step = make_step()
    step.sensor[arm.sensor_names.index("odometry.heading")] = 1.0
    screening = Planner(screener, arm).decide(step, screener.instruct("drive right")).screening
    names, counts = zip(*screening.sources, strict=True)
    first = sum(counts[: names.index("slowed")])
    policy, slowed = screening.actions[counts[0], -1, 1], screening.actions[first : first + counts[2], -1, 1]
    assert names[1:3] == ("policy", "slowed") and abs(policy - 1) > 0.1
    np.testing.assert_allclose((slowed - 1) / (policy - 1), np.arange(7, 0, -1) / 8, atol=1e-4)


def test_what_was_seen_is_kept_while_it_decides_and_forgotten_after_a_gap(planner, screener, make_step):
    instruction = screener.instruct("drive")

    def before(stamp, bumper=0.0):
        return planner.decide(make_step(stamp, bumper), instruction).scene.latent[0, 3]

    assert [before(0.0), before(0.1, bumper=1.0), before(0.2)] == [0, 127, 127]  # a rejected decision saw, too
    planner.decide(Fault(FaultKind.STALE, "lidar", "old"), instruction)
    lasts = HORIZON * FRAME_SKIP / 10
    assert before(0.2 + lasts - 0.1) == 127 and before(0.2 + 2 * lasts) == 0
    assert before(0.1) == 0  # the clock was set back
    planner.reset()
    assert before(0.2) == 0


def test_recovers_by_itself(planner, screener, make_step):
    instruction = screener.instruct("drive")
    states = [planner.decide(make_step(t, bumper), instruction).state for t, bumper in enumerate([0.0, 1.0, 0.0])]
    assert states == [PlannerState.PLANNING, PlannerState.ALL_REJECTED, PlannerState.PLANNING]


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (FaultKind.WAITING, PlannerState.WAITING),
        (FaultKind.STALE, PlannerState.STALE_INPUT),
        *((kind, PlannerState.BAD_INPUT) for kind in FaultKind if kind not in (FaultKind.WAITING, FaultKind.STALE)),
    ],
)
def test_faults_stop_at_once_whatever_the_rate_limit(planner, screener, make_step, kind, state):
    instruction = screener.instruct("drive")
    assert planner.decide(make_step(), instruction).action[0] > 0
    decision = planner.decide(Fault(kind, "lidar", "why"), instruction)
    assert decision.state == state
    np.testing.assert_array_equal(decision.action, [0, 0])
    assert "lidar" in decision.reason and "why" in decision.reason


def test_the_first_reason_to_stop_wins(planner):
    fault = Fault(FaultKind.STALE, "lidar", "old")
    assert planner.decide(fault, InstructionError("bad words")).reason == "bad words"
    assert planner.decide(fault, InstructionError("bad words")).state == PlannerState.BAD_INPUT
    told = planner.decide(fault, ToldToStop("told to stop"))
    assert (told.state, told.reason) == (PlannerState.WAITING, "told to stop")
    assert planner.decide(fault, None).state == PlannerState.WAITING
    assert "instruction" in planner.decide(fault, None).reason


def test_same_inputs_and_seed_same_choice_bit_for_bit(screener, navigation, make_step):
    def drive(seed):
        config = PlannerConfig.model_validate({"seed": seed, "proposals": {"refinement": {"method": "mppi"}}})
        planner = Planner(screener, navigation, config)
        return [planner.decide(make_step(t / 10), screener.instruct("drive slow")) for t in range(10)]

    first, again, other = drive(3), drive(3), drive(4)
    for one, two in zip(first, again, strict=True):
        assert one.action.tobytes() == two.action.tobytes()
        assert one.screening.actions.tobytes() == two.screening.actions.tobytes()
        assert one.screening.chosen == two.screening.chosen
    assert any(
        a.screening.actions.tobytes() != b.screening.actions.tobytes() for a, b in zip(first, other, strict=True)
    )


def test_external_candidates_are_screened_beside_our_own(planner, screener, make_step):
    actions = np.zeros((3, 3, 2), np.float32)
    actions[1, 2, 1] = 9.0
    actions[2, 0, 0] = np.nan
    screening = planner.decide(
        make_step(), screener.instruct("drive"), ExternalCandidates("other", 10**9, actions)
    ).screening
    assert screening.sources[-1] == ("other", 3)
    assert screening.verdict[-3:].tolist() == [
        Verdict.ACCEPTED,
        Verdict.REJECTED_LIMITS,
        Verdict.REJECTED_NON_FINITE,
    ]
    assert screening.reason(257) == "turn is 9 at step 3, allowed are -2.5 to 2.5"
    assert screening.chosen == 256, "its best is not as fast as our own, and comes first nevertheless"


def test_a_better_external_candidate_wins(screener, navigation, make_step):
    config = PlannerConfig.model_validate(
        {"proposals": {"candidates": 8, "policy": 1, "shifted": 0, "fan": 0, "sigma": 0.01}}
    )
    planner = Planner(screener, navigation, config)
    best = ExternalCandidates("other", 10**9, np.tile(np.float32([0.7, 0.0]), (1, 3, 1)))
    decision = planner.decide(make_step(), screener.instruct("drive"), best)
    assert decision.screening.chosen == 8
    assert decision.action[0] == pytest.approx(0.4), "what is executed, and was screened, keeps to the rate limit"
    np.testing.assert_allclose(decision.screening.actions[8, :, 0], [0.4, 0.7, 0.7], atol=1e-6)


@pytest.mark.parametrize("method", ["none", "mppi"])
def test_candidates_from_outside_come_first_and_our_own_are_the_fallback(screener, navigation, make_step, method):
    """Whatever ``trust`` says: the tiny policy proposes normalised zeros, 0.2 m/s ahead; they turn at full speed."""
    settings = {"trust": 50.0, "proposals": {"refinement": {"method": method}}}

    def decide(words, forward, **changed):
        actions = np.tile(np.float32([forward, 2.0]), (1, 3, 1))
        planner = Planner(screener, navigation, PlannerConfig.model_validate(settings | changed))
        return planner.decide(
            make_step(), screener.instruct(words), ExternalCandidates("other", 10**9, actions)
        ).screening

    assert decide("drive", 0.1).chosen == 256
    assert decide("drive", 0.1, external="competing").chosen != 256
    rejected = decide("drive slow", 0.4)  # normalised 0.4 is above tau = 0.25
    assert rejected.verdict[256] == Verdict.REJECTED_VIOLATION
    assert rejected.verdict[rejected.chosen] == Verdict.ACCEPTED


def test_who_leads_nowhere_comes_no_longer_first_until_the_robot_has_got_nearer(screener, navigation, make_step):
    planner = Planner(screener, navigation, PlannerConfig(external_patience=0.3, trust=50.0))
    instruction = screener.instruct("drive slow")

    def followed(at):
        actions = np.tile(np.float32([0.1, 2.0]), (1, 3, 1))
        found = planner.decide(make_step(at), instruction, ExternalCandidates("other", round(at * 1e9), actions))
        assert found.screening.external == range(256, 257)
        return found.screening.chosen in found.screening.external

    assert [followed(at / 10) for at in range(5)] == [True, True, True, True, False]  # the first is nearer than nothing
    planner._furthest -= 1.0  # and now it gets nearer
    assert [followed(0.5), followed(0.6)] == [False, True]
    planner.begin_episode()
    assert followed(0.7)


def test_a_policy_may_stand_still_for_as_long_as_it_likes(screener, navigation, make_step):
    """The tiny policy would drive, and nothing is rejected."""
    planner = Planner(screener, navigation, PlannerConfig(external_patience=0.3))
    instruction = screener.instruct("drive")

    def follows(at, forward):
        actions = np.tile(np.float32([forward, 0.0]), (2, HORIZON, 1))
        found = planner.decide(make_step(at), instruction, ExternalCandidates("other", round(at * 1e9), actions))
        return found.screening.chosen in found.screening.external

    assert all(follows(at / 10, 0.0) for at in range(10))
    assert [follows(1 + at / 10, 0.5) for at in range(4)] == [True, True, True, False], "what moves must lead somewhere"
    assert follows(1.4, 0.0), "it has the last word on standing still"
    planner = Planner(screener, navigation, PlannerConfig(external="competing"))
    assert not follows(2.0, 0.0), "here the best of all"


def test_with_only_another_policy_nothing_else_is_executed(screener, navigation, make_step):
    planner = Planner(screener, navigation, PlannerConfig(external="only", external_patience=0.1))
    planner.warm_up()
    drive, slow = screener.instruct("drive"), screener.instruct("drive slow")

    def decide(at, instruction, forward=None):
        theirs = ExternalCandidates("other", round(at * 1e9), np.full((2, HORIZON, 2), forward or 0, np.float32))
        return planner.decide(make_step(at), instruction, *([] if forward is None else [theirs]))

    waiting = decide(0.0, drive)
    assert waiting.state == PlannerState.WAITING and waiting.reason.startswith("candidate_actions: none was heard yet")
    for at in range(1, 6):
        decision = decide(at / 10, drive, 0.1)
        assert decision.state == PlannerState.PLANNING and decision.screening.chosen in (1, 2)
        assert decision.screening.sources == (("safe", 1), ("other", 2))
    refused = decide(0.6, slow, 0.7)
    assert refused.state == PlannerState.ALL_REJECTED and refused.reason.startswith("all 2 candidates rejected")
    np.testing.assert_array_equal(refused.action, [0, 0])
    planner.threshold = -1.5  # not even stopping is accepted, and to reverse would be better
    refused = decide(0.65, slow, -0.3)
    assert refused.state == PlannerState.ALL_REJECTED and refused.screening.accepted == 0, "a filter does not retreat"
    silent = decide(0.7, drive)
    assert silent.state == PlannerState.STALE_INPUT and silent.reason.startswith("candidate_actions: none is fresh")
    np.testing.assert_array_equal(silent.action, [0, 0])


def test_where_progress_was_never_taught_no_policy_is_overruled_for_want_of_it(navigation, make_step, tmp_path):
    screener = Screener(write_tiny_bundle(tmp_path / "tiny", progress_taught=False))
    planner = Planner(screener, navigation, PlannerConfig(external_patience=0.3))
    for at in range(10):
        theirs = ExternalCandidates("other", at * 10**8, np.tile(np.float32([0.1, 2.0]), (1, HORIZON, 1)))
        decision = planner.decide(make_step(at / 10), screener.instruct("drive"), theirs)
        assert decision.screening.chosen in decision.screening.external


@pytest.mark.parametrize("external", ["preferred", "only"])
def test_where_progress_was_never_taught_a_policy_s_first_accepted_candidate_is_executed(
    navigation, make_step, tmp_path, external
):
    """Its order is all that ranks them: the tiny bundle's own progress favours what is fastest."""
    instruction = "drive slow"  # which rejects what is above tau = 0.25, normalised
    theirs = np.tile(np.float32([[[0.7, 0.0]], [[0.0, 1.0]], [[0.2, 0.0]]]), (1, HORIZON, 1))
    chosen = {}
    for taught in (True, False):
        screener = Screener(write_tiny_bundle(tmp_path / f"{taught}", progress_taught=taught))
        planner = Planner(screener, navigation, PlannerConfig(external=external))
        candidates = ExternalCandidates("other", 0, theirs)
        screening = planner.decide(make_step(0.0), screener.instruct(instruction), candidates).screening
        first = screening.external.start
        assert [screening.verdict[first + index] == Verdict.ACCEPTED for index in range(3)] == [False, True, True]
        chosen[taught] = screening.chosen - first
    assert chosen == {True: 2, False: 1}


def test_a_share_of_the_speed_bounds_what_is_screened_and_executed(screener, navigation, make_step):
    """Of -0.3 to 0.7 m/s and ±2.5 rad/s; another policy's are cut, not refused."""
    planner = Planner(screener, navigation, PlannerConfig(speed=0.2))
    theirs = ExternalCandidates("other", 10**9, np.tile(np.float32([0.7, -2.5]), (1, HORIZON, 1)))
    decision = planner.decide(make_step(), screener.instruct("drive"), theirs)
    assert decision.screening.chosen == 256 and decision.screening.reason(256) == ""
    np.testing.assert_allclose(decision.action, [0.14, -0.5], atol=1e-6)
    low, high = decision.screening.actions.min((0, 1)), decision.screening.actions.max((0, 1))
    np.testing.assert_allclose([low, high], [[-0.06, -0.5], [0.14, 0.5]], atol=1e-6)


def test_stopping_is_screened_as_it_is_executed_whatever_the_rate_limit(planner, screener, make_step):
    """At 0.7 m/s the rate limit lets 0.3 m/s through a period later; to stop is to command 0 at once."""
    instruction = screener.instruct("drive slow")
    for t in range(3):
        planner.decide(make_step(t / 10), screener.instruct("drive"))
    planner.threshold = -0.3  # normalised speed: 0 m/s is -0.4, the 0.3 m/s that all others begin with are 0.2
    decision = planner.decide(make_step(0.3), instruction)
    assert (decision.state, decision.screening.chosen) == (PlannerState.PLANNING, 0)
    np.testing.assert_array_equal(decision.action, [0, 0])
    np.testing.assert_array_equal(decision.screening.actions[0], np.zeros((HORIZON, 2)))
    np.testing.assert_allclose(decision.screening.violation[0], -0.4, atol=1e-6)
    assert decision.screening.actions[1:, 0, 0].min() > 0.29, "all others keep to the rate limit"


@pytest.mark.parametrize("method", ["mppi", "cem"])
def test_refinement_never_makes_it_worse_and_keeps_every_round_on_record(screener, navigation, make_step, method):
    def score(proposals):
        planner = Planner(screener, navigation, PlannerConfig.model_validate({"proposals": proposals}))
        return planner.decide(make_step(), screener.instruct("drive slow right")).screening

    plain = score({"candidates": 64})
    refined = score({"candidates": 64, "refinement": {"method": method, "iterations": 3, "elites": 16}})
    assert len(refined.verdict) == 4 * 64
    assert refined.sources[-3:] == (("refined", 64),) * 3
    assert refined.score[refined.chosen] > plain.score[plain.chosen]
    assert refined.violation[refined.chosen].max() <= refined.threshold


def test_refinement_looks_for_the_least_violation_where_nothing_is_accepted(screener, navigation, make_step):
    config = PlannerConfig.model_validate(
        {
            "threshold": -0.99,
            "proposals": {"candidates": 64, "fan": 0, "refinement": {"method": "cem", "iterations": 6}},
        }
    )
    screening = Planner(screener, navigation, config).decide(make_step(), screener.instruct("slow")).screening
    least = screening.violation.max(1)
    assert least[64:].min() < least[:64].min()


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        (0.104, lambda plan: (plan + plan[[1, 2, 2]]) / 2),  # frame_skip is 2: a period is half a step; ticks jitter
        (0.2, lambda plan: plan[[1, 2, 2]]),
        (0.6, None),  # the plan is over
        (-0.2, None),  # the clock was set back
    ],
)
def test_plan_is_shifted_by_the_control_periods_gone_by(planner, screener, make_step, gone, expected):
    instruction = screener.instruct("drive")
    first = planner.decide(make_step(1.0), instruction).screening
    later = planner.decide(make_step(1.0 + gone), instruction).screening
    names = [name for name, _ in later.sources]
    assert ("shifted" in names) == (expected is not None)
    if expected:
        start = sum(count for _, count in later.sources[: names.index("shifted")])
        np.testing.assert_allclose(later.actions[start], expected(first.actions[first.chosen]), atol=1e-5)


def test_external_candidates_are_shifted_by_their_age(planner, screener, make_step):
    ramp = np.float32([[[0.0, 0.0], [0.2, 0.0], [0.4, 0.0]]])
    older = ExternalCandidates("other", round(0.8e9), ramp)
    screening = planner.decide(make_step(1.0), screener.instruct("drive"), older).screening
    np.testing.assert_allclose(screening.actions[-1, :, 0], [0.2, 0.4, 0.4], atol=1e-6)


def test_external_candidates_of_several_policies_are_screened_together_each_shifted_by_its_age(
    planner, screener, make_step
):
    slow, fast = np.float32([[[0.1, 0.0], [0.2, 0.0], [0.3, 0.0]]]), np.float32([[[0.5, 0.0]] * 3] * 2)
    policies = ExternalCandidates("slow", round(0.8e9), slow), ExternalCandidates("fast", 10**9, fast)
    screening = planner.decide(make_step(1.0), screener.instruct("drive"), *policies).screening
    assert screening.sources[-2:] == (("slow", 1), ("fast", 2)) and list(screening.external) == [256, 257, 258]
    np.testing.assert_allclose(screening.actions[256, :, 0], [0.2, 0.3, 0.3], atol=1e-6)
    assert screening.chosen in (257, 258), "the best of both"


def test_after_a_stop_the_rate_limit_starts_from_the_safe_action(planner, screener, make_step):
    instruction = screener.instruct("drive")
    for t in range(3):
        planner.decide(make_step(t / 10), instruction)
    stopped = planner.stop(PlannerState.DEADLINE_MISSED, "late")
    assert stopped.state == PlannerState.DEADLINE_MISSED and stopped.reason == "late"
    assert planner.decide(make_step(0.4), instruction).action[0] == pytest.approx(0.4)


def test_warm_up_leaves_no_trace(screener, navigation, make_step):
    cold, warm = Planner(screener, navigation), Planner(screener, navigation)
    warm.warm_up()
    first, second = (planner.decide(make_step(), screener.instruct("drive")) for planner in (cold, warm))
    assert first.action.tobytes() == second.action.tobytes()


def test_settings_are_read_from_a_file_of_their_own_or_from_the_nodes_parameters(tmp_path):
    own, nodes = tmp_path / "own.yaml", tmp_path / "nodes.yaml"
    own.write_text("trust: 2.0\nproposals: {candidates: 8}\n")
    nodes.write_text("/**/recorder: {ros__parameters: {trust: 9.0}}\n/**/planner:\n  ros__parameters:\n"
                     "    deadline: 0.1\n    trust: 2.0\n    proposals: {candidates: 8}\n")  # fmt: skip
    assert read_planner(own) == read_planner(nodes) == PlannerConfig(trust=2.0, proposals={"candidates": 8})
    assert read_planner(resource("config", "planner", "default.yaml")) == PlannerConfig()
    assert read_planner(resource("config", "planner", "manipulation.yaml")).trust > 0
    own.write_text("trusst: 2.0\n")
    nodes.write_text("planner: {ros__parameters: {deadline: 0.1, trusst: 2.0}}\n")
    for path in (own, nodes):
        with pytest.raises(ConfigError, match=rf"{path.name}: unknown key 'trusst'; did you mean 'trust'\?"):
            read_planner(path)
    dotted = "proposals.candidates: 64, proposals.refinement.method: mppi, proposals: {sigma: 0.1}"
    nodes.write_text(f"/**: {{ros__parameters: {{trust: 3.0, caution: 1.0, other: 1, {dotted}}}}}\n"
                     "/robot/planner: {ros__parameters: {trust: 4.0}}\n")  # fmt: skip
    proposals = {"candidates": 64, "sigma": 0.1, "refinement": {"method": "mppi"}}
    assert read_planner(nodes) == PlannerConfig(trust=4.0, caution=1.0, proposals=proposals)
    nodes.write_text("planner: {ros__parameters: {threshold: 0.0}}\n")
    with pytest.raises(ConfigError, match="threshold: the planner node has no such parameter"):
        read_planner(nodes)
    for wrong, told in (
        ("planner: {ros__parameters: {prefer_external: true}}", "unknown key 'prefer_external'"),
        ("/robot/my_planner: {ros__parameters: {trust: 1.0}}", "of /robot/my_planner: those of one node 'planner'"),
        (
            "/a/planner: {ros__parameters: {}}\n/b/planner: {ros__parameters: {}}",
            "/a/planner, /b/planner: those of one",
        ),
        ("planner: {ros__parameters: 3}", "ros__parameters is 3"),
        ("planner: {ros__parameters: {trust: 1.0, trust.x: 1}}", "'trust' has a value of its own"),
    ):
        nodes.write_text(f"{wrong}\n")
        with pytest.raises(ConfigError, match=told):
            read_planner(nodes)
    nodes.write_text("planner:\n  ros__parameters:\n    # trust: 1.0\n")
    assert read_planner(nodes) == PlannerConfig()
    nodes.write_text(
        "planner: {ros__parameters: {speed: 0.3, qos_overrides./x.depth: 1}}\n/*: {ros__parameters: {speed: 0.2}}"
    )
    assert read_planner(nodes).speed == 0.2, "as in ROS the last holds"
