"""Every term, batched over time and candidates, against plain loops over time steps that call g once a step."""

import copy

import pytest
import torch
from batches import noise_batch, tiny_model

from tc_mmwm_core.evaluation.speed.eager_loop import eager_terms
from tc_mmwm_core.losses.total_loss import LossWeights, total_loss
from tc_mmwm_core.models.eikonal import slowness_of
from tc_mmwm_core.training.config import ObjectiveConfig, StageConfig
from tc_mmwm_core.training.objective import Objective, Share, encode_batch, on_grid, terms

STAGES = {
    name: StageConfig(name=name, epochs=1, min_length=2, starts=2)
    for name in ("grounding", "reconstruction", "world_model", "full")
}
METHOD = {"state", "action", "constraint", "rollout"}


def generator():
    return torch.Generator().manual_seed(11)


def scoring_both_signs(model, batch):
    """``model`` with its violation scores moved so that half of what it sees violates: no term is 0 by chance."""
    with torch.no_grad():
        latents = encode_batch(model, batch, torch.arange(batch.valid.shape[1]))
        seen, still = latents.z[:, :, None].flatten(0, 1), torch.zeros(1, 1, batch.actions.shape[-1])
        v, _ = model.judge(seen, latents.context.flatten(0, 1), still.expand(len(seen), -1, -1))
        model.constraint_function.score[-1].bias.sub_(v.median())
    return model


@pytest.mark.parametrize("cameras", [1, 2])
@pytest.mark.parametrize("stop_gradient", [False, True])
@pytest.mark.parametrize("stage", STAGES)
def test_values_and_gradients_are_those_of_the_plain_loops(stage, stop_gradient, cameras):
    config = ObjectiveConfig(stop_gradient=stop_gradient, scale_by_action_distance=not stop_gradient, projections=16)
    batch = noise_batch(windows=6, steps=7, cameras=cameras, bodies=cameras)
    fast = scoring_both_signs(tiny_model(cameras, bodies=cameras, keypoints=cameras > 1), batch)
    slow = copy.deepcopy(fast)
    ours, _ = terms(fast, batch, STAGES[stage], config, generator(), 3)
    theirs = eager_terms(slow, batch, STAGES[stage], config, generator(), 3)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert value.item() == pytest.approx(theirs[name].item(), rel=1e-4, abs=1e-5), name
        assert value > 0, name
    for values in (ours, theirs):
        total_loss(values, LossWeights())[0].backward()
    for (name, one), other in zip(fast.named_parameters(), slow.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), name
        if one.grad is not None:
            scale = max(1.0, other.grad.abs().max().item())
            torch.testing.assert_close(one.grad, other.grad, atol=2e-4 * scale, rtol=1e-3, msg=name)


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_windows_shorter_than_the_rollout_are_used_as_far_as_they_go(steps):
    config, batch = ObjectiveConfig(projections=16), noise_batch(steps=steps)
    ours, _ = terms(tiny_model(), batch, STAGES["full"], config, generator(), 3)
    theirs = eager_terms(tiny_model(), batch, STAGES["full"], config, generator(), 3)
    for name, value in ours.items():
        expected = theirs[name].item() if name in theirs else 0.0  # no rollout of one step
        assert value.item() == pytest.approx(expected, rel=1e-4, abs=1e-5), name


def test_each_stage_has_the_terms_that_the_method_gives_it():
    found = {
        name: set(terms(tiny_model(), noise_batch(), stage, ObjectiveConfig(), generator(), 0)[0])
        for name, stage in STAGES.items()
    }
    assert found["grounding"] == {"referring", "visibility"}  # ours: words are bound to pixels before all else
    assert not found["reconstruction"] & {"state", "rollout", "action"}
    assert found["world_model"] & METHOD == {"state", "constraint"}  # without counterfactual terms
    assert found["full"] >= METHOD
    assert "reconstruction" in found["reconstruction"]


