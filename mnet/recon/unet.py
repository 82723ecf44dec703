"""A U-Net without biases and normalisation.

Without additive constants the network is homogeneous, f(a x) = a f(x) for a > 0: it needs no image
scale, and denoises at noise levels it was not trained on (Mohan et al. 2020, arXiv:1906.05478).
Architecture after Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..physics import sense


class _Block(nn.Sequential):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.LeakyReLU(0.1, inplace=True),
        )


class UNet(nn.Module):
    """Map images (batch, 2, x, y) to a correction of the same shape, for any x and y."""

    def __init__(self, n_channels: int = 16, n_levels: int = 3) -> None:
        super().__init__()
        widths = [n_channels * 2**level for level in range(n_levels + 1)]
        self.n_levels = n_levels
        self.down = nn.ModuleList(
            _Block(n_in, n_out) for n_in, n_out in zip([2, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * n, n, 2, stride=2, bias=False) for n in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(_Block(2 * n, n) for n in reversed(widths[:-1]))
        self.out = nn.Conv2d(n_channels, 2, 1, bias=False)
        nn.init.zeros_(self.out.weight)  # an untrained network changes nothing

    def forward(self, x: Tensor) -> Tensor:
        """Return the correction (batch, 2, x, y)."""
        n_x, n_y = x.shape[-2:]
        multiple = 2**self.n_levels
        x = functional.pad(x, (0, -n_y % multiple, 0, -n_x % multiple), mode="replicate")
        skips = []
        for block in self.down[:-1]:
            x = block(x)
            skips.append(x)
            x = functional.avg_pool2d(x, 2)
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = merge(torch.cat([up(x), skips.pop()], dim=1))
        correction: Tensor = self.out(x)
        return correction[..., :n_x, :n_y]


class UNetReconstructor(nn.Module):
    """Remove the aliases of zero-filled images: images (batch, x, y) from hybrid k-space."""

    def __init__(self, n_channels: int = 16, n_levels: int = 3) -> None:
        super().__init__()
        self.config = {"n_channels": n_channels, "n_levels": n_levels}
        self.unet = UNet(n_channels, n_levels)

    def correct(self, image: Tensor) -> Tensor:
        """Return images (batch, x, y) without the aliases of zero-filled ones."""
        return image + complex_correction(self.unet, image)

    def forward(self, kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
        """Return complex images (batch, x, y); mask is (batch, ky), real, may carry gradients."""
        return self.correct(sense.adjoint(kspace, csm, mask))


def complex_correction(network: nn.Module, image: Tensor) -> Tensor:
    """Run a network from and to two channels on the parts of complex images (batch, x, y)."""
    channels = torch.view_as_real(image).permute(0, 3, 1, 2)
    weight = next(network.parameters())
    # under autocast the network may answer in half precision, which complex numbers do not have
    correction = network(channels.to(weight.dtype)).to(channels.dtype)
    return torch.view_as_complex(correction.permute(0, 2, 3, 1).contiguous())
