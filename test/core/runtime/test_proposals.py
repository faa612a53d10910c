import numpy as np
import pytest
from pydantic import ValidationError

from tc_mmwm_core.runtime.proposals import (
    ProposalConfig,
    RefinementConfig,
    correlated_noise,
    fan,
    propose,
    refine_cem,
    refine_mppi,
    shift_plan,
)

POLICY = np.full((5, 2), 0.3, np.float32)
PLAN = np.linspace(-1, 1, 10, dtype=np.float32).reshape(5, 2)
SAFE = np.array([-0.4, 0.0], np.float32)
MOTIONS = np.array([True, False])


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("count", [8, 100, 256, 1000])
@pytest.mark.parametrize("plan", [None, PLAN])
def test_exactly_n_candidates_within_the_box_and_the_certain_ones_among_them(count, plan):
    actions, sources = propose(ProposalConfig(candidates=count), POLICY, plan, SAFE, MOTIONS, rng())
    assert actions.shape == (count, 5, 2) and actions.dtype == np.float32
    assert np.abs(actions).max() <= 1
    assert sum(number for _, number in sources) == count
    starts = dict(zip([name for name, _ in sources], np.cumsum([0, *(n for _, n in sources)]), strict=False))
    np.testing.assert_array_equal(actions[starts["safe"]], np.tile(SAFE, (5, 1)))
    np.testing.assert_array_equal(actions[starts["policy"]], POLICY)
    assert ("shifted" in starts) == (plan is not None)
    if plan is not None:
        np.testing.assert_array_equal(actions[starts["shifted"]], plan)


def test_shares_are_relative_and_a_missing_plan_leaves_its_share_to_the_policy():
    config = ProposalConfig(candidates=101, slowed=0, policy=1, shifted=3, fan=0)
    assert dict(propose(config, POLICY, PLAN, SAFE, MOTIONS, rng())[1]) == {"safe": 1, "policy": 25, "shifted": 75}
    assert dict(propose(config, POLICY, None, SAFE, MOTIONS, rng())[1]) == {"safe": 1, "policy": 100}


def test_slowed_copies_of_the_policy_have_less_of_its_motions_and_of_nothing_else():
    actions, sources = propose(ProposalConfig(slowed=3), POLICY, PLAN, SAFE, MOTIONS, rng())
    names, counts = zip(*sources, strict=True)
    first = sum(counts[: names.index("slowed")])
    slowed = actions[first : first + 3]
    for copy, share in zip(slowed, (0.75, 0.5, 0.25), strict=True):
        np.testing.assert_allclose(copy[:, 0], SAFE[0] + share * (POLICY[:, 0] - SAFE[0]), atol=1e-6)
        np.testing.assert_array_equal(copy[:, 1], POLICY[:, 1])
    none = propose(ProposalConfig(slowed=3), POLICY, PLAN, SAFE, np.zeros(2, bool), rng())[1]
    assert "slowed" not in dict(none)


def test_same_seed_same_candidates():
    config = ProposalConfig()
    first, again, other = (propose(config, POLICY, PLAN, SAFE, MOTIONS, rng(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_broken_proposal_spoils_only_its_own_share():
    actions, sources = propose(ProposalConfig(), np.full((5, 2), np.nan, np.float32), PLAN, SAFE, MOTIONS, rng())
    spoilt = dict(sources)
    assert np.isnan(actions).any((1, 2)).sum() == spoilt["policy"] + spoilt["slowed"]


def test_fan_covers_the_box_with_its_ends_and_its_middle():
    grid = fan(64, 2)
    assert len(grid) == 63
    for corner in ([-1, -1], [-1, 1], [1, -1], [1, 1], [0, 0]):
        assert (grid == corner).all(1).any()
    assert len(np.unique(grid, axis=0)) == len(grid)
    assert fan(81, 4).shape == (81, 4)
    assert fan(2, 3).tolist() == [[0, 0, 0]]
    assert fan(0, 2).shape == (0, 2)


def test_noise_has_unit_variance_and_the_correlation_asked_for():
    noise = correlated_noise((40000, 4, 1), 0.6, rng())[..., 0]
    np.testing.assert_allclose(noise.std(0), 1, atol=0.02)
    np.testing.assert_allclose(np.corrcoef(noise.T)[0], [1, 0.6, 0.36, 0.216], atol=0.02)


def test_shift_by_whole_steps_and_hold_the_last():
    np.testing.assert_array_equal(shift_plan(PLAN, 0), PLAN)
    np.testing.assert_array_equal(shift_plan(PLAN, 2), PLAN[[2, 3, 4, 4, 4]])


def test_shift_by_part_of_a_step_averages_what_the_plan_would_have_done():
    """A latent step of 3 control periods: compare with the plan written out a period at a time."""
    periods = np.concatenate([np.repeat(PLAN, 3, 0), np.repeat(PLAN[-1:], 15, 0)])
    for gone in range(1, 15):
        expected = periods[gone : gone + 15].reshape(5, 3, 2).mean(1)
        np.testing.assert_allclose(shift_plan(PLAN, gone / 3), expected, atol=1e-6)


def test_refinement_gathers_around_the_best():
    config = ProposalConfig(sigma=0.2, refinement=RefinementConfig(method="mppi", temperature=0.1))
    elites = np.stack([np.full((5, 2), 0.5), np.full((5, 2), -0.5)]).astype(np.float32)
    refined = refine_mppi(elites, np.array([1.0, 0.0]), config, 1, rng())
    assert refined.shape == (256, 5, 2)
    np.testing.assert_allclose(refined[0], 0.5, atol=1e-3)  # exp(-10) of the other
    assert refined.std() == pytest.approx(0.1, rel=0.1)  # sigma shrunk once
    assert refine_mppi(elites, np.array([1.0, 0.0]), config, 2, rng()).std() == pytest.approx(0.05, rel=0.1)


def test_cem_fits_mean_and_spread_and_never_collapses():
    config = ProposalConfig(refinement=RefinementConfig(method="cem", min_sigma=0.05))
    refined = refine_cem(np.full((8, 5, 2), 0.25, np.float32), config, rng())
    np.testing.assert_allclose(refined[0], 0.25)
    assert refined.std() == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize(
    "wrong", [{"candidates": 4}, {"policy": 0, "shifted": 0, "fan": 0}, {"smoothing": 1.0}, {"sigm": 1}]
)
def test_config_refuses(wrong):
    with pytest.raises(ValidationError):
        ProposalConfig(**wrong)
