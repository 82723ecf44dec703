"""A slice that holds nothing but noise, from the line that arrives to the image that leaves."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from gadgets.files.source import Source
from gadgets.host.child_host import Address
from gadgets.mrd.items import Acquisition
from gadgets.scanner.sequence import play
from mnet.sampler.mnet_select import MNetSelect
from mnet.weight_files import load_weights
from tests.gadgets.helpers.closed_loop import sequence, source

NOISY = 1  # the slice


def noise_in_one_slice() -> Source:
    rng = np.random.default_rng(3)

    def changed(line: Acquisition) -> Acquisition:
        if line.header["slice"] != NOISY:
            return line
        real, imag = rng.normal(size=(2, *line.data.shape))
        return replace(line, data=(0.002 * (real + 1j * imag)).astype(np.complex64))

    whole = source(2)
    return replace(whole, acquisitions=[changed(line) for line in whole.acquisitions])


def test_a_slice_of_noise_alone_gets_the_fallback_of_the_sampler_and_its_image_says_so(
    address: Address, records: Path
) -> None:
    played, images = play(noise_in_one_slice(), sequence(4.0), address, "adaptive_modl.xml")
    model, card = load_weights("mnet_select")
    assert "guard" in card
    assert isinstance(model, MNetSelect)
    best = np.flatnonzero(model.population(sequence(4.0).plan)).tolist()
    assert sorted(played[NOISY].counters) == best
    assert not played[NOISY].fallback  # it is a mask like any, and the sequence took it
    found = [image for image in images if image.header["slice"] == NOISY]
    assert {image.meta["mnet_guard"] for image in found} == {"noise only"}
    (shown,) = (image.meta for image in found if "mnet_fallback" in image.meta)
    assert (shown["mnet_fallback"], shown["mnet_reason"]) == ("false", "predicted")
    assert shown["mnet_choice"] == "guard: noise only"
    others = [image for image in images if image.header["slice"] != NOISY]
    assert others
    assert "noise only" not in {image.meta.get("mnet_guard") for image in others}
    written = max(records.glob("*/scan.json"), key=lambda path: path.stat().st_mtime)
    assert json.loads(written.read_text())["slices"][NOISY]["guard"] == "noise only"
