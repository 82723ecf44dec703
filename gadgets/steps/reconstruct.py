"""Frames to images: MoDL, CG-SENSE, compressed sensing or zero-filled."""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import assert_never

from mnet.recon import linear
from mnet.recon.conditions import told_numbers
from mnet.recon.l1_wavelet import l1_wavelet
from mnet.recon.modl import MoDL

from ..errors import GadgetError
from ..mrd.items import Complex, Frame, Item
from ..pipeline.gadget import Gadget
from ..pipeline.models import Models, WeightsName
from ..pipeline.scan import Scan

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(Gadget):
    """Reconstruct every frame from the lines that arrived, whatever was asked for.

    `lam` weighs what is asked of an image beside its lines: for `cg_sense` that it is small, on
    unit-norm operators; for `l1_wavelet` that it has few wavelet coefficients, in units of the
    brightest pixel of the zero-filled image. Neither depends on the scale of the data.

    An image's meta tells what MoDL was told and made of it: `mnet_noise_ratio`, of a pixel's noise
    to its brightness as the lines show it, and `mnet_lam`, the weight of the denoised image against
    the lines in the last data consistency step.
    """

    heavy = True

    # unrolled network, iterative SENSE, compressed sensing, or the transform of what arrived
    method: Literal["modl", "cg_sense", "l1_wavelet", "zero_filled"] = "modl"
    weights: WeightsName = "modl"  # name of deployed weights, for `modl`
    precision: Literal["auto", "float32"] = "auto"  # auto: bfloat16 convolutions if in hardware
    # 0 or more: Tikhonov weight of `cg_sense`, where not given 0.02; weight of the wavelet
    # coefficients of `l1_wavelet`, 0.002
    lam: float | None = None
    # 1 or more: conjugate gradient steps of `cg_sense`, where not given 30; FISTA steps of
    # `l1_wavelet`, 100
    n_iterations: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot converge."""
        if self.lam is not None and self.lam < 0:
            raise ValueError(f"lam is {self.lam}, expected at least 0")
        if self.n_iterations is not None and self.n_iterations < 1:
            raise ValueError(f"n_iterations is {self.n_iterations}, expected at least 1")

    def __call__(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        """Fill in `image` and note the time in the meta data."""
        if self.method == "modl":
            scan.models.get(self.weights)
        return self._stream(scan, items)

    def warm(self, scan: Scan) -> None:
        """Run once on a small frame."""
        kspace = torch.ones(2, 32, 32, dtype=torch.complex64)
        self._image(scan.models, scan.device, kspace, kspace, torch.ones(32))

    def _stream(self, scan: Scan, items: Iterator[Item]) -> Iterator[Item]:
        device, models = scan.device, scan.models
        for item in items:
            if not isinstance(item, Frame):
                yield item
                continue
            if item.csm is None:
                raise GadgetError("Reconstruct got a frame without maps: put CoilMaps before it")
            arrays = (
                torch.from_numpy(item.kspace),
                torch.from_numpy(item.csm),
                torch.from_numpy(item.mask).float(),
            )
            began, start = time.time(), time.monotonic()
            try:
                image, said = self._image(models, device, *arrays)
            except torch.cuda.OutOfMemoryError:
                log.warning("the GPU is out of memory; this scan goes on on the CPU")
                device, models = "cpu", Models("cpu")
                image, said = self._image(models, device, *arrays)
            ms = 1e3 * (time.monotonic() - start)
            if not torch.isfinite(torch.view_as_real(image)).all():
                raise GadgetError(f"slice {item.key.slice}: the reconstruction is not finite")
            array: Complex = image.numpy()
            times = {"recon_began": f"{began:.3f}", "recon_ms": f"{ms:.1f}"}
            meta = {**item.meta, **times, **said, "method": self.method}
            yield replace(item, image=array, meta=meta)

    def _image(
        self, models: Models, device: str, kspace: Tensor, csm: Tensor, mask: Tensor
    ) -> tuple[Tensor, dict[str, str]]:
        """Return the image (x, y) on the CPU, and what its meta tells of the method."""
        batch = [tensor[None].to(device) for tensor in (kspace, csm, mask)]
        said: dict[str, str] = {}
        with torch.inference_mode():
            if self.method == "modl":
                image, said = self._modl(models, batch)
            elif self.method == "cg_sense":
                image = linear.cg_sense(*batch, **self._given())
            elif self.method == "l1_wavelet":
                image = l1_wavelet(*batch, **self._given())
            elif self.method == "zero_filled":
                image = linear.zero_filled(*batch)
            else:
                assert_never(self.method)
        return image[0].cpu(), said

    def _modl(self, models: Models, batch: list[Tensor]) -> tuple[Tensor, dict[str, str]]:
        model = models.get(self.weights)[0]
        if not isinstance(model, MoDL):  # a reconstructor of another kind is told nothing
            return model(*batch), {}
        if self.precision == "float32":
            model = model.in_float32()
        image, told = model.of_scans(*batch)
        noise, lam = told_numbers(told)[0, 0], model.lam(told)[0, -1]
        return image, {"noise_ratio": f"{float(noise):.3g}", "lam": f"{float(lam):.3g}"}

    def _given(self) -> dict[str, Any]:
        """Return the settings that the pipeline names; the method has its own for the others."""
        settings = {"lam": self.lam, "n_iterations": self.n_iterations}
        return {name: value for name, value in settings.items() if value is not None}
