"""The world model by its verbs: shapes, imagination, what the ablation switches cut off, gradients."""

import pytest
import torch
from batches import ACTIONS, IMAGE, SENSORS, TINY, noise_batch, tiny_model

from tc_mmwm_core.losses.total_loss import LossWeights, total_loss
from tc_mmwm_core.models.heads import FieldProgress
from tc_mmwm_core.training.config import ObjectiveConfig, StageConfig
from tc_mmwm_core.training.objective import encode_batch, terms

B, K, D = 2, TINY.horizon, TINY.latent


def observe(model, cameras=1, seed=0, **changed):
    """What a decision computes: z, context, α of B observations; keyword arguments replace an input."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        "images": [
            torch.randint(0, 256, (B, *IMAGE, 3), dtype=torch.uint8, generator=generator) for _ in range(cameras)
        ],
        "sensor": torch.randn(B, SENSORS, generator=generator),
        "tokens": torch.randint(0, 50, (B, 6), generator=generator),
        "mask": torch.tensor([[True] * 6, [True] * 4 + [False] * 2]),
    } | changed
    words, z_l = model.instruct(inputs["tokens"], inputs["mask"])
    encoded = model.encode(
        [image[:, None] for image in inputs["images"]], inputs["sensor"][:, None], inputs.get("memory")
    )
    features, z_v, z_s = (x[:, 0] for x in encoded[:3])
    z, alpha = model.compose(z_v, z_l, z_s)
    return z, model.ground(features, words, inputs["mask"], z_l, encoded.told[:, 0]), alpha


@pytest.mark.parametrize("cameras", [1, 2])
def test_shapes(cameras):
    model = tiny_model(cameras)
    z, context, alpha = observe(model, cameras)
    assert z.shape == (B, D) and context.shape == (B, model.context_size) and alpha.shape == (B, 3)
    cells = (IMAGE[0] // 4, IMAGE[1] // 4)
    assert model.field_of(context).shape == (B, TINY.field_channels, *(2 * cell for cell in cells))
    assert model.refer(context).shape == (B, 3, 4)
    actions = torch.randn(B, 7, K, ACTIONS)
    imagined = model.rollout(z[:, None].expand(-1, 7, -1), actions)
    assert imagined.shape == (B, 7, K, D)
    violation, progress = model.judge(imagined, context, actions)
    assert violation.shape == progress.shape == (B, 7, K)
    proposal = model.propose(z, context, torch.randn(B, SENSORS))
    assert proposal.shape == (B, K, ACTIONS) and proposal.abs().max() <= 1
    image, sensor = model.reconstruct(z, z)
    assert image.shape == (B, 3, *cells) and sensor.shape == (B, SENSORS)


def test_a_second_camera_is_seen_from_its_own_trunk():
    model = tiny_model(cameras=2)
    images = [torch.full((B, *IMAGE, 3), value, dtype=torch.uint8) for value in (40, 200)]
    z, context, _ = observe(model, 2, images=images)
    other, other_context, _ = observe(model, 2, images=images[::-1])
    assert not torch.allclose(z, other) and not torch.allclose(context, other_context)


def test_rollout_is_next_applied_k_times():
    model = tiny_model()
    z, actions = torch.randn(4, 5, D), torch.randn(4, 5, K, ACTIONS)
    imagined = model.rollout(z, actions)
    for k in range(K):
        z = model.next(z, actions[..., k, :])
        torch.testing.assert_close(imagined[..., k, :], z)


def test_judging_one_by_one_gives_the_same_scores():
    model = tiny_model(constraint_sees_action=True)
    z, context, action = torch.randn(3, 4, 2, D), torch.randn(3, model.context_size), torch.randn(3, 4, 2, ACTIONS)
    violation, progress = model.judge(z, context, action)
    for n in range(3):
        for c in range(4):
            v, p = model.judge(z[n : n + 1, c], context[n : n + 1], action[n : n + 1, c])
            torch.testing.assert_close((violation[n, c], progress[n, c]), (v[0], p[0]), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("sees", [False, True])
def test_the_constraint_function_sees_the_action_where_it_is_told_to_and_progress_never(sees):
    model = tiny_model(constraint_sees_action=sees)
    z, context = torch.randn(3, 4, D), torch.randn(3, model.context_size)
    (v, p), (other_v, other_p) = (model.judge(z, context, torch.full((3, 4, ACTIONS), a)) for a in (0.0, 0.5))
    assert torch.equal(v, other_v) != sees and torch.equal(p, other_p)


def test_padding_of_an_instruction_is_not_read():
    model = tiny_model()
    tokens = torch.randint(0, 50, (B, 6))
    mask = torch.tensor([[True] * 4 + [False] * 2] * B)
    other = torch.where(mask, tokens, (tokens + 7) % 50)
    torch.testing.assert_close(observe(model, tokens=tokens, mask=mask), observe(model, tokens=other, mask=mask))
    cut = observe(model, tokens=tokens[:, :4], mask=mask[:, :4])
    torch.testing.assert_close(observe(model, tokens=tokens, mask=mask), cut)


OTHER = {
    "use_vision": {"images": [torch.zeros(B, *IMAGE, 3, dtype=torch.uint8)]},
    "use_language": {"tokens": torch.full((B, 6), 55)},
    "use_sensors": {"sensor": torch.full((B, SENSORS), 2.0)},
}


@pytest.mark.parametrize("composition", ["contextual", "global", "concatenation"])
@pytest.mark.parametrize("switch", OTHER)
def test_a_modality_switched_off_has_no_influence_at_all_and_switched_on_it_has(switch, composition):
    for on in (True, False):
        model = tiny_model(composition=composition, **{switch: on})
        z, context, alpha = observe(model)
        other_z, other_context, other_alpha = observe(model, **OTHER[switch])
        assert torch.equal(z, other_z) != on
        # Sensors reach the heads through z alone.
        assert torch.equal(context, other_context) == (not on or switch == "use_sensors")
        assert torch.equal(alpha, other_alpha) == (not on or composition != "contextual")


@pytest.mark.parametrize("composition", ["contextual", "global", "concatenation"])
def test_in_the_full_stage_a_gradient_reaches_every_parameter(composition):
    model = tiny_model(composition=composition, cameras=2)
    stage = StageConfig(name="full", epochs=1, min_length=2)
    raw, _ = terms(model, noise_batch(cameras=2), stage, ObjectiveConfig(), torch.Generator().manual_seed(0), 0)
    total, _, _ = total_loss(raw, LossWeights())
    total.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        assert parameter.grad.isfinite().all(), name


def test_frames_and_instructions_of_a_batch_do_not_mix():
    """Encoding a batch of windows gives each window under each instruction what it gets alone, step by step."""
    model, batch = tiny_model(), noise_batch()
    starts = torch.tensor([0, 3])
    latents = encode_batch(model, batch, starts)
    windows, several = batch.tokens.shape[:2]
    for b in range(windows):
        for m in range(several):
            for s, t in enumerate(starts):
                before = [image[b : b + 1, :t] for image in batch.images]
                z, context, alpha = observe(
                    model,
                    images=[image[b : b + 1, t] for image in batch.images],
                    memory=model.encode(before, batch.sensor[b : b + 1, :t]).memory if t else None,
                    sensor=batch.sensor[b : b + 1, t],
                    tokens=batch.tokens[b, m][None],
                    mask=batch.mask[b, m][None],
                )
                n = b * several + m
                torch.testing.assert_close(latents.z[n, t], z[0], atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(latents.alpha[n, t], alpha[0], atol=1e-5, rtol=1e-4)
                torch.testing.assert_close(latents.context[n, s], context[0], atol=1e-5, rtol=1e-4)


def test_progress_off_the_field_is_the_cost_to_go_and_better_where_the_front_is_ahead():
    head = FieldProgress(channels=3, bodies=2)
    read = torch.zeros(5, 8)
    read[:, 0] = torch.tensor([-2.0, -2.0, -2.0, -2.0, 0.0])  # minus the cost to go, at the robot
    read[:, 3] = torch.tensor(
        [-1.75, -2.0, -2.25, -7.0, 5.0]
    )  # at its front: ahead, beside, behind, a wall; at the goal
    torch.testing.assert_close(head(read, read, read), torch.tensor([-2.0, -2.25, -2.5, -2.5, 0.0]))
    torch.testing.assert_close(FieldProgress(3, 1)(read, read, read), read[:, 0])


@pytest.mark.parametrize("keypoints", [False, True])
def test_a_policy_that_sees_the_present_sees_sensors_and_the_fields_slope(keypoints):
    model = tiny_model(bodies=2, policy="present", keypoints=keypoints)
    z, context, _ = observe(model)
    sensor = torch.randn(B, SENSORS)
    proposal = model.propose(z, context, sensor)
    assert not torch.allclose(model.propose(z, context, sensor + 0.1), proposal)
    summary, field = context[:, : model.summary_size], context[:, model.summary_size :]
    steeper = torch.cat([summary, 1.5 * field], 1)
    read = model.reader(z[:, None], field)[:, 0]
    model.reader.forward = lambda *_: read[:, None]  # so that it is the slope alone that differs
    assert not torch.allclose(model.propose(z, steeper, sensor), proposal)
    model.config = model.config.model_copy(update={"use_sensors": False})
    torch.testing.assert_close(model.propose(z, context, sensor), model.propose(z, context, sensor + 1))


def test_progress_off_the_field_is_what_the_model_judges_by():
    model = tiny_model(bodies=2, progress="field")
    z, context, _ = observe(model)
    _, progress = model.judge(z, context, torch.zeros(len(z), ACTIONS))
    read = model.reader(z[:, None], context[:, model.summary_size :])[:, 0]
    torch.testing.assert_close(progress, model.progress_head(z, read, context))
    assert not list(model.progress_head.parameters())
