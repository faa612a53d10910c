"""Reconstruction of image and sensors from their latents: stage 1 of the curriculum, and a window on them."""

from __future__ import annotations

from torch import Tensor, nn

SIDE = 8  # pixels that an image's height and width are multiples of: the decoder begins at an eighth of them


class ImageDecoder(nn.Module):
    """z_v [..., D] to an image in [-1, 1] at a quarter of the resolution, [..., 3, H/4, W/4]."""

    def __init__(self, latent: int, image: tuple[int, int], width: int = 32) -> None:
        super().__init__()
        self.start = (width, image[0] // SIDE, image[1] // SIDE)
        self.net = nn.Sequential(
            nn.Linear(latent, width * self.start[1] * self.start[2]),
            nn.SiLU(),
            nn.Unflatten(-1, self.start),
            nn.ConvTranspose2d(width, width, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 3, 3, padding=1),
        )

    def forward(self, z_v: Tensor) -> Tensor:
        """See the class."""
        return self.net(z_v.flatten(0, -2)).unflatten(0, z_v.shape[:-1])
