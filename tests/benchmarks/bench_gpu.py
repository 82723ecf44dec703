"""A GPU beside the processor of the same machine: maps and MoDL of one slice, and the first one.

    make gpu

One slice of a simulated head, 15 coils, 320 x 368, R = 4. Times on the GPU end when it has
finished. Without one there is nothing to measure.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from mnet.physics.coil_maps import coil_maps
from mnet.recon.modl import MoDL
from mnet.weight_files import load_weights
from tests.benchmarks.bench import Check, Figure, by_turns, median
from tests.benchmarks.bench_modl import distance, make

FIRST = """
import time
began = time.monotonic()
import torch
from mnet.weight_files import load_weights
model = load_weights("modl")[0].to("cuda")
with torch.inference_mode():
    kspace = torch.randn(1, 15, 320, 368, dtype=torch.complex64, device="cuda")
    model(kspace, kspace / kspace.norm(dim=1, keepdim=True), torch.ones(1, 368, device="cuda"))
torch.cuda.synchronize()
print(time.monotonic() - began)
"""


def measure() -> Iterator[Figure]:
    if not torch.cuda.is_available():
        return
    name = torch.cuda.get_device_name()
    case = make()
    middle = case.hybrid.shape[-1] // 2
    lines = case.hybrid[..., middle - 12 : middle + 12]
    maps = partial(coil_maps, lines, case.hybrid.shape[-1])
    maps_on_gpu = partial(coil_maps, lines.to("cuda"), case.hybrid.shape[-1])
    yield _figure("ESPIRiT maps, 15 coils, 320 x 368", name, maps, maps_on_gpu, at_most=1e-2)
    model = load_weights("modl")[0]
    assert isinstance(model, MoDL)
    arrays = case.cropped()
    on_cpu = partial(torch.inference_mode()(model.in_float32()), *arrays)
    expected = on_cpu()
    seconds = by_turns({"cpu": on_cpu}, 3)["cpu"]
    model = model.to("cuda")
    there = [part.to("cuda") for part in arrays]
    for precision, network, at_most in (
        ("float32", model.in_float32(), 1e-3),
        ("bfloat16", model, 1e-2),
    ):
        on_gpu = _finished(partial(torch.inference_mode()(network), *there))
        yield Figure(
            figure=f"MoDL, 15 coils, 320 x 368, {precision}",
            ours=median(by_turns({"gpu": on_gpu}, 20)["gpu"]),
            peer=median(seconds),
            unit="s",
            peer_name=f"the same on the processor, float32; GPU: {name}",
            check=Check(
                what="relative difference",
                value=distance(on_gpu().cpu(), expected),
                at_most=at_most,
            ),
        )
    memory = torch.cuda.max_memory_allocated() / 2**20
    found = subprocess.run(
        [sys.executable, "-c", FIRST], capture_output=True, text=True, check=True
    )
    yield Figure(
        figure="the first slice of a process, imports and weights counted",
        ours=float(found.stdout),
        unit="s",
        note=f"most memory allocated in this run: {memory:.0f} MiB",
    )


def _figure(
    figure: str, name: str, cpu: Callable[[], Tensor], gpu: Callable[[], Tensor], at_most: float
) -> Figure:
    on_gpu = _finished(gpu)
    seconds = by_turns({"cpu": cpu, "gpu": on_gpu}, 10)
    gap = distance(on_gpu().cpu(), cpu())
    return Figure(
        figure=figure,
        ours=median(seconds["gpu"]),
        peer=median(seconds["cpu"]),
        unit="s",
        peer_name=f"the same on the processor; GPU: {name}",
        check=Check(what="relative difference", value=gap, at_most=at_most),
    )


def _finished(call: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Return a call that waits until the GPU has finished."""

    def run() -> Tensor:
        result = call()
        torch.cuda.synchronize()
        return result

    return run
