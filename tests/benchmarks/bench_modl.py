"""MoDL against its published inference, its own plain path, other reconstructions and the floor.

    .venv/bin/python -m tests.benchmarks.bench --only modl

One slice of a simulated head, 15 coils, 640 x 368, readout oversampled twice, R = 4.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor, fft, nn
from torch.nn import functional

from gadgets.scanner.demo_scan import demo_volume
from mnet.masks.densities import variable_density
from mnet.masks.line_plan import LinePlan
from mnet.physics import sense
from mnet.physics.coil_maps import coil_maps
from mnet.physics.coils import compress_rows
from mnet.physics.fourier import fourier, inverse_fourier
from mnet.recon import linear
from mnet.recon.cg_inference import DROPPED_ENERGY, DataConsistency
from mnet.recon.conditions import conditions
from mnet.recon.l1_wavelet import l1_wavelet
from mnet.recon.modl import MoDL, has_bfloat16
from mnet.recon.phase import surrounding_phase
from mnet.score.image_quality import nrmse
from mnet.weight_files import load_weights
from tests.benchmarks import published_modl
from tests.benchmarks.bench import Check, Curve, Figure, by_turns, median
from tests.benchmarks.open_study import HOW, UNET

N_STEPS = 3  # conjugate gradients at lambda 100, where each gains two digits


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slice:
    """A slice for both sides."""

    hybrid: Tensor  # (coils, x, ky) with the oversampled readout
    csm: Tensor  # (coils, x, ky)
    mask: Tensor  # (ky,)

    def cropped(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return k-space, maps and mask without readout oversampling, as a batch of one."""
        quarter = self.hybrid.shape[1] // 4
        rows = slice(quarter, 3 * quarter)
        kspace = torch.where(self.mask > 0, self.hybrid, 0)[:, rows]
        return kspace[None].contiguous(), self.csm[None, :, rows].contiguous(), self.mask[None]


def make(n_coils: int = 15, n_x: int = 320, n_ky: int = 368) -> Slice:
    """Simulate a slice; signals are near 1, which the published absolute tolerance needs."""
    volume = demo_volume(
        n_slices=1, n_coils=n_coils, n_x=n_x, n_ky=n_ky, n_acquirable=7 * n_ky // 8
    )
    hybrid = inverse_fourier(torch.from_numpy(volume.kspace[0]).to(torch.complex64), dim=-2)
    hybrid = hybrid / inverse_fourier(hybrid, dim=-1).abs().max()
    plan = LinePlan.of(volume.acquirable, 4.0)
    csm = coil_maps(hybrid[None, :, :, torch.from_numpy(plan.calibration)], n_ky)[0]
    mask = torch.from_numpy(variable_density(plan, np.random.default_rng(0))).float()
    return Slice(hybrid=hybrid, csm=csm, mask=mask)


def random_didn(image: Tensor) -> nn.Module:
    """Return the published denoiser with random weights, its correction a fifth of the image."""
    torch.manual_seed(0)
    network = published_modl.DIDN().eval().requires_grad_(False)
    change = published_modl.denoise(network, image) - image
    last = cast(nn.Conv2d, network.leave[1])
    for value in (last.weight, cast(Tensor, last.bias)):
        value.mul_(0.2 * image.norm() / change.norm())
    return network


@torch.inference_mode()
def hybrid_path(network: nn.Module, kspace: Tensor, csm: Tensor, mask: Tensor) -> Tensor:
    """Run the published network on 1-D problems: one transform along the readout, then rows."""
    hybrid = inverse_fourier(kspace, dim=-2)
    lam = torch.tensor(published_modl.LAM)
    step = DataConsistency(hybrid[None], csm[None], mask[None], n_iterations=N_STEPS)
    image = step.zero_filled
    for _ in range(published_modl.N_UNROLLS):
        channels = torch.view_as_real(image).permute(0, 3, 1, 2)  # channels last as it is
        prior = network(channels).permute(0, 2, 3, 1).contiguous()
        image = step(torch.view_as_complex(prior), lam)
    return image[0]


def distance(a: Tensor, b: Tensor) -> float:
    """Return the relative difference of two images."""
    return float((a - b).norm() / b.norm())


def measure() -> Iterator[Figure | Curve]:
    data = make()
    model = load_weights("modl")[0]
    if not isinstance(model, MoDL):
        raise TypeError("weights 'modl' are not a MoDL")
    yield from against_published(data, model)
    yield from beside_others(data, model)
    yield from against_the_floor(data, model)
    yield from growth(model)


