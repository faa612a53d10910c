"""The world model by the field's verbs: encode, ground, compose, next, rollout, judge, propose."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn

from tc_mmwm_core.config import Config
from tc_mmwm_core.models.composition import CausalComposition
from tc_mmwm_core.models.decoder import ImageDecoder
from tc_mmwm_core.models.dynamics import Dynamics
from tc_mmwm_core.models.encoders import CELL, LanguageEncoder, SensorEncoder, VisionEncoder
from tc_mmwm_core.models.field import FieldReader, InstructionField
from tc_mmwm_core.models.grounding import REFERENTS, Grounding
from tc_mmwm_core.models.heads import ConstraintFunction, FieldProgress, Policy, Progress
from tc_mmwm_core.models.keypoints import Keypoints
from tc_mmwm_core.models.memory import MapMemory
from tc_mmwm_core.models.vocabulary import word_embeddings


class ModelConfig(Config):
    """Sizes and switches of the model."""

    latent: int = Field(128, ge=8, description="D, size of the latent state")
    width: int = Field(64, ge=8, multiple_of=8, description="E, width of the feature map and of the word features")
    hidden: int = Field(256, ge=16, description="hidden width of dynamics and heads")
    slots: int = Field(6, ge=REFERENTS, description="slots of the grounding; the first three point at what is named")
    slot_width: int = Field(32, ge=4, description="what each slot passes on to the heads")
    field_channels: int = Field(8, ge=2, description="values that the instruction's field has at each place")
    bodies: int = Field(1, ge=1, description="points that the field is read at: the robot, its front or what it moves")
    keypoints: bool = Field(False, description="find the bodies by heat maps: where sensors do not tell their places")
    progress: Literal["latent", "field"] = Field(
        "latent",
        description="what progress is read off: latent, context and field, or the field alone",
    )
    policy: Literal["latent", "present"] = Field(
        "latent",
        description="what the policy sees: latent and context, or beside them the sensors and the field's slope",
    )
    constraint_sees_action: bool = Field(
        False, description="the constraint function sees the action that led to a latent too: for rules on motion"
    )
    word_dimensions: int = Field(128, ge=16, le=384, description="principal components of the pretrained words")
    max_tokens: int = Field(48, ge=8, le=512, description="longest instruction")
    horizon: int = Field(5, ge=1, description="K, latent steps that screening imagines")
    frame_skip: int = Field(2, ge=1, description="control steps that one latent step covers")
    composition: Literal["contextual", "global", "concatenation"] = Field(
        "contextual", description="how the modalities are composed; concatenation is the ablation"
    )
    use_vision: bool = Field(True, description="ablation: without, the camera is not seen")
    use_language: bool = Field(True, description="ablation: without, the instruction is not heard")
    use_memory: bool = Field(True, description="ablation: without, only the last frame is seen")
    use_sensors: bool = Field(True, description="ablation: without, the sensor vector is not seen")


class Encoded(NamedTuple):
    """T steps as the encoders see them; P cells of the map."""

    features: Tensor  # [B, T, P, E], the map as remembered
    z_v: Tensor  # [B, T, D]
    z_s: Tensor  # [B, T, D]
    memory: Tensor  # [B, P, E + 1], after the last step
    visible: Tensor  # [B, T, P], logit of each cell being seen, not hidden
    keypoints: Tensor | None  # [B, T, cameras · bodies, H, W], logits of each body's cell; None: none is looked for
    told: Tensor  # [B, T, size], what the heads are told of keypoints; size 0 without


class WorldModel(nn.Module):
    """TC-MMWM. Shapes: B batch, any further leading axes; D latent, C context, A actions, K steps."""

    def __init__(
        self,
        config: ModelConfig,
        cameras: int,
        image: tuple[int, int],
        sensors: int,
        actions: int,
        words: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.shapes = {"cameras": cameras, "image": tuple(image), "sensors": sensors, "actions": actions}
        latent, hidden = config.latent, config.hidden
        map_shape = (image[0] // CELL, image[1] // CELL)
        self.vision = VisionEncoder(cameras, image, config.width, latent)
        self.keypoints = (
            Keypoints(config.width, map_shape, cameras, config.bodies, sensors, latent) if config.keypoints else None
        )
        told = 0 if self.keypoints is None else self.keypoints.size
        self.summary_size = latent + config.slots * config.slot_width + told
        self.memory = MapMemory(config.width)
        self.memory_shape = (cameras * math.prod(map_shape), config.width + 1)
        self.sensor = SensorEncoder(sensors, hidden, latent)
        words = word_embeddings(config.word_dimensions) if words is None else words
        self.language = LanguageEncoder(words, config.width, latent)
        self.grounding = Grounding(config.width, config.slots, config.slot_width)
        self.field = InstructionField(config.width, map_shape, config.field_channels)
        self.reader = FieldReader(latent, self.field.shape, self.field.channels, config.bodies)
        self.context_size = self.summary_size + self.field.channels * math.prod(self.field.shape)
        self.composition = CausalComposition(latent, config.composition)
        self.dynamics = Dynamics(latent, actions, hidden)
        self.constraint_function = ConstraintFunction(
            latent, self.summary_size, self.reader.size, hidden, actions if config.constraint_sees_action else 0
        )
        if config.progress == "field":
            self.progress_head: nn.Module = FieldProgress(config.field_channels, config.bodies)
        else:
            self.progress_head = Progress(latent, self.summary_size, self.reader.size, hidden)
        present = sensors + 4 * config.bodies if config.policy == "present" else 0
        self.policy = Policy(latent, self.summary_size + self.reader.size + present, actions, config.horizon, hidden)
        self.image_decoder = ImageDecoder(latent, image)
        self.sensor_decoder = nn.Linear(latent, sensors)

    def instruct(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens int64 [B, L] and mask bool [B, L] to word features [B, L, 2 E] and z_l [B, D]; once an instruction."""
        words, z_l = self.language(tokens, mask)
        return (words, z_l) if self.config.use_language else (words * 0, z_l * 0)

    def frames(self, images: list[Tensor]) -> Tensor:
        """The map [B, T, P, E] of each frame by itself, of one uint8 [B, T, H, W, 3] a camera."""
        return self.vision.map([image.flatten(0, 1) for image in images]).unflatten(0, images[0].shape[:2])

    def remember(self, images: list[Tensor], memory: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The map that all else is read off [B, T, P, E]: as remembered, or that of each frame without ``use_memory``.

        Second and third, the memory after the last step and what is seen, as of :meth:`encode`, whose ``images`` and
        ``memory`` they are.
        """
        frames = self.frames(images)
        features, remembered, visible = self.memory(frames, memory)
        return (features if self.config.use_memory else frames), remembered, visible

    def encode(self, images: list[Tensor], sensor: Tensor, memory: Tensor | None = None) -> Encoded:
        """Encode T steps, one after the other.

        Args:
            images: one uint8 [B, T, H, W, 3] a camera.
            sensor: [B, T, Ds], raw units.
            memory: [B, P, E + 1], what was seen before (see :class:`MapMemory`); none: nothing.
        """
        steps = sensor.shape[:2]
        features, remembered, visible = self.remember(images, memory)
        z_v, z_s = self.vision(features.flatten(0, 1)).unflatten(0, steps), self.sensor(sensor)
        keypoints, told = None, sensor[..., :0]
        if self.keypoints is not None:
            found = self.keypoints(features.flatten(0, 1), self.reading(sensor).flatten(0, 1))
            keypoints, told = (x.unflatten(0, steps) for x in found)
            # Taught by its own loss alone: what others draw from a place would draw it away from where it is.
            z_v = z_v + self.keypoints.share(self.keypoints.places(told).detach())
        if not self.config.use_vision:
            features, z_v, told = features * 0, z_v * 0, told * 0
        z_s = z_s if self.config.use_sensors else z_s * 0
        return Encoded(features, z_v, z_s, remembered, visible, keypoints, told)

    def ground(
        self, features: Tensor, words: Tensor, mask: Tensor, z_l: Tensor, told: Tensor, field: bool = True
    ) -> Tensor:
        """What the heads see beside the latent, [N, C]: z_l, the grounded summary u_t, what is told, the field.

        Of maps [B, P, E] and what is told with each [B, size], under N instructions, a multiple of B. Without
        ``field``, only what :meth:`refer` needs, at a fraction of the time.
        """
        slots, u = self.grounding(features, words, mask)
        parts = [z_l, u, told.detach()[:, None].expand(-1, len(u) // len(told), -1).flatten(0, 1)]
        return torch.cat([*parts, self.field(features, slots)] if field else parts, -1)

    def refer(self, context: Tensor) -> Tensor:
        """Where is what the instruction names, [..., 3, 4]; see :meth:`Grounding.refer`."""
        pointing = self.config.slots * self.config.slot_width
        return self.grounding.refer(context[..., self.config.latent : self.config.latent + pointing])

    def field_of(self, context: Tensor) -> Tensor:
        """The instruction's field over the first camera's view, [..., F, H, W]."""
        return context[..., self.summary_size :].unflatten(-1, (-1, *self.field.shape))

    def goal(self, context: Tensor) -> Tensor:
        """Progress of the best place in the first camera's view, [...]: near 0 where the goal is in it."""
        first = context[..., self.summary_size : self.summary_size + math.prod(self.field.shape)]
        return first.amax(-1)

    def compose(self, z_v: Tensor, z_l: Tensor, z_s: Tensor) -> tuple[Tensor, Tensor]:
        """z_t [..., D] and the weights α [..., 3] of vision, language and sensors."""
        return self.composition(z_v, z_l, z_s)

    def next(self, z: Tensor, action: Tensor) -> Tensor:
        """ẑ_{t+1} = g(z_t, a_t): z [..., D], normalised action [..., A] to [..., D]."""
        return self.dynamics(z, self.dynamics.from_action(action))

    def rollout(self, z: Tensor, actions: Tensor) -> Tensor:
        """g_k(z_t, a_t … a_{t+k-1}) for k = 1..K: z [..., D], actions [..., K, A] to [..., K, D]."""
        shares = self.dynamics.from_action(actions)
        imagined = []
        for k in range(actions.shape[-2]):
            z = self.dynamics(z, shares[..., k, :])
            imagined.append(z)
        return torch.stack(imagined, -2)

    def judge(self, z: Tensor, context: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Violation and progress of latents z [N, ..., D] under contexts [N, C], each [N, ...].

        v = constraint_function(ẑ, context) > 0 means "violates"; progress is minus the cost to go. ``action``
        [N, ..., A], normalised, is what led to each z; zeros for a latent that was observed, not imagined.
        """
        return self.score(z, self.reader(z, context[:, self.summary_size :]), context[:, : self.summary_size], action)

    def score(self, z: Tensor, read: Tensor, summary: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`judge` gives, of what the field says at each z ``read`` [N, ..., F] and the context's part
        ``summary`` [N, S] that is the same at every place."""
        summary = summary.reshape(len(summary), *(1,) * (z.dim() - 2), -1)
        return self.constraint_function(z, read, summary, action), self.progress_head(z, read, summary)

    def propose(self, z: Tensor, context: Tensor, sensor: Tensor) -> Tensor:
        """The policy's proposal [N, K, A], normalised, from z [N, D], context [N, C] and sensor [N, Ds], raw units."""
        return self.policy(self.policy_input(z, context, sensor))

    def policy_input(self, z: Tensor, context: Tensor, sensor: Tensor) -> Tensor:
        """What the policy sees [N, S] of what :meth:`propose` is given.

        It judges nothing imagined, so it may see the present as it is: superposed on all else in z, a hand's place is
        blurred by more than a gripper may be off.
        """
        summary, field = context[:, : self.summary_size], context[:, self.summary_size :]
        seen = [z, summary, self.reader(z[:, None], field)[:, 0]]
        if self.config.policy == "present":
            told = None if self.keypoints is None else summary[:, -self.keypoints.size :]
            places = self.reader.place(z) if told is None else self.keypoints.places(told)
            seen += [self.reading(sensor), self.reader.slope(places.unflatten(-1, (-1, 2)), field)]
        return torch.cat(seen, -1)

    def reconstruct(self, z_v: Tensor, z_s: Tensor) -> tuple[Tensor, Tensor]:
        """Image in [-1, 1] at a quarter of the resolution [B, 3, H/4, W/4] and the normalised sensor vector [B, Ds]."""
        return self.image_decoder(z_v), self.sensor_decoder(z_s)

    def reading(self, sensor: Tensor) -> Tensor:
        """The normalised sensor vector [..., Ds], zeros where the sensors are not to be seen."""
        reading = self.sensor.normalise(sensor)
        return reading if self.config.use_sensors else reading * 0
