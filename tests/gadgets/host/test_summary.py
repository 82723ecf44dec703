"""What a Cartesian reconstruction must keep track of, and no test of a single gadget speaks for.

Beside it: rows, limits and fastMRI's padding in test_geometry, test_dataset and test_twix_file;
readouts in test_readout; grouping, averages and a slice's end in test_accumulate; when a mask is
decided in test_predict_mask; noise in test_noise_adjust and test_noise_store; image header, meta
and scaling in test_image_finish; position and directions in test_orientation.
"""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest

from gadgets.cli import main
from gadgets.files.source import open_source, write_mrd
from gadgets.host.child_host import Address
from gadgets.mrd.complete import OFF_CENTRE
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import WAVEFORM_HEADER, Flag
from gadgets.mrd.items import Acquisition, Frame, Image, Waveform
from gadgets.mrd.messages import Close, ConfigFile, Header, Text
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from gadgets.steps.accumulate import AccumulateFrame
from gadgets.steps.coil_maps import CoilMaps
from gadgets.steps.readout import RemoveReadoutOversampling
from tests.gadgets.helpers.peer import Peer, connected, session
from tests.gadgets.helpers.synthetic import Scanned, acquisition, changed, scanned

with warnings.catch_warnings():  # importing ismrmrd changes the warning filters
    import ismrmrd

ONE = scanned(n_ky=32)
CONFIG = ConfigFile("default.xml")


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("FIRST_IN_SLICE", "ACQ_FIRST_IN_SLICE"),
        ("LAST_IN_SLICE", "ACQ_LAST_IN_SLICE"),
        ("FIRST_IN_REPETITION", "ACQ_FIRST_IN_REPETITION"),
        ("LAST_IN_REPETITION", "ACQ_LAST_IN_REPETITION"),
        ("NOISE", "ACQ_IS_NOISE_MEASUREMENT"),
        ("CALIBRATION", "ACQ_IS_PARALLEL_CALIBRATION"),
        ("CALIBRATION_AND_IMAGING", "ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING"),
        ("REVERSE", "ACQ_IS_REVERSE"),
        ("NAVIGATION", "ACQ_IS_NAVIGATION_DATA"),
        ("PHASE_CORRECTION", "ACQ_IS_PHASECORR_DATA"),
        ("LAST_IN_MEASUREMENT", "ACQ_LAST_IN_MEASUREMENT"),
        ("HP_FEEDBACK", "ACQ_IS_HPFEEDBACK_DATA"),
        ("DUMMY", "ACQ_IS_DUMMYSCAN_DATA"),
        ("RT_FEEDBACK", "ACQ_IS_RTFEEDBACK_DATA"),
        ("SURFACE_COIL_CORRECTION", "ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA"),
        ("COMPRESSION_ZFP", "ACQ_COMPRESSION1"),
        ("COMPRESSION_NHLBI", "ACQ_COMPRESSION2"),
        ("MASK_CALIBRATION", "ACQ_USER1"),
    ],
)
def test_flags_are_the_bits_that_ismrmrd_sets(ours: str, theirs: str) -> None:
    line = ismrmrd.Acquisition()
    line.setFlag(getattr(ismrmrd, theirs))
    assert line.flags == getattr(Flag, ours)


def test_the_centre_of_a_readout_is_that_of_its_own_header() -> None:
    whole = ONE.lines()
    cut = [
        acquisition(line.data[:, n:], center_sample=24 - n, kspace_encode_step_1=ky)
        for ky, (line, n) in enumerate(zip(whole, [0, 3, 8, 1] * 8, strict=True))
    ]
    scan = Scan(geometry=ONE.geometry)
    (found,) = run((AccumulateFrame(),), scan, cut)
    (expected,) = run((AccumulateFrame(),), scan, whole)
    assert isinstance(found, Frame)
    assert isinstance(expected, Frame)
    image, truth = (np.fft.ifft(np.fft.ifftshift(one.kspace, axes=2)) for one in (found, expected))
    # the samples that are missing blur; a wrong centre would turn the phase from line to line
    assert np.linalg.norm(image - truth) < 0.2 * np.linalg.norm(truth)


