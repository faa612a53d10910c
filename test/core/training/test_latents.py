import numpy as np
import pytest

from tc_mmwm_core.training.latents import effective_rank, linear_probe_r2, variance


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_directions_of_equal_strength_are_counted(rng, rank):
    basis = np.linalg.qr(rng.normal(size=(8, 8)))[0][:rank]
    coordinates = np.concatenate([np.eye(rank), -np.eye(rank)])  # centred, equal singular values
    assert effective_rank(coordinates @ basis + 5.0) == pytest.approx(rank)


def test_unequal_directions_are_weighed_by_entropy():
    coordinates = np.diag([3.0, 1.0])
    latents = np.concatenate([coordinates, -coordinates])
    share = np.array([0.75, 0.25])
    assert effective_rank(latents) == pytest.approx(np.exp(-np.sum(share * np.log(share))))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 0.1, 1e3])
def test_collapsed_latents_have_rank_zero(dtype, value):
    assert effective_rank(np.full((100, 16), value, dtype)) == 0.0


def test_gaussian_latents_have_nearly_full_rank_and_their_variance(rng):
    latents = rng.normal(size=(20_000, 16)) * np.linspace(0.9, 1.1, 16)
    assert effective_rank(latents) == pytest.approx(16, rel=0.02)
    np.testing.assert_allclose(variance(latents), np.linspace(0.9, 1.1, 16) ** 2, rtol=0.05)


def samples(rng, trajectories=40, length=25):
    owners = np.repeat(np.arange(trajectories), length)
    return rng.normal(size=(len(owners), 6)), owners


def test_a_linear_state_is_read_exactly_noise_not_at_all_and_half_noise_by_half(rng):
    latents, owners = samples(rng, trajectories=400)
    exact = latents @ rng.normal(size=6) + 3.0
    noise = rng.normal(size=len(owners))
    half = latents[:, 0] + noise
    r2 = linear_probe_r2(latents, np.stack([exact, noise, half], 1), owners, penalty=1e-9)
    assert r2[0] == pytest.approx(1.0)
    assert r2[1] == pytest.approx(0.0, abs=0.02)
    assert r2[2] == pytest.approx(0.5, abs=0.05)


def test_ridge_is_the_least_of_its_objective(rng):
    """R² against a probe found by least squares on the augmented system, as ridge regression is defined."""
    latents, owners = samples(rng)
    states = latents[:, :2] + 0.3 * rng.normal(size=(len(owners), 2))
    penalty = 0.1
    test = np.isin(owners, np.random.default_rng(3).permutation(40)[:10])
    x = (latents - latents[~test].mean(0)) / latents[~test].std(0)
    offset = states[~test].mean(0)
    augmented = np.concatenate([x[~test], np.sqrt(penalty * np.sum(~test)) * np.eye(6)])
    weights = np.linalg.lstsq(augmented, np.concatenate([states[~test] - offset, np.zeros((6, 2))]), rcond=None)[0]
    error = np.sum((states[test] - offset - x[test] @ weights) ** 2, 0)
    expected = 1 - error / np.sum((states[test] - states[test].mean(0)) ** 2, 0)
    np.testing.assert_allclose(linear_probe_r2(latents, states, owners, penalty=penalty, seed=3), expected)


def test_trajectories_are_held_out_whole(rng):
    """A latent that only tells trajectories apart reads their constants perfectly unless a trajectory is split."""
    owners = np.repeat(np.arange(30), 20)
    latents = np.eye(30)[owners] + 1e-6 * rng.normal(size=(600, 30))
    constants = rng.normal(size=30)[owners][:, None] + 1e-6 * rng.normal(size=(600, 1))
    assert linear_probe_r2(latents, constants, owners)[0] < 0.1


def test_what_does_not_vary_has_no_r2(rng):
    latents, owners = samples(rng)
    r2 = linear_probe_r2(latents, np.stack([latents[:, 0], np.ones(len(owners))], 1), owners)
    assert np.isfinite(r2[0])
    assert np.isnan(r2[1])
    settled = 0.02 + 1e-10 * np.sin(np.arange(len(owners)))  # a body at rest, to the last bit of a float32
    assert np.isnan(linear_probe_r2(latents, settled[:, None], owners)).all()


def test_a_dead_latent_dimension_does_no_harm(rng):
    latents, owners = samples(rng)
    dead = np.concatenate([latents, np.zeros((len(latents), 1))], 1)
    assert linear_probe_r2(dead, latents[:, :1], owners)[0] == pytest.approx(1.0, abs=1e-4)


def test_one_trajectory_and_unequal_lengths_are_refused(rng):
    with pytest.raises(ValueError, match="1 trajectory: at least 2"):
        linear_probe_r2(np.zeros((3, 2)), np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(ValueError, match="3 latents, 4 states and 3 trajectory labels"):
        linear_probe_r2(np.zeros((3, 2)), np.zeros((4, 1)), np.zeros(3))
