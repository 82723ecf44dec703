"""`mnet convert`: what comes out, what stays behind, and what is not written."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from gadgets.errors import ConfigError
from gadgets.files.convert import convert
from gadgets.files.identity import without_identity
from gadgets.files.source import open_source
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.items import Image
from gadgets.mrd.messages import Close, Header, message_buffers
from gadgets.pipeline.build import load, parse
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from gadgets.records.writer import Record
from tests.gadgets.helpers import synthetic
from tests.gadgets.helpers.patient import PERSONAL, personal_header
from tests.gadgets.helpers.synthetic import Array, crop, fft, ifft

PIXEL = 0.6875  # mm
N_SLICES, N_COILS = 2, 3
SUBJECT = (
    "<subjectInformation><patientName>Doe^Jane</patientName><patientID>PID-0815</patientID>"
    "<patientBirthdate>1970-01-01</patientBirthdate></subjectInformation>"
    "<studyInformation><studyDate>2018-01-30</studyDate><studyID>S-4711</studyID>"
    "</studyInformation>"
)


def header(n_ky: int, limits: tuple[int, int, int], personal: str = "") -> str:
    """Write a header with the elements of fastMRI's, in their order; reconSpace is 320 x 320."""
    low, centre, high = limits
    return f"""<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"
  xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  {personal}
  <measurementInformation>
    <measurementID>41254_66775_66780_1</measurementID>
    <patientPosition>HFS</patientPosition><protocolName>AXT2</protocolName>
    <measurementDependency><dependencyType>SenMap</dependencyType>
      <measurementID>41254_66775_66780_2</measurementID></measurementDependency>
  </measurementInformation>
  <acquisitionSystemInformation><systemVendor>SIEMENS</systemVendor>
    <systemFieldStrength_T>2.893620</systemFieldStrength_T>
    <relativeReceiverNoiseBandwidth>0.793</relativeReceiverNoiseBandwidth>
    <receiverChannels>{N_COILS}</receiverChannels></acquisitionSystemInformation>
  <experimentalConditions><H1resonanceFrequency_Hz>123250000</H1resonanceFrequency_Hz>
  </experimentalConditions>
  <encoding>
    <encodedSpace><matrixSize><x>640</x><y>{n_ky}</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{640 * PIXEL}</x><y>{n_ky * PIXEL:.6f}</y><z>7.5</z></fieldOfView_mm>
    </encodedSpace>
    <reconSpace><matrixSize><x>320</x><y>320</y><z>1</z></matrixSize>
      <fieldOfView_mm><x>{320 * PIXEL}</x><y>{320 * PIXEL}</y><z>5</z></fieldOfView_mm>
    </reconSpace>
    <encodingLimits>
      <kspace_encoding_step_1><minimum>{low}</minimum><maximum>{high}</maximum>
        <center>{centre}</center></kspace_encoding_step_1>
      <kspace_encoding_step_2><minimum>0</minimum><maximum>0</maximum><center>0</center>
      </kspace_encoding_step_2>
      <average><minimum>0</minimum><maximum>0</maximum><center>0</center></average>
      <slice><minimum>0</minimum><maximum>{N_SLICES - 1}</maximum><center>0</center></slice>
      <contrast><minimum>0</minimum><maximum>0</maximum><center>0</center></contrast>
    </encodingLimits>
    <trajectory>cartesian</trajectory>
    <parallelImaging><accelerationFactor><kspace_encoding_step_1>1</kspace_encoding_step_1>
      <kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>
      <calibrationMode>other</calibrationMode></parallelImaging>
  </encoding>
  <sequenceParameters><TR>6000</TR><TE>113</TE><flipAngle_deg>150</flipAngle_deg>
  </sequenceParameters>
</ismrmrdHeader>"""


