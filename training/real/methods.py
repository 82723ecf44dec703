"""The methods that are compared: k-space of the lines of a mask in, a complex image out.

A method may come in several settings; the best of them by NRMSE is what stands in the table. Only
the peers have that advantage, and the table says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from mnet.masks.line_plan import Bool
from mnet.recon import linear
from mnet.recon.l1_wavelet import l1_wavelet
from mnet.recon.modl import MoDL
from mnet.weight_files import load_weights
from training.real import bart
from training.real.scans import RealScan
from training.real.scores import figures as figures_of

# of hybrid k-space and maps (coils, x, ky) and the real mask (ky,)
Reconstruct = Callable[[Tensor, Tensor, Tensor], Tensor]
BART_WEIGHTS = (0.002, 0.005, 0.01)
# our unit is about 2.5 times BART's, see mnet.recon.l1_wavelet
SIGPY_WEIGHTS = tuple(0.4 * weight for weight in BART_WEIGHTS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One method by the name that rows have, in one setting or in several."""

    name: str
    settings: tuple[tuple[str, Reconstruct], ...]  # what tells a setting apart, and the call


def one(name: str, call: Reconstruct) -> Method:
    """Return a method of a single setting."""
    return Method(name=name, settings=(("", call),))


def network(model: nn.Module) -> Reconstruct:
    """Return a network's call, in single precision; this is the one place that knows it."""
    model = model.in_float32() if isinstance(model, MoDL) else model
    return lambda kspace, csm, mask: model(kspace[None], csm[None], mask[None])[0]


def linear_methods() -> list[Method]:
    """Return the methods without a network and without weights to choose."""
    return [
        one("cg_sense", linear.cg_sense),
        one("zero_filled", linear.zero_filled),
    ]


def wavelet_methods() -> list[Method]:
    """Return l1-wavelet by sigpy, and by BART where it is installed."""
    calls: list[tuple[str, Callable[..., Tensor], Sequence[float]]] = [
        ("l1_wavelet", lambda k, s, m, lam: l1_wavelet(k, s, m, lam=lam), SIGPY_WEIGHTS)
    ]
    if bart.installed():
        calls.append(("bart_l1_wavelet", bart.l1_wavelet, BART_WEIGHTS))
    return [
        Method(name=name, settings=tuple((f"{w:g}", partial(_weighted, call, w)) for w in weights))
        for name, call, weights in calls
    ]


def _weighted(
    call: Callable[..., Tensor],
    weight: float,
    kspace: Tensor,
    csm: Tensor,
    mask: Tensor,
) -> Tensor:
    return call(kspace, csm, mask, weight)


def read_methods(weights: str = "modl", unet: str | None = None) -> list[Method]:
    """Return all methods: MoDL by its weights, U-Net where there are some, and the peers.

    Raises
    ------
    ValueError
        If weights are missing, damaged or of another network.
    """
    found = [one("modl", network(_load(weights, "MoDL")))]
    if unet is not None:
        found.append(one("unet", network(_load(unet, "UNetReconstructor"))))
    return found + linear_methods() + wavelet_methods()


def _load(weights: str, kind: str) -> nn.Module:
    model, card = load_weights(weights)
    if card["architecture"]["class"] != kind:
        raise ValueError(
            f"weights {weights} are a {card['architecture']['class']}, expected a {kind}"
        )
    return model


@torch.inference_mode()
def reconstruct(call: Reconstruct, scan: RealScan, mask: Bool) -> Tensor:
    """Return the image (x, y) on the encoded field of view, from the lines of `mask` alone."""
    rows = torch.from_numpy(mask)
    kspace = torch.where(rows, scan.sample.kspace, 0)
    return call(kspace, scan.sample.csm, rows.to(kspace.real.dtype))


@dataclass(frozen=True, kw_only=True, eq=False)
class Result:
    """A method's image of a scan from one mask, in its best setting."""

    scan: RealScan
    setting: str
    encoded: Tensor  # (x, y) complex, on the encoded field of view

    @cached_property
    def image(self) -> Tensor:
        """The image (x, y) in the reconstructed space, as the method gives it."""
        return self.scan.to_recon_space(self.encoded)

    @cached_property
    def figures(self) -> dict[str, float]:
        """Its FIGURES."""
        return figures_of(self.image, self.scan.reference, self.scan.rss)

    @property
    def nrmse(self) -> float:
        """Its NRMSE after one complex scale."""
        return self.figures["nrmse"]


def best(method: Method, scan: RealScan, mask: Bool) -> Result:
    """Reconstruct a mask's lines in every setting of a method; return the one of least NRMSE."""
    results = [
        Result(scan=scan, setting=setting, encoded=reconstruct(call, scan, mask))
        for setting, call in method.settings
    ]
    return min(results, key=lambda result: result.nrmse)