def against_published(data: Slice, model: MoDL) -> Iterator[Figure]:
    kspace = fourier(torch.where(data.mask > 0, data.hybrid, 0), dim=-2)
    inputs = data.cropped()
    network = random_didn(sense.adjoint(data.hybrid, data.csm, data.mask)[None])
    same = nn.Sequential(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    theirs = published_modl.reconstruct(network, kspace, data.csm, data.mask)
    ours = hybrid_path(same, kspace, data.csm, data.mask)
    seconds = by_turns(
        {
            "peer": lambda: published_modl.reconstruct(network, kspace, data.csm, data.mask),
            "hybrid": lambda: hybrid_path(same, kspace, data.csm, data.mask),
            "deployed": lambda: infer(model, inputs),
            "plain": lambda: plain(model, inputs),
        },
        repeats=3,
    )
    published = "published MoDL inference re-implemented, 2-D operator 640 x 368"
    yield Figure(
        figure="MoDL with the published network and weights, 640 x 368, float32",
        ours=median(seconds["hybrid"]),
        peer=median(seconds["peer"]),
        unit="s",
        peer_name=published,
        check=Check(what="difference of the images", value=distance(ours, theirs), at_most=1e-3),
    )
    truth = reference(data)
    scores = {name: float(nrmse(run(model, inputs).abs(), truth)) for name, run in PATHS.items()}
    change = abs(scores["deployed"] / scores["plain"] - 1)
    check = Check(what="change of NRMSE from plain float32", value=change, at_most=0.005)
    yield Figure(
        figure="deployed MoDL, one slice, time only",
        ours=median(seconds["deployed"]),
        peer=median(seconds["peer"]),
        unit="s",
        peer_name=published,
        min_ratio=12,
        check=check,
        note=f"ours {size(model.denoiser, model.n_unrolls, denoiser_gmac(model, 320, 368))}, "
        f"published {size(network, 6, published_modl.multiply_adds(network, 1, 2, 640, 368))}",
    )
    yield Figure(
        figure="deployed MoDL, one slice",
        ours=median(seconds["deployed"]),
        peer=median(seconds["plain"]),
        unit="s",
        peer_name="our own plain path in float32",
        check=check,
    )


def size(network: nn.Module, n_unrolls: int, gmac: float) -> str:
    """Tell parameters and multiplications of a denoiser with its unrolls."""
    parameters = sum(value.numel() for value in network.parameters()) / 1e6
    return f"{parameters:.2f} M parameters, {n_unrolls} x {gmac:.1f} GMAC"


def denoiser_gmac(model: MoDL, n_x: int, n_y: int) -> float:
    """Count the multiplications of one unroll: of the image before it too, both mirrored."""
    once = published_modl.multiply_adds(model.denoiser, 1, 4, n_x, n_y)
    return 2 * once if model.symmetric else once


@torch.inference_mode()
def infer(model: MoDL, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Reconstruct as deployed."""
    image: Tensor = model(*inputs)
    return image


@torch.no_grad()
def plain(model: MoDL, inputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Reconstruct as in training, in float32."""
    image: Tensor = model(*inputs)
    return image


PATHS: dict[str, Callable[[MoDL, tuple[Tensor, Tensor, Tensor]], Tensor]] = {
    "deployed": infer,
    "plain": plain,
}


def reference(data: Slice) -> Tensor:
    """Return the magnitude of all lines combined, (1, x, y)."""
    full = Slice(hybrid=data.hybrid, csm=data.csm, mask=torch.ones_like(data.mask))
    return sense.adjoint(*full.cropped()).abs()


def beside_others(data: Slice, model: MoDL) -> Iterator[Figure]:
    """Compare quality and time with a U-Net of the same training and with what knows no data."""
    inputs, truth = data.cropped(), reference(data)
    methods: dict[str, Callable[[], Tensor]] = {
        "zero-filled": lambda: linear.zero_filled(*inputs),
        "CG-SENSE": lambda: linear.cg_sense(*inputs),
        "l1-wavelet, sigpy, 100 iterations": lambda: l1_wavelet(*inputs),
    }
    if UNET.with_suffix(".json").exists():
        unet = load_weights(str(UNET))[0]
        methods["U-Net, 0.48 M parameters"] = lambda: unet(*inputs)
    else:
        print(f"without the U-Net beside MoDL: {UNET} is {HOW}")
    ours = float(nrmse(infer(model, inputs).abs(), truth))
    for name, run in methods.items():
        peer = float(nrmse(run().abs(), truth))
        yield Figure(figure="NRMSE of deployed MoDL", ours=ours, peer=peer, unit="", peer_name=name)
    seconds = by_turns({"ours": lambda: infer(model, inputs), **methods}, repeats=3)
    for name in methods:
        yield Figure(
            figure="deployed MoDL, one slice",
            ours=median(seconds["ours"]),
            peer=median(seconds[name]),
            unit="s",
            peer_name=name,
        )


def against_the_floor(data: Slice, model: MoDL) -> Iterator[Figure]:
    """Compare with what multiplications, transforms and bytes alone would take here."""
    inputs = data.cropped()
    csm = inputs[1]
    dtype = torch.bfloat16 if has_bfloat16(csm.device) else torch.float32
    image = torch.randn(1, 128, 160, 96, dtype=dtype).to(memory_format=torch.channels_last)
    kernel = torch.randn(128, 128, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    n_coils = compress_rows(csm, DROPPED_ENERGY).shape[1]
    coils = torch.randn(n_coils, *csm.shape[-2:], dtype=csm.dtype)
    step, told = DataConsistency(*inputs, n_iterations=model.n_cg), conditions(*inputs)
    with torch.inference_mode():
        seconds = by_turns(
            {
                "convolution": lambda: functional.conv2d(image, kernel, padding=1),
                "transform": lambda: fft.fft(coils),
                "copy": lambda: coils.clone(),
                "ours": lambda: infer(model, inputs),
                "denoiser": lambda: denoise(model, step.zero_filled, told),
                "operator": lambda: step.normal(step.zero_filled),
            },
            repeats=7,
        )
    best = {name: min(values) for name, values in seconds.items()}
    gmac = denoiser_gmac(model, *csm.shape[-2:])
    rate = image.numel() * 128 * 9 / 1e9 / best["convolution"]  # GMAC/s
    bandwidth = 2 * coils.numel() * 8 / 1e9 / best["copy"]
    # one for every step and one for every residual but the first, that of a black image
    n_operators = (model.n_unrolls + 1) * (model.n_cg + 1) - 1
    floor = model.n_unrolls * gmac / rate + n_operators * 2 * best["transform"]
    passes = (
        f"{model.n_unrolls} x {gmac:.1f} GMAC at the peak of {rate:.0f} GMAC/s; {n_operators} x 2 "
        f"transforms of {n_coils} coils; copies run at {bandwidth:.0f} GB/s"
    )
    yield Figure(
        figure="deployed MoDL against its floor: convolutions and transforms alone",
        ours=median(seconds["ours"]),
        peer=floor,
        unit="s",
        peer_name="floor measured here",
        note=passes,
    )
    yield Figure(
        figure="its denoiser against the floor",
        ours=median(seconds["denoiser"]),
        peer=gmac / rate,
        unit="s",
        peer_name=f"{gmac:.1f} GMAC in one large {str(dtype)[6:]} convolution's pace",
    )
    yield Figure(
        figure="its normal operator against the floor",
        ours=median(seconds["operator"]),
        peer=2 * best["transform"],
        unit="s",
        peer_name="two transforms",
        note=f"at least {8 * coils.numel() / 1e6:.0f} MB of maps read in each",
    )


def denoise(model: MoDL, image: Tensor, told: Tensor) -> Tensor:
    """Run the denoiser once as inference does."""
    return model.denoise(image, image, surrounding_phase(image), told, 0)


def growth(model: MoDL) -> Iterator[Curve]:
    """Time one slice over coils and over matrices."""
    most = make(32).cropped()
    cases = {
        "coils": {n: (most[0][:, :n], most[1][:, :n], most[2]) for n in (4, 8, 16, 32)},
        "matrix": {n: make(15, n, n).cropped() for n in (128, 256, 512)},
    }
    for name, problems in cases.items():
        costs = [
            median(by_turns({"": partial(infer, model, inputs)}, 3)[""])
            for inputs in problems.values()
        ]
        yield Curve(
            panel=f"MoDL, {name}",
            name="deployed",
            sizes=tuple(float(n) for n in problems),
            costs=tuple(costs),
            size_name=name,
        )
