"""MoDL: data consistency and a learned denoiser in turn, unrolled.

    x_0     = argmin_x |M (A x - y)|^2 + lam_0 |x|^2,
    z_n     = x_n + p D(p* x_n, p* x_{n-1}; c, n),
    x_{n+1} = argmin_x |M (A x - y)|^2 + lam_n |x - z_n|^2

It begins with CG-SENSE, and where the denoiser has nothing to say it stays there. p is the phase of
the surroundings in x_0 (`mnet.recon.phase`): the denoiser sees nearly real images, and a global
phase changes nothing by construction. Denoiser and lam know the conditions c of the scan
(`mnet.recon.conditions`): its noise, its acceleration, what its coils can tell apart. Every lam is
a product of their powers,

    lam_n = exp(a_n + b_n log(noise / 0.02) + c_n log(acceleration / 4) + d_n log(coils / 3)),

and the denoiser's channels have gains that are linear in the logarithms and differ by unroll; all
other weights are shared. Where it is `symmetric`, D is the mean of the denoiser and of the denoiser
between two mirrors: S x is the complex conjugate of x reflected through its middle, which is the
image of conjugated k-space, so that k-space and its conjugate have one image. A whole scan is put
into noise units first (`mnet.recon.noise_units`): |.|^2 weighs its coils by their noise. The whole
map is homogeneous in y, because the denoiser has no biases: no image scale enters. After Aggarwal
et al. 2019, doi:10.1109/TMI.2018.2865356, which has one lam and begins with the zero-filled image.

Under `torch.inference_mode`, as deployed, the same map runs faster: see `mnet.recon.cg_inference`.
Convolutions are of bfloat16 there and in training where the machine has them; labels, which are
made outside of both, are not.
"""

import math
from copy import copy

import torch
from torch import Tensor, nn
from typing_extensions import Self

from .cg import data_consistency
from .cg_inference import DataConsistency
from .conditions import N_CONDITIONS, conditions
from .noise_units import noise_units
from .phase import surrounding_phase
from .unet import UNet, complex_correction

LAM_RANGE = (0.005, 100.0)  # below, few steps of conjugate gradients are no solution
CG_SENSE = 0.02  # lam_0 before training, near the best for an image without a prior


class MoDL(nn.Module):
    """Reconstruct images (batch, x, y) from hybrid k-space (batch, coils, x, ky)."""

    def __init__(
        self,
        n_channels: int = 24,
        n_levels: int = 3,
        n_unrolls: int = 5,
        n_cg: int = 4,
        initial_lam: float = 0.05,
        symmetric: bool = False,
    ) -> None:
        super().__init__()
        self.config = {
            "n_channels": n_channels,
            "n_levels": n_levels,
            "n_unrolls": n_unrolls,
            "n_cg": n_cg,
            "symmetric": symmetric,
        }
        self.symmetric = symmetric
        self.n_unrolls = n_unrolls
        self.n_cg = n_cg
        self.use_bfloat16 = True  # in the denoiser, in training and at inference, if in hardware
        self.denoiser = UNet(n_channels, n_levels, n_in=4, n_conditions=N_CONDITIONS + n_unrolls)
        self.log_lam = nn.Linear(N_CONDITIONS, n_unrolls + 1)
        nn.init.zeros_(self.log_lam.weight)
        nn.init.constant_(self.log_lam.bias, math.log(initial_lam))
        with torch.no_grad():
            self.log_lam.bias[0] = math.log(CG_SENSE)

    def lam(self, told: Tensor) -> Tensor:
        """Return lam of every step (batch, n_unrolls + 1) under conditions (batch, 3).

        The weight of the denoised image in data consistency, on unit-norm operators.
        """
        low, high = (math.log(bound) for bound in LAM_RANGE)
        lam: Tensor = self.log_lam(told).clamp(low, high).exp()
        return lam

    def in_float32(self) -> Self:
        """Return this network, its weights shared, without bfloat16."""
        model = copy(self)
        model.use_bfloat16 = False
        return model

    def denoise(
        self, image: Tensor, previous: Tensor, phase: Tensor, told: Tensor, unroll: int
    ) -> Tensor:
        """Return z for complex images (batch, x, y) and those before them, `phase` being p."""
        which = told.new_zeros(told.shape[0], self.config["n_unrolls"])
        which[:, unroll] = 1
        halve = self.use_bfloat16 and (self.training or torch.is_inference_mode_enabled())
        halve = halve and image.dtype == torch.complex64 and has_bfloat16(image.device)
        inputs = [image * phase.conj(), previous * phase.conj()]
        told = torch.cat([told, which], 1)
        if self.symmetric:
            inputs = [torch.cat([part, conjugate_image(part)]) for part in inputs]
            told = told.repeat(2, 1)
        with torch.autocast(image.device.type, torch.bfloat16, enabled=halve):
            turned = complex_correction(self.denoiser, *inputs, conditions=told)
        if self.symmetric:
            turned, mirrored = turned.chunk(2)
            turned = (turned + conjugate_image(mirrored)) / 2
        return image + phase * turned

    def forward(
        self, kspace: Tensor, csm: Tensor, mask: Tensor, told: Tensor | None = None
    ) -> Tensor:
        """Return complex images (batch, x, y); mask is (batch, ky), real, and may carry gradients.

        Only lines of `mask` are used; for a gradient towards others `kspace` must hold them. `told`
        are the conditions (batch, 3) of the scan, needed where this is only a band of its rows;
        its coils are then taken to be white, those of a whole scan are put into noise units.
        """
        if told is None:
            return self.of_scans(kspace, csm, mask)[0]
        lam = self.lam(told)[..., None, None]
        if torch.is_inference_mode_enabled():
            return self._infer(
                DataConsistency(kspace, csm, mask, n_iterations=self.n_cg), lam, told
            )
        nothing = torch.zeros_like(kspace[:, 0])
        image = data_consistency(nothing, lam[:, 0], mask, kspace, csm, n_iterations=self.n_cg)
        previous, phase = image, surrounding_phase(image)
        for n in range(self.n_unrolls):
            prior = self.denoise(image, previous, phase, told, n)
            previous = image
            image = data_consistency(
                prior, lam[:, n + 1], mask, kspace, csm, n_iterations=self.n_cg
            )
        return image

    def of_scans(self, kspace: Tensor, csm: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return images of whole scans, and the conditions (batch, 3) that they are made under."""
        kspace, csm, gain = noise_units(kspace, csm, mask)
        told = conditions(kspace, csm, mask)
        image: Tensor = self(kspace, csm, mask, told)
        return image / gain, told

    def _infer(self, consistency: DataConsistency, lam: Tensor, told: Tensor) -> Tensor:
        image = consistency(torch.zeros_like(consistency.zero_filled), lam[:, 0])
        previous, phase = image, surrounding_phase(image)
        for n in range(self.n_unrolls):
            prior = self.denoise(image, previous, phase, told, n)
            previous, image = image, consistency(prior, lam[:, n + 1])
        return image


def conjugate_image(image: Tensor) -> Tensor:
    """Return the image (batch, x, y) of conjugated k-space, both axes mirrored about the middle.

    Along x that is between two pixels, where their number is even: nothing comes round there.
    """
    mirrored = image.flip(-2, -1).roll(1 - image.shape[-1] % 2, -1)
    return mirrored.conj().resolve_conj()


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # torch 2.10 and later
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False
