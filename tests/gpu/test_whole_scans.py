"""A host with a GPU: whole scans, what is left of its memory, and what happens where it is full."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from gadgets.host.child_host import private_host
from gadgets.mrd.header_layouts import image_key
from gadgets.mrd.items import Frame, Item, PreScan
from gadgets.pipeline.chain import run
from gadgets.pipeline.models import Models
from gadgets.pipeline.scan import Scan
from gadgets.scanner.adaptive_scan import Options, adaptive_scan
from gadgets.steps.coil_maps import CoilMaps
from gadgets.steps.reconstruct import Reconstruct
from tests.gadgets.helpers.closed_loop import source
from tests.gadgets.helpers.synthetic import scanned

pytestmark = pytest.mark.gpu
LARGE = scanned(n_x=128, n_ky=160, n_coils=8)


def slices(n: int) -> Iterator[Item]:
    """A slice again and again, its calibration lines before it."""
    kspace = LARGE.hybrid().astype(np.complex64)
    line = LARGE.line(80)
    calibration = np.abs(np.arange(160) - 80) < 12
    key, counters = image_key(line.header), np.flatnonzero(calibration)
    for _ in range(n):
        yield PreScan(key=key, lines=kspace[:, :, calibration], counters=counters)
        yield Frame(
            key=key,
            header=line.header,
            kspace=kspace,
            mask=np.ones(160, bool),
            calibration=calibration,
        )


def reconstructed(device: str, n: int) -> Iterator[Frame]:
    scan = Scan(geometry=LARGE.geometry, device=device, models=Models(device))
    for item in run((CoilMaps(), Reconstruct()), scan, slices(n)):
        if isinstance(item, Frame):
            assert item.image is not None
            yield item


def test_a_closed_loop_gives_the_masks_and_images_of_the_processor(
    device: str, tmp_path: Path
) -> None:
    results = []
    for name in ("cpu", device):
        records = tmp_path / f"on-{len(results)}"
        with private_host(records, device=name) as address:
            results.append(adaptive_scan(source(3), address, Options(acceleration=2.0)))
    on_cpu, on_gpu = results
    assert on_gpu.json["summary"]["fallbacks"] == 0
    assert np.array_equal(on_cpu.masks, on_gpu.masks)
    # bfloat16 rounds otherwise on another device
    assert float((on_gpu.images - on_cpu.images).norm() / on_cpu.images.norm()) < 1e-2


def test_memory_does_not_grow_with_slices(device: str) -> None:
    if device == "cpu":
        pytest.skip("counts the memory of a GPU")
    allocated = []
    for frame in reconstructed(device, 40):
        assert frame.image is not None
        allocated.append(torch.cuda.memory_allocated())
    assert max(allocated[10:]) <= max(allocated[:10])


def test_a_full_gpu_leaves_maps_and_images_to_the_processor(
    device: str, caplog: pytest.LogCaptureFixture
) -> None:
    if device == "cpu":
        pytest.skip("fills a GPU")
    (expected,) = reconstructed("cpu", 1)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-9)
    try:
        found = list(reconstructed(device, 2))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert expected.image is not None
    for frame in found:
        assert frame.image is not None
        assert np.allclose(frame.image, expected.image, rtol=1e-2, atol=1e-2)
    assert caplog.text.count("goes on on the CPU") == 2  # of maps, and of images
