"""Two scans from Pulseq files give the masks and images of one live adaptive scan."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gadgets.cli import main
from gadgets.errors import ConfigError, IncompleteError
from gadgets.files.source import Source, open_source, write_mrd
from gadgets.host.child_host import Address
from gadgets.mask.in_band import read_hello
from gadgets.mask.mask_file import read_masks, write_masks
from gadgets.mask.messages import PLAN
from gadgets.mrd.header_layouts import Flag, is_imaging
from gadgets.mrd.header_values import with_values
from gadgets.mrd.items import Acquisition, Image
from gadgets.scanner.replay import replay
from gadgets.scanner.sequence import SequenceParameters, play
from gadgets.steps.image_finish import SERIES
from gadgets.two_scans.merge import merge
from mnet.masks.densities import low_pass
from mnet.masks.line_plan import LinePlan
from mnet.sequence.echo_order import EchoOrder
from tests.gadgets.helpers.closed_loop import N_KY, N_X, source

pypulseq = pytest.importorskip("pypulseq")

TRAIN, N_SLICES = 4, 2
PROTOCOL = ["tse", "--limits", "siemens", "--matrix", str(N_X), str(N_KY), "--fov-mm", str(N_X)]
PROTOCOL += [str(N_KY), "--slices", str(N_SLICES), "--echo-train", str(TRAIN)]
PROTOCOL += ["--acceleration", "2", "--echo-ms", "12"]


def measured(scan: Source, seq: Path) -> list[Acquisition]:
    """What a scanner measures with a file, as a converter leaves it: in time, counters at zero.

    Independent of the code under test: which line is which is read from k-space and from the
    frequencies of the slices' pulses.
    """
    sequence = pypulseq.Sequence()
    sequence.read(str(seq))
    k, _, excited, _, times = sequence.calculate_kspace()
    ky = k[1].reshape(-1, 2 * N_X)[:, 0] * N_KY * 1e-3 + N_KY // 2
    blocks = [sequence.get_block(number) for number in sequence.block_events]
    pulses = [b.rf for b in blocks if b.rf is not None and b.rf.use == "excitation"]
    offsets = [rf.freq_offset for rf in pulses]
    before = np.searchsorted(excited, times.reshape(-1, 2 * N_X)[:, N_X]) - 1
    slices = np.array([sorted(set(offsets)).index(offsets[i]) for i in before])
    known = {
        (int(a.header["slice"]), int(a.header["kspace_encode_step_1"])): a
        for a in scan.acquisitions
    }
    lines = []
    for number, row in zip(slices.tolist(), np.round(ky).astype(int).tolist(), strict=True):
        line = known[number, row]
        header = line.header.copy()
        for name in ("kspace_encode_step_1", "slice", "flags", "center_sample"):
            header[name] = 0
        lines.append(replace(line, header=header))
    return lines


def converted(scan: Source, seq: Path, name: str) -> Path:
    """Write raw data with the faults of converters, and convert them with their sequence."""
    xml = with_values(scan.header, {"trajectory": "other", "encoded": f"{2 * N_X}x{N_KY}x2"})
    raw, target = seq.with_name(f"raw-{name}.h5"), seq.with_name(f"{name}.h5")
    write_mrd(raw, xml, measured(scan, seq))
    assert main(["convert", str(raw), str(target), "--seq", str(seq), "--quiet"]) == 0
    return target


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both scans, the masks, and the scan that is made of them."""
    folder = tmp_path_factory.mktemp("parts")
    scan = source(N_SLICES)
    first, second, masks = folder / "first.seq", folder / "second.seq", folder / "masks.json"
    assert main(["sequence", *PROTOCOL, "--part", "calibration", "-o", str(first)]) == 0
    converted(scan, first, "first")
    assert main(["decide", str(folder / "first.h5"), "-o", str(masks), "--quiet"]) == 0
    assert main(["sequence", *PROTOCOL, "--masks", str(masks), "-o", str(second)]) == 0
    converted(scan, second, "second")
    files = [str(folder / name) for name in ("first.h5", "second.h5")]
    merged = ["-o", str(folder / "scan.h5"), "--masks", str(masks)]
    assert main(["merge", *files, *merged]) == 0
    return folder


