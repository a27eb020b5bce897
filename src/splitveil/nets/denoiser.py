"""The U-Net of a diffusion model, for pictures of any size. It needs the extra ``diffusion``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from splitveil.errors import MissingExtraError, SpecError

__all__ = ["GROUPS", "Denoiser", "require_diffusers"]

GROUPS = 8
"""Of the group norm: the number of channels is a multiple of it."""

_HALVINGS = 2
_SMALLEST = 8  # side of the maps that go in: two halvings of it leave something to attend to


def require_diffusers() -> Any:
    """The package diffusers.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import diffusers
    except ModuleNotFoundError as error:
        raise MissingExtraError("diffusers", "diffusion", "a diffusion prior") from error
    return diffusers


class Denoiser(nn.Module):
    """``(n, c, h, w)`` noisy and ``(n,)`` level to the noise in it.

    ```
    x --[ pad to a multiple of 4 ]-- conv C - down 2C - down 2C, attention - up ... --[ crop ]-- noise
    ```

    Args:
        picture: ``(c, h, w)``.
        channels: C.

    Raises:
        SpecError: channels that are not a multiple of 8.
        MissingExtraError: diffusers is not installed.

    Reference:
        Ho et al.: Denoising Diffusion Probabilistic Models, NeurIPS 2020; the network is that of diffusers.
    """

    def __init__(self, picture: tuple[int, ...], *, channels: int) -> None:
        super().__init__()
        if channels < GROUPS or channels % GROUPS:
            raise SpecError(f"expected channels in multiples of {GROUPS}, got {channels}")
        step = 2**_HALVINGS
        self.sides = [max(_SMALLEST, -(-side // step) * step) for side in picture[1:]]
        self.picture = picture
        self.net = require_diffusers().UNet2DModel(
            sample_size=max(self.sides),
            in_channels=picture[0],
            out_channels=picture[0],
            layers_per_block=1,
            block_out_channels=(channels, 2 * channels, 2 * channels),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            attention_head_dim=GROUPS,
            norm_num_groups=GROUPS,
        )

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """The noise, of the shape of x."""
        height, width = self.picture[1:]
        below, right = self.sides[0] - height, self.sides[1] - width
        padded = functional.pad(x, (0, right, 0, below), mode="replicate")
        found: Tensor = self.net(padded, level).sample
        return found[..., :height, :width]
