"""A U-Net without biases and normalisation.

Without additive constants the network is homogeneous, f(a x) = a f(x) for a > 0: it needs no image
scale, and denoises at noise levels it was not trained on (Mohan et al. 2020, arXiv:1906.05478).
Architecture after Ronneberger et al. 2015, doi:10.1007/978-3-319-24574-4_28.

What else it is told enters as gains of its channels (feature-wise modulation, Perez et al. 2018,
arXiv:1709.07871, here without shifts), which leaves it homogeneous.
"""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..physics import sense

AROUND = 16  # pixels beyond each edge of the field of view that are shown of the other side


class _Block(nn.Sequential):
    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(
            nn.Conv2d(n_in, n_out, 3, padding=1, bias=False),
            nn.LeakyReLU(0.1, inplace=True),
            nn.Conv2d(n_out, n_out, 3, padding=1, bias=False),
            nn.LeakyReLU(0.1, inplace=True),
        )
        self.n_out = n_out

    def modulated(self, x: Tensor, gains: Tensor) -> Tensor:
        """Run with gains (batch, n_out) between the two convolutions."""
        first, bend, second, end = self
        x = bend(first(x)) * gains[:, :, None, None].to(x.dtype)
        result: Tensor = end(second(x))
        return result


class UNet(nn.Module):
    """Map images (batch, n_in, x, y) to a correction (batch, 2, x, y), for any x and y.

    With `n_conditions`, numbers (batch, n_conditions) about the images set the gains of channels.
    """

    def __init__(
        self, n_channels: int = 16, n_levels: int = 3, n_in: int = 2, n_conditions: int = 0
    ) -> None:
        super().__init__()
        widths = [n_channels * 2**level for level in range(n_levels + 1)]
        self.n_levels = n_levels
        self.down = nn.ModuleList(
            _Block(before, after) for before, after in zip([n_in, *widths], widths, strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * n, n, 2, stride=2, bias=False) for n in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(_Block(2 * n, n) for n in reversed(widths[:-1]))
        self.out = nn.Conv2d(n_channels, 2, 1, bias=False)
        nn.init.zeros_(self.out.weight)  # an untrained network changes nothing
        self.sizes = [*widths, *reversed(widths[:-1])]
        self.gain = nn.Linear(n_conditions, sum(self.sizes), bias=False) if n_conditions else None
        if self.gain is not None:
            nn.init.zeros_(self.gain.weight)
        # the layout that processors convolve fastest in
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, conditions: Tensor | None = None) -> Tensor:
        """Return the correction (batch, 2, x, y)."""
        gains = self._gains(conditions)
        n_x, n_y = x.shape[-2:]
        multiple = 2**self.n_levels
        x = functional.pad(x, (0, 0, 0, -n_x % multiple), mode="replicate")
        # along ky the field of view comes round: what leaves it at one side enters at the other
        columns = torch.arange(-AROUND, n_y + -n_y % multiple + AROUND, device=x.device) % n_y
        x = x.index_select(-1, columns)
        x = x.contiguous(memory_format=torch.channels_last)
        skips = []
        for block in self.down[:-1]:
            x = _run(block, x, gains)
            skips.append(x)
            x = functional.avg_pool2d(x, 2)
        x = _run(self.down[-1], x, gains)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = _run(merge, torch.cat([up(x), skips.pop()], dim=1), gains)
        correction: Tensor = self.out(x)
        return correction[..., :n_x, AROUND : AROUND + n_y]

    def _gains(self, conditions: Tensor | None) -> Iterator[Tensor] | None:
        """Give the gains (batch, channels) of one block after another."""
        if self.gain is None or conditions is None:
            return None
        gains: Tensor = 1 + self.gain(conditions)
        return iter(torch.split(gains, self.sizes, dim=1))


def _run(block: nn.Module, x: Tensor, gains: Iterator[Tensor] | None) -> Tensor:
    result: Tensor = block(x) if gains is None else cast(_Block, block).modulated(x, next(gains))
    return result


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


def complex_correction(
    network: nn.Module, *images: Tensor, conditions: Tensor | None = None
) -> Tensor:
    """Run a network on the parts of complex images (batch, x, y), two channels for each."""
    channels = torch.cat([torch.view_as_real(image) for image in images], -1).permute(0, 3, 1, 2)
    weight = next(network.parameters())
    told = () if conditions is None else (conditions.to(weight.dtype),)
    # under autocast the network may answer in half precision, which complex numbers do not have
    correction = network(channels.to(weight.dtype), *told).to(channels.dtype)
    return torch.view_as_complex(correction.permute(0, 2, 3, 1).contiguous())
