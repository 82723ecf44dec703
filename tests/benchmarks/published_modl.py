"""The published MoDL inference, as its code describes it: the peer of ours.

SENSE operator with 2-D transforms on the 640 x 368 matrix, lambda 100, six unrolls with shared
weights, the denoiser DIDN with 64 channels and two blocks (3.4 million parameters), conjugate
gradients from the denoised image until the residual is below 1e-5, at most 50 iterations, the
normal operator applied twice in each, the residual read on the host.

DIDN: Yu et al. 2019, doi:10.1109/CVPRW.2019.00262. Written from descriptions, not from its code.
"""

import torch
from torch import Tensor, fft, nn

LAM, N_UNROLLS, TOLERANCE, MOST_ITERATIONS = 100.0, 6, 1e-5, 50
AXES = (-2, -1)


def _convolutions(n: int, count: int) -> nn.Sequential:
    """Return 3x3 convolutions, each followed by a PReLU."""
    layers = [layer for _ in range(count) for layer in (nn.Conv2d(n, n, 3, padding=1), nn.PReLU())]
    return nn.Sequential(*layers)


class _DownUp(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.first, self.second, self.third = (
            _convolutions(width, count) for width, count in ((n, 2), (2 * n, 1), (4 * n, 1))
        )
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w, 2 * w, 3, stride=2, padding=1), nn.PReLU())
            for w in (n, 2 * n)
        )
        self.up = nn.ModuleList(
            nn.Sequential(nn.Conv2d(w, 2 * w, 1), nn.PixelShuffle(2)) for w in (4 * n, 2 * n)
        )
        self.merge = nn.ModuleList(nn.Conv2d(2 * w, w, 1) for w in (2 * n, n))
        self.fourth, self.fifth = _convolutions(2 * n, 1), _convolutions(n, 2)
        self.out = nn.Conv2d(n, n, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = x + self.first(x)
        middle = self.down[0](fine)
        middle = middle + self.second(middle)
        coarse = self.down[1](middle)
        coarse = coarse + self.third(coarse)
        y = self.merge[0](torch.cat([self.up[0](coarse), middle], 1))
        y = y + self.fourth(y)
        y = self.merge[1](torch.cat([self.up[1](y), fine], 1))
        y = y + self.fifth(y)
        result: Tensor = x + self.out(y)
        return result


class DIDN(nn.Module):
    """Denoise images (batch, 2, x, y) whose sizes are multiples of 8."""

    def __init__(self, n: int = 64, n_blocks: int = 2) -> None:
        super().__init__()
        self.enter = nn.Sequential(
            nn.Conv2d(2, n, 3, padding=1),
            nn.PReLU(),
            nn.Conv2d(n, n, 3, stride=2, padding=1),
            nn.PReLU(),
        )
        self.blocks = nn.ModuleList(_DownUp(n) for _ in range(n_blocks))
        self.gather = nn.Sequential(nn.Conv2d(n * n_blocks, n, 1), nn.PReLU())
        self.last = _convolutions(n, 1)
        self.leave = nn.Sequential(nn.PixelShuffle(2), nn.Conv2d(n // 4, 2, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        y, outputs = self.enter(x), []
        for block in self.blocks:
            y = block(y)
            outputs.append(y)
        y = self.gather(torch.cat(outputs, 1))
        result: Tensor = x + self.leave(y + self.last(y))
        return result


def denoise(network: nn.Module, image: Tensor) -> Tensor:
    """Return the denoised complex image (batch, x, y)."""
    channels = torch.view_as_real(image).permute(0, 3, 1, 2).contiguous()
    return torch.view_as_complex(network(channels).permute(0, 2, 3, 1).contiguous())


def centred(transform: object, x: Tensor) -> Tensor:
    """Apply a 2-D transform, `fft.fft2` or `fft.ifft2`, with zero frequency in the centre."""
    return fft.fftshift(transform(fft.ifftshift(x, AXES), norm="ortho"), AXES)  # type: ignore[operator]


@torch.inference_mode()
def reconstruct(network: nn.Module, kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
    """Return the image (x, y) from k-space and maps (coils, x, y) and a mask (y,)."""

    def normal(image: Tensor) -> Tensor:
        spectrum = mask * centred(fft.fft2, csm * image)
        return (csm.conj() * centred(fft.ifft2, spectrum)).sum(0) + LAM * image

    adjoint = (csm.conj() * centred(fft.ifft2, mask * kspace)).sum(0)
    x = adjoint
    for _ in range(N_UNROLLS):
        prior = denoise(network, x[None])[0]
        x = _solve(normal, adjoint + LAM * prior, prior)
    return x


def _solve(normal: object, rhs: Tensor, x: Tensor) -> Tensor:
    residual = rhs - normal(x)  # type: ignore[operator]
    direction = residual
    for _ in range(MOST_ITERATIONS):
        if float(residual.norm()) <= TOLERANCE:
            break
        energy = residual.norm() ** 2
        step = energy / torch.vdot(direction.flatten(), normal(direction).flatten())  # type: ignore[operator]
        x = x + step * direction
        residual = residual - step * normal(direction)  # type: ignore[operator]
        direction = residual + (residual.norm() ** 2 / energy) * direction
    return x


def multiply_adds(network: nn.Module, *shape: int) -> float:
    """Count the multiplications of a network's convolutions for an input, in units of 1e9."""
    total = 0.0

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        weight = layer.weight
        # a transposed convolution spends its kernel on inputs, 2 x 2 with stride 2: a quarter
        share = 0.25 if isinstance(layer, nn.ConvTranspose2d) else 1.0
        n_in = layer.in_channels
        total += share * out.numel() * n_in * weight[0, 0].numel() / 1e9

    kinds = nn.Conv2d | nn.ConvTranspose2d
    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, kinds)]
    with torch.inference_mode():
        network(torch.zeros(shape))
    for hook in hooks:
        hook.remove()
    return total