def test_everything_drawn_follows_from_the_seed_and_from_nothing_else():
    objective = Objective(tiny_model(), ObjectiveConfig(), LossWeights())
    torch.manual_seed(0)
    first = objective(noise_batch(), STAGES["full"], seed=5).raw
    state = torch.get_rng_state()
    torch.manual_seed(1)
    again = objective(noise_batch(), STAGES["full"], seed=5).raw
    other = objective(noise_batch(), STAGES["full"], seed=6).raw
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["action"], other["action"])
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("count", [2, 4])
def test_shares_of_a_batch_average_to_the_whole(count):
    """All but SIGReg, a statistic of the batch, which processes take together (see test_distributed.py)."""
    batch, config, model = noise_batch(windows=4), ObjectiveConfig(), tiny_model()
    whole, _ = terms(model, batch, STAGES["full"], config, generator(), 0)
    shares = [Share(index, count) for index in range(count)]
    parts = [terms(model, batch.rows(s.rows(4)), STAGES["full"], config, generator(), 0, s)[0] for s in shares]
    for name in whole.keys() - {"sigreg_visual", "sigreg_fused"}:
        mean = sum(part[name] for part in parts) / count
        torch.testing.assert_close(mean, whole[name], rtol=1e-4, atol=1e-5, msg=name)


def test_a_part_of_a_share_is_the_share_that_it_is():
    assert Share(1, 2).part(0, 3) == Share(3, 6)
    assert Share(3, 6).rows(12) == slice(6, 8)
    assert Share().rows(5) == slice(0, 5)


def test_bf16_computes_in_bf16_and_stays_near():
    model, batch, dtypes = tiny_model(), noise_batch(), set()
    model.dynamics.from_state.register_forward_hook(lambda *call: dtypes.add(call[-1].dtype))
    exact = Objective(model, ObjectiveConfig(), LossWeights())(batch, STAGES["full"], 0)
    assert dtypes == {torch.float32}
    coarse = Objective(copy.deepcopy(model), ObjectiveConfig(), LossWeights(), bf16=True)(batch, STAGES["full"], 0)
    assert torch.bfloat16 in dtypes
    assert coarse.total.dtype == torch.float32 and not torch.equal(coarse.total, exact.total)
    assert coarse.total.item() == pytest.approx(exact.total.item(), rel=0.1)
    coarse.total.backward()


def test_a_coarser_oracle_says_the_same_of_what_places_cost_and_one_as_fine_is_taken_as_it_is():
    fine = torch.linspace(0, 3.1, 32).expand(1, 1, 32, 32)
    coarse = torch.nn.functional.avg_pool2d(fine, 4)
    inside = slowness_of(on_grid(coarse, (32, 32))[:, 0])[:, 4:-4, 4:-4]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.1), atol=1e-4, rtol=0)
    assert torch.equal(on_grid(fine, (32, 32)), fine) and torch.equal(on_grid(fine, (8, 8)), coarse)
    assert on_grid(torch.full((1, 2, 1, 1), torch.nan), (32, 32)).isnan().all()  # no oracle judged any


def test_a_stage_may_weigh_terms_otherwise_than_the_run():
    batch, model = noise_batch(windows=4, steps=6), tiny_model()
    stage = STAGES["reconstruction"].model_copy(update={"weights": {"reconstruction": 3.0, "constraint": 0.0}})
    weights = LossWeights(reconstruction=0.5, place=2.0)
    losses = Objective(model, ObjectiveConfig(projections=16), weights)(batch, stage, seed=0)
    assert losses.weighted["reconstruction"] == pytest.approx(3 * losses.raw["reconstruction"])
    assert losses.weighted["place"] == pytest.approx(2 * losses.raw["place"])
    assert "constraint" not in losses.weighted
    with pytest.raises(ValueError, match=r"weights\.reconstuction"):
        StageConfig(name="full", epochs=1, weights={"reconstuction": 1.0})
    with pytest.raises(ValueError, match=r"weights\.state"):
        StageConfig(name="full", epochs=1, weights={"state": -1.0})
