"""The three encoders z_v = f_v(o_v), z_s = f_s(o_s), z_l = f_l(o_l)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tc_mmwm_core.models.layers import Block, KeysValues, coordinates, mlp

CELL = 4  # pixels of an image that one cell of the map is high and wide
CLIP = 5  # units of its scale beyond which a sensor field is all the same


class Trunk(nn.Sequential):
    """The convolutions of one camera. A class of ours: torch.compile passes over torch's own modules."""

    def forward(self, image: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] to [B, E, rows, columns]."""
        return super().forward(image.permute(0, 3, 1, 2).float() / 127.5 - 1)


class VisionEncoder(nn.Module):
    """f_v: cameras to a feature map with coordinates, and from it z_v.

    The map has one cell every :data:`CELL` pixels; the maps of several cameras are laid end to end. z_v is read off the
    map by learned queries, so that it can keep where things are and not only what there is.
    """

    def __init__(self, cameras: int, image: tuple[int, int], width: int, latent: int, readers: int = 4) -> None:
        super().__init__()
        if image[0] % CELL or image[1] % CELL:
            raise ValueError(f"image is {image[0]}x{image[1]}; height and width must be multiples of {CELL}")
        self.trunks = nn.ModuleList(
            Trunk(
                # overlapping patches: a third of two strided layers' time
                nn.Conv2d(3, width, 2 * CELL, stride=CELL, padding=CELL // 2),
                nn.GroupNorm(8, width),
                nn.SiLU(),
                nn.Conv2d(width, width, 3, padding=1),
                nn.GroupNorm(8, width),
                nn.SiLU(),
            )
            for _ in range(cameras)
        )
        self.register_buffer("grid", coordinates(image[0] // CELL, image[1] // CELL), persistent=False)
        self.place = nn.ModuleList(nn.Conv2d(2, width, 1) for _ in range(cameras))
        self.mix = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.readers = nn.Parameter(torch.randn(1, readers, width) * 0.1)
        self.read = Block(width, 4)
        self.out = nn.Linear(readers * width, latent)

    def compile(self, *args: object, **options: object) -> None:
        """As :meth:`nn.Module.compile`, with the convolutions: :meth:`map` is no call of the module."""
        super().compile(*args, **options)
        for trunk in self.trunks:
            trunk.compile(*args, **options)

    def map(self, images: list[Tensor]) -> Tensor:
        """``images``, one uint8 [B, H, W, 3] a camera, to the map [B, P, E]."""
        maps = []
        for image, trunk, place in zip(images, self.trunks, self.place, strict=True):
            maps.append((trunk(image) + place(self.grid)).flatten(2).transpose(1, 2))
        features = torch.cat(maps, 1)
        return features + self.mix(features)

    def forward(self, features: Tensor) -> Tensor:
        """z_v [B, D] of a map [B, P, E]."""
        summary = self.read(self.readers.expand(len(features), -1, -1), KeysValues(features))
        return self.out(summary.flatten(1))


class SensorEncoder(nn.Module):
    """f_s: sensor vector in raw units to z_s; the normalisation is part of the encoder."""

    def __init__(self, sensors: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(sensors))
        self.register_buffer("scale", torch.ones(sensors))
        self.net = mlp(sensors, hidden, latent)

    def normalise(self, sensor: Tensor) -> Tensor:
        """Zero mean and unit scale over the training data, clipped to ±:data:`CLIP`, [..., Ds]."""
        return ((sensor - self.mean) / self.scale).clamp(-CLIP, CLIP)

    def forward(self, sensor: Tensor) -> Tensor:
        """[..., Ds] to [..., D]."""
        return self.net(self.normalise(sensor))


class LanguageEncoder(nn.Module):
    """f_l: tokens to word features and z_l.

    The word embeddings are pretrained and frozen (so that words never trained on land near those that were); what is
    above them is trained. See :mod:`tc_mmwm_core.models.vocabulary`.

    A word is found by its phrase and read by itself: the "red" of "the red pad" is the goal's colour whatever else the
    sentence names. A transformer over the sentence learned which colours go together instead, and pointed wrong where
    training never showed two of them together. Keeping syntax and meaning apart is how Russin et al.
    (Compositional generalization by separating syntax and semantics, 2019) made a translator generalise so.
    """

    def __init__(self, words: Tensor, width: int, latent: int, phrase: int = 5) -> None:
        super().__init__()
        self.register_buffer("words", words.half(), persistent=False)  # given by the package, not learned
        self.project = nn.Linear(words.shape[1], width)
        self.neighbours = nn.Conv1d(width, width, phrase, padding=phrase // 2)
        self.mix = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.out = nn.Linear(width, latent)

    def forward(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """``tokens`` int64 [B, L], ``mask`` bool [B, L].

        Returns word features [B, L, 2 E], of each word in its phrase and then of the word alone, and z_l [B, D].
        """
        weight = mask.float()[..., None]
        word = self.project(self.words[tokens].float())
        phrase = word + self.neighbours((word * weight).transpose(1, 2)).transpose(1, 2)
        phrase = self.norms[0](phrase + self.mix(phrase))
        z_l = self.out((phrase * weight).sum(1) / weight.sum(1).clamp(min=1))
        return torch.cat([phrase, self.norms[1](word)], -1), z_l