def frames(one: Scanned, lines: list[Acquisition]) -> Scan:
    """Run a scan's lines up to the coil maps."""
    scan = Scan(geometry=one.geometry)
    chain = (RemoveReadoutOversampling(), AccumulateFrame(), CoilMaps())
    assert [type(item) for item in run(chain, scan, lines)] == [Frame]
    return scan


@pytest.mark.parametrize(("center", "warned"), [(24, False), (26, False), (22, False), (32, True)])
def test_a_centre_of_k_space_that_is_not_where_the_energy_is_gets_a_warning(
    center: int, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    true = scanned(n_ky=64, ky_min=0, ky_max=55, center=24)  # partial Fourier
    said = scanned(n_ky=64, ky_min=0, ky_max=55, center=center)
    counts = frames(said, true.lines(counters=range(said.geometry.limit_counters[-1] + 1))).counts
    assert counts[OFF_CENTRE] == warned
    text = f"strongest line is ky 24, but the header's center is {center}"
    assert (text in caplog.text) == warned


def test_noise_alone_has_no_centre_to_warn_of() -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(32, 3, 48)) + 1j * rng.normal(size=(32, 3, 48))
    lines = [acquisition(noise[ky], kspace_encode_step_1=ky) for ky in range(32)]
    assert not frames(ONE, lines).counts


def test_a_wrong_centre_can_be_overridden_and_the_lines_then_lie_where_they_belong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    true = scanned(n_ky=64, ky_min=0, ky_max=55, center=24)
    wrong = scanned(n_ky=64, ky_min=0, ky_max=55, center=32)
    source, target = tmp_path / "wrong.h5", tmp_path / "right.h5"
    write_mrd(source, wrong.header, true.lines())
    assert main(["convert", str(source), str(target), "--ky-center", "24"]) == 0
    corrected = open_source(target)
    assert corrected.geometry == Geometry.parse(true.header)
    (frame,) = run((AccumulateFrame(),), Scan(geometry=corrected.geometry), corrected.acquisitions)
    assert isinstance(frame, Frame)
    np.testing.assert_allclose(frame.kspace, true.hybrid(), atol=1e-5)
    assert main(["convert", str(source), str(tmp_path / "no.h5"), "--ky-center", "56"]) == 1
    assert "minimum 0, center 56, maximum 55" in capsys.readouterr().err
    assert not (tmp_path / "no.h5").exists()


@pytest.fixture
def peer(address: Address):  # type: ignore[no-untyped-def]
    with connected(address) as one:
        yield one


def waveform(n: int) -> Waveform:
    header = np.zeros(1, WAVEFORM_HEADER)[0]
    header["channels"], header["number_of_samples"], header["waveform_id"] = 2, n, 1024
    return Waveform(header=header, data=np.arange(2 * n, dtype=np.uint32).reshape(2, n))


def test_waveforms_anywhere_among_the_lines_change_nothing_and_are_not_sent_back(
    peer: Peer, address: Address
) -> None:
    lines = ONE.lines()
    alone = session(address, CONFIG, Header(ONE.header), *lines, Close())
    mixed = [waveform(1), waveform(0), *lines[:7], waveform(300), *lines[7:], waveform(5)]
    peer.say(CONFIG, Header(ONE.header), *mixed, Close())
    image, end = peer.rest()
    assert isinstance(image, Image)
    assert isinstance(alone[0], Image)
    np.testing.assert_array_equal(image.data, alone[0].data)
    assert end == Close()


def test_what_was_dropped_is_told_in_the_log_when_the_scan_ends(
    address: Address, caplog: pytest.LogCaptureFixture
) -> None:
    one = scanned(n_ky=32, ky_min=2, ky_max=29, center=16)
    navigator = changed(one.line(5), flags=Flag.NAVIGATION)
    outside = one.lines(counters=[0, 1, 31])
    with caplog.at_level(logging.INFO, logger="gadgets"):
        said = session(
            address,
            ConfigFile("zero_filled.xml"),
            Header(one.header),
            *outside,
            navigator,
            *one.lines(),
            Close(),
        )
    (told,) = [message.text for message in said if isinstance(message, Text)]
    assert told.startswith("WARNING: ")
    (record,) = [r for r in caplog.records if r.getMessage().startswith("the scan ended")]
    assert record.levelno == logging.WARNING
    assert "1 images" in record.getMessage()
    assert "3 lines outside the encoding limits" in record.getMessage()
    assert "1 lines that are not imaging" in record.getMessage()
