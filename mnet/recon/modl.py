"""MoDL: data consistency and a learned denoiser in turn, unrolled.

    z_n = x_n + D(x_n),    x_{n+1} = argmin_x |M (A x - y)|^2 + lam |x - z_n|^2

from the zero-filled image, with shared weights and a learnable lam. The whole map is homogeneous in
y, because the denoiser has no biases: no image scale enters. Aggarwal et al. 2019,
doi:10.1109/TMI.2018.2865356.

Under `torch.inference_mode`, as deployed, the same map runs faster: see `mnet.recon.cg_inference`,
and bfloat16 convolutions where the machine has them. Training and its labels take the plain path.
"""

import math
from copy import copy
from typing import Self

import torch
from torch import Tensor, nn

from ..physics import sense
from .cg import data_consistency
from .cg_inference import DataConsistency
from .unet import UNet, complex_correction


class MoDL(nn.Module):
    """Reconstruct images (batch, x, y) from hybrid k-space (batch, coils, x, ky)."""

    def __init__(
        self,
        n_channels: int = 16,
        n_levels: int = 3,
        n_unrolls: int = 5,
        n_cg: int = 10,
        initial_lam: float = 0.05,
    ) -> None:
        super().__init__()
        self.config = {
            "n_channels": n_channels,
            "n_levels": n_levels,
            "n_unrolls": n_unrolls,
            "n_cg": n_cg,
        }
        self.n_unrolls = n_unrolls
        self.n_cg = n_cg
        self.use_bfloat16 = True  # in the denoiser, at inference, where hardware has it
        self.denoiser = UNet(n_channels, n_levels)
        # softplus keeps lam positive
        self.raw_lam = nn.Parameter(torch.tensor(math.log(math.expm1(initial_lam))))

    @property
    def lam(self) -> Tensor:
        """The weight of the denoised image in data consistency, on unit-norm operators."""
        return nn.functional.softplus(self.raw_lam)

    def in_float32(self) -> Self:
        """Return this network, its weights shared, without bfloat16."""
        model = copy(self)
        model.use_bfloat16 = False
        return model

    def denoise(self, image: Tensor) -> Tensor:
        """Return image + D(image) for complex images (batch, x, y)."""
        return image + complex_correction(self.denoiser, image)

    def forward(self, kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
        """Return complex images (batch, x, y); mask is (batch, ky), real, and may carry gradients.

        Only lines of `mask` are used; for a gradient towards others `kspace` must hold them.
        """
        if torch.is_inference_mode_enabled():
            return self._infer(kspace, csm, mask)
        image = sense.adjoint(kspace, csm, mask)
        for _ in range(self.n_unrolls):
            image = data_consistency(
                self.denoise(image), self.lam, mask, kspace, csm, n_iterations=self.n_cg
            )
        return image

    def _infer(self, kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
        consistency = DataConsistency(kspace, csm, mask, self.lam, n_iterations=self.n_cg)
        image = consistency.zero_filled
        halve = self.use_bfloat16 and image.dtype == torch.complex64 and has_bfloat16(image.device)
        for _ in range(self.n_unrolls):
            with torch.autocast(image.device.type, torch.bfloat16, enabled=halve):
                prior = self.denoise(image)
            image = consistency(prior)
        return image


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):  # torch 2.10 and later
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False