def live(address: Address) -> tuple[list[tuple[int, ...]], list[Image]]:
    """Play the scan in one."""
    plan = LinePlan.of(np.ones(N_KY, dtype=bool), 2.0, group_size=TRAIN)
    order = EchoOrder(rule="continuous", train=TRAIN)
    sequence = SequenceParameters(
        plan=plan, fallback=low_pass(plan), echo_order=order, deadline_ms=60_000.0
    )
    played, images = play(source(N_SLICES), sequence, address, "float32.xml")
    assert not any(one.fallback for one in played)
    return [one.counters for one in played], images


def pixels(images: Sequence[Image]) -> np.ndarray:
    """The reconstructed images in their slices' order, in the units of the stream."""
    ours = [i for i in images if int(i.header["image_series_index"]) == SERIES]
    ours.sort(key=lambda image: int(image.header["slice"]))
    return np.stack([i.data * float(i.meta.get("RescaleSlope", "1")) for i in ours])


def test_two_scans_have_the_masks_and_images_of_one(parts: Path, address: Address) -> None:
    counters, images = live(address)
    masks = read_masks(parts / "masks.json")
    assert [one.counters for one in masks.slices] == counters
    assert not any(one.fallback for one in masks.slices)
    assert {one.reason for one in masks.slices} == {"predicted"}
    again = replay(parts / "scan.h5", address, "float32.xml")
    assert (again.n_equal, again.n_masks) == (N_SLICES, N_SLICES)
    one, two = pixels(images), pixels(again.images)
    # sums in another order: the last digits of 32 bits, and steps of 16-bit pixels
    assert np.linalg.norm(two - one) < 1e-4 * np.linalg.norm(one)
    meta = [i.meta for i in again.images if int(i.header["image_series_index"]) == SERIES]
    assert {each["mnet_fallback"] for each in meta} == {"false"}