def fastmri(
    path: Path, n_ky: int, limits: tuple[int, int, int] | None = None, personal: str = ""
) -> Array:
    """Write a file of fastMRI's layout; return its k-space, zero outside of the limits."""
    low, centre, high = limits or (0, n_ky // 2, n_ky - 1)
    rng = np.random.default_rng(n_ky)
    x, y = np.meshgrid(np.linspace(-2, 2, 640), np.linspace(-1.2, 1.2, n_ky), indexing="ij")
    kspace = []
    for number in range(N_SLICES):
        image = ((x / 0.9) ** 2 + (y / 0.8) ** 2 < 1) * (1 + 0.5 * (x > 0.1 * number) + 0.2 * y)
        coils = [np.exp(1j * (c + y * c) - ((x - c + 1) ** 2 + y**2) / 4) for c in range(N_COILS)]
        kspace.append(fft(fft(np.stack(coils) * image, 1), 2))
    data = 1e-5 * (np.stack(kspace) + 0.01 * rng.normal(size=(N_SLICES, N_COILS, 640, n_ky)))
    first = n_ky // 2 - centre + low
    data[..., :first] = data[..., first + high - low + 1 :] = 0
    with h5py.File(path, "w") as file:
        file["kspace"] = data.astype(np.complex64)
        file["ismrmrd_header"] = header(n_ky, (low, centre, high), personal)
        file.attrs["patient_id"] = "0123456789abcdef"
        return np.asarray(file["kspace"][()])


@pytest.mark.parametrize(
    ("n_ky", "limits"),
    [
        (368, (0, 161, 321)),  # knees
        (372, (0, 163, 325)),
        (320, None),  # brains: nothing is padded
        (368, (0, 130, 290)),  # the centre is not the middle: partial Fourier
        (372, (12, 186, 371)),  # counters that do not begin at zero
        (320, (0, 104, 263)),
    ],
)
def test_a_converted_file_s_images_are_the_direct_transform_of_the_array(
    tmp_path: Path, n_ky: int, limits: tuple[int, int, int] | None
) -> None:
    kspace = fastmri(tmp_path / "file.h5", n_ky, limits)
    convert(tmp_path / "file.h5", tmp_path / "raw.h5")
    source = open_source(tmp_path / "raw.h5")
    assert source.kind == "MRD HDF5"
    low, _, high = limits or (0, 0, n_ky - 1)
    assert len(source.acquisitions) == N_SLICES * (high - low + 1)
    out = run(parse(load("default.xml")), Scan(geometry=source.geometry), source.acquisitions)
    images = [item for item in out if isinstance(item, Image)]
    assert len(images) == N_SLICES
    for image, slice_ in zip(images, kspace, strict=True):
        coils = crop(ifft(ifft(slice_.astype(complex), 1), 2), 320, 1)
        expected = np.sqrt((np.abs(coils) ** 2).sum(0))
        assert image.data.shape == (1, 1, n_ky, 320)
        np.testing.assert_allclose(image.data[0, 0].T, expected, atol=1e-5 * expected.max())
        assert image.header["field_of_view"].tolist() == pytest.approx(
            [320 * PIXEL, n_ky * PIXEL, 5]
        )


def test_what_a_fastmri_header_says_of_the_patient_stays_behind(tmp_path: Path) -> None:
    fastmri(tmp_path / "file.h5", 320, personal=SUBJECT)
    convert(tmp_path / "file.h5", tmp_path / "raw.h5")
    given, written = ((tmp_path / name).read_bytes() for name in ("file.h5", "raw.h5"))
    words = (b"Doe^Jane", b"PID-0815", b"1970-01-01", b"2018-01-30", b"S-4711", b"0123456789abcdef")
    for word in words:
        assert word in given
        assert word not in written
    geometry = open_source(tmp_path / "raw.h5").geometry
    assert re.fullmatch("hash-[0-9a-f]{16}", geometry.measurement_id)
    assert geometry.tr_ms == 6000


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The record of a scan whose header names a patient everywhere that it can."""
    scan = synthetic.scanned(n_slices=1, n_coils=2)
    record = Record.create(tmp_path, "record")
    for message in (Header(personal_header(scan.header)), *scan.lines(), Close()):
        record.message(message_buffers(message))
    record.close()
    return tmp_path / "record"


def test_what_is_converted_can_be_read_by_its_owner_alone_from_its_first_byte(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes = []
    opened = h5py.File

    def look(path: Path, *arguments: Any) -> h5py.File:
        modes.append(os.stat(path).st_mode & 0o777)
        return opened(path, *arguments)

    (tmp_path / "raw.h5.part").write_text("of a conversion that was killed")
    (tmp_path / "raw.h5").write_text("")
    (tmp_path / "raw.h5").chmod(0o644)
    monkeypatch.setattr("gadgets.files.mrd_hdf5.h5py.File", look)
    convert(record, tmp_path / "raw.h5", overwrite=True)
    monkeypatch.undo()
    assert modes == [0o600]
    assert (tmp_path / "raw.h5").stat().st_mode & 0o777 == 0o600


def test_a_record_is_converted_without_identity_unless_asked_for(
    record: Path, tmp_path: Path
) -> None:
    convert(record, tmp_path / "bare.h5")
    convert(record, tmp_path / "named.h5", with_identity=True)
    bare, named = ((tmp_path / f"{name}.h5").read_bytes() for name in ("bare", "named"))
    assert all(word.encode() in named for word in PERSONAL)
    assert [word for word in PERSONAL if word.encode() in bare] == []
    kept, before = (open_source(tmp_path / f"{name}.h5").geometry for name in ("bare", "named"))
    assert kept.encoded == before.encoded
    assert kept.user == {"mnet_scan_token": "token-1", "tSegments": "7"}


def test_a_scan_without_identity_still_finds_its_noise_measurement() -> None:
    scan = synthetic.scanned(measurement_id="PID-0815_1").header
    dependency = b"<measurementDependency><dependencyType>Noise</dependencyType>"
    dependency += b"<measurementID>PID-0815_1</measurementID></measurementDependency>"
    end = b"</measurementInformation>"
    both = Geometry.parse(without_identity(scan.replace(end, dependency + end)))
    assert both.noise_dependency == both.measurement_id != "PID-0815_1"
    once = without_identity(scan)
    assert without_identity(once) == once


def test_an_existing_target_is_kept_unless_told(tmp_path: Path) -> None:
    fastmri(tmp_path / "file.h5", 320)
    target = tmp_path / "raw.h5"
    target.write_text("precious")
    with pytest.raises(ConfigError, match=r"raw\.h5 exists and is kept.*--overwrite"):
        convert(tmp_path / "file.h5", target)
    assert target.read_text() == "precious"
    convert(tmp_path / "file.h5", target, overwrite=True)
    assert len(open_source(target).acquisitions) == N_SLICES * 320


def test_a_target_in_no_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no folder"):
        convert(tmp_path / "file.h5", tmp_path / "absent" / "raw.h5")


def mnet(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "gadgets.cli", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_says_what_it_did_and_fails_with_one_sentence(tmp_path: Path) -> None:
    fastmri(tmp_path / "file.h5", 320)
    done = mnet(tmp_path / "file.h5", tmp_path / "raw.h5")
    assert done.returncode == 0, done.stderr
    assert "(fastMRI HDF5) -> " in done.stdout
    assert "640 acquisitions in 2 slices" in done.stdout
    again = mnet(tmp_path / "file.h5", tmp_path / "raw.h5")
    assert (again.returncode, again.stdout) == (1, "")
    assert "exists and is kept" in again.stderr
    (tmp_path / "text.dat").write_text("no scan")
    bad = mnet(tmp_path / "text.dat", tmp_path / "other.h5")
    assert bad.returncode == 1
    assert "text.dat" in bad.stderr
    assert "Traceback" not in bad.stderr
    assert not (tmp_path / "other.h5").exists()