def test_the_header_and_counters_are_those_of_the_sequence(parts: Path) -> None:
    first = open_source(parts / "first.h5")
    geometry = first.geometry
    assert geometry.encoded == (2 * N_X, N_KY, 1)
    assert geometry.recon == (N_X, N_KY, 1)
    assert (geometry.ky_min, geometry.ky_max, geometry.center) == (0, N_KY - 1, N_KY // 2)
    assert geometry.n_slices == N_SLICES
    assert geometry.tr_ms == 3000.0
    truth = {
        (int(a.header["slice"]), int(a.header["kspace_encode_step_1"])): a.data
        for a in source(N_SLICES).acquisitions
    }
    for line in first.acquisitions:
        key = int(line.header["slice"]), int(line.header["kspace_encode_step_1"])
        assert np.array_equal(line.data, truth[key])
        assert int(line.header["flags"]) & Flag.MASK_CALIBRATION
        assert is_imaging(int(line.header["flags"]))
    second = open_source(parts / "second.h5")
    assert not any(int(a.header["flags"]) & Flag.MASK_CALIBRATION for a in second.acquisitions)


def test_the_merged_scan_has_every_line_once_and_the_calibration_first(parts: Path) -> None:
    merged, masks = open_source(parts / "scan.h5"), read_masks(parts / "masks.json")
    n = len(masks.hello.calibration)
    for one in masks.slices:
        lines = [a for a in merged.acquisitions if int(a.header["slice"]) == one.slice]
        counters = [int(a.header["kspace_encode_step_1"]) for a in lines]
        assert sorted(counters) == list(one.counters)
        assert sorted(counters[:n]) == list(masks.hello.calibration)
        flags = [int(a.header["flags"]) for a in lines]
        assert np.flatnonzero([f & Flag.FIRST_IN_SLICE for f in flags]).tolist() == [0]
        assert np.flatnonzero([f & Flag.LAST_IN_SLICE for f in flags]).tolist() == [len(flags) - 1]


def test_without_the_masks_the_same_plan_is_found(parts: Path) -> None:
    both = [open_source(parts / name) for name in ("first.h5", "second.h5")]
    masks = read_masks(parts / "masks.json")
    plans = [merge(*both).geometry.user[PLAN], merge(*both, masks).geometry.user[PLAN]]
    found, given = (read_hello(plan, "") for plan in plans)
    assert found == given == masks.hello


def test_lines_that_are_not_those_decided_are_refused(parts: Path) -> None:
    first, second = (open_source(parts / name) for name in ("first.h5", "second.h5"))
    masks = read_masks(parts / "masks.json")
    with pytest.raises(ConfigError, match=r"lines .* in both scans"):
        merge(first, first)
    with pytest.raises(IncompleteError, match="slices have"):
        merge(first, replace(second, acquisitions=second.acquisitions[1:]))
    moved = [replace(a, header=a.header.copy()) for a in second.acquisitions]
    for line in moved:
        line.header["slice"] = 1 - line.header["slice"]
    with pytest.raises(ConfigError, match="it was moved, or slices are in another order"):
        merge(first, replace(second, acquisitions=moved))
    other = [replace(a, header=a.header.copy()) for a in second.acquisitions]
    free = set(range(N_KY)) - set(masks.slices[0].counters)
    line = next(a for a in other if a.header["slice"] == 0)
    line.header["kspace_encode_step_1"] = min(free)
    with pytest.raises(ConfigError, match="do not belong together"):
        merge(first, replace(second, acquisitions=other), masks)


def test_scans_of_two_protocols_are_not_merged(parts: Path) -> None:
    first, second = (open_source(parts / name) for name in ("first.h5", "second.h5"))
    other = with_values(second.header, {"recon_fov": f"{N_X - 8}x{N_KY}x4"})
    with pytest.raises(ConfigError, match="differ in recon_fov"):
        merge(first, replace(second, header=other))


def test_another_gain_is_told(parts: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = (open_source(parts / name) for name in ("first.h5", "second.h5"))

    def noisy(scan: Source, strength: float) -> Source:
        line = scan.acquisitions[0]
        header = line.header.copy()
        header["flags"] = Flag.NOISE
        noise = np.random.default_rng(0).standard_normal(line.data.shape) * strength
        readout = replace(line, header=header, data=noise.astype(np.complex64))
        return replace(scan, acquisitions=[readout, *scan.acquisitions])

    merge(noisy(first, 1.0), noisy(second, 1.02))
    assert not caplog.records
    merge(noisy(first, 1.0), noisy(second, 2.0))
    assert "2.00 times that of the first" in caplog.text


def test_a_calibration_with_a_line_missing_gets_no_mask(parts: Path, tmp_path: Path) -> None:
    first = open_source(parts / "first.h5")
    write_mrd(tmp_path / "cut.h5", first.header, first.acquisitions[:-1])
    command = ["decide", str(tmp_path / "cut.h5"), "-o", str(tmp_path / "masks.json"), "--quiet"]
    assert main(command) == 1
    assert not (tmp_path / "masks.json").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(schema="x"), "schema mnet-masks/1"),
        (lambda d: d["slices"][0]["counters"].pop(), "slice 0: "),
        (lambda d: d["slices"].pop(0), "slices: expected 0, 1, 2"),
        (lambda d: d["hello"].pop("center"), "center"),
        (lambda d: d.pop("sampler_sha256"), "'sampler_sha256' is missing"),
        (lambda d: d["slices"][0].update(counters=["1"]), "expected a whole number"),
    ],
)
def test_masks_that_break_the_rules_are_not_read(parts: Path, tmp_path, change, words) -> None:
    document = json.loads((parts / "masks.json").read_text())
    change(document)
    (tmp_path / "masks.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match=words):
        read_masks(tmp_path / "masks.json")


def test_masks_are_read_as_they_were_written(parts: Path, tmp_path: Path) -> None:
    masks = read_masks(parts / "masks.json")
    write_masks(tmp_path / "again.json", masks)
    assert read_masks(tmp_path / "again.json") == masks


def test_masks_of_another_protocol_make_no_sequence(parts: Path, tmp_path: Path, capsys) -> None:
    wrong = [*PROTOCOL[:-6], "--slices", "3", "--echo-train", "4", "--echo-ms", "12"]
    command = ["sequence", *wrong, "--masks", str(parts / "masks.json"), "-o"]
    assert main([*command, str(tmp_path / "x.seq")]) == 1
    assert "slices: the protocol has 3, the masks have 2" in capsys.readouterr().err


def test_data_of_another_sequence_are_not_given_its_counters(parts: Path, capsys) -> None:
    raw, seq = parts / "raw-first.h5", parts / "second.seq"
    lines = open_source(parts / "second.h5").acquisitions
    write_mrd(parts / "fewer.h5", open_source(raw, as_it_is=True).header, lines[:-2])
    command = ["convert", str(parts / "fewer.h5"), str(parts / "x.h5"), "--seq", str(seq)]
    assert main([*command, "--quiet"]) == 1
    assert f"measures {len(lines)} lines, the raw data have {len(lines) - 2}" in (
        capsys.readouterr().err
    )
