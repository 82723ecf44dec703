"""What a host does beside images: stored noise, info queries, a site's own pipelines."""

import re
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gadgets.errors import ConfigError
from gadgets.host import host_info
from gadgets.host.child_host import Address
from gadgets.host.serve import Host
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.image_attributes import meta_from_xml
from gadgets.mrd.items import Acquisition, Image
from gadgets.mrd.messages import (
    Close,
    ConfigFile,
    ConfigScript,
    Dependency,
    Header,
    Query,
    Response,
    Text,
)
from gadgets.pipeline.build import load
from gadgets.scanner.replay import replay
from tests.gadgets.helpers.peer import error, session
from tests.gadgets.helpers.synthetic import noise, scanned

NOISE_SCAN = ConfigFile("default_measurement_dependencies.xml")
N_COILS = 3
SCAN = scanned(n_ky=32, n_coils=N_COILS)
Floats = NDArray[Any]


def header(name: str, *, labels: str = "ABC", dependency: str = "") -> Header:
    xml = scanned(n_ky=32, n_coils=N_COILS, measurement_id=name).header.decode()
    named = "".join(
        f"<coilLabel><coilNumber>{i}</coilNumber><coilName>{label}</coilName></coilLabel>"
        for i, label in enumerate(labels)
    )
    depends = (
        "<measurementDependency><dependencyType>Noise</dependencyType>"
        f"<measurementID>{dependency}</measurementID></measurementDependency>"
    )
    xml = xml.replace("</receiverChannels>", "</receiverChannels>" + named)
    if dependency:
        xml = xml.replace("</patientPosition>", "</patientPosition>" + depends)
    return Header(xml.encode())


def summary(address: Address, name: str) -> dict[str, str]:
    """Ask for stored noise as the stock client does."""
    xml = (
        '<gadgetronStreamConfiguration xmlns="http://gadgetron.sf.net/gadgetron"><writer>'
        "<slot>1019</slot><dll>gadgetron_mricore</dll><classname>DependencyQueryWriter</classname>"
        "</writer><gadget><dll>gadgetron_mricore</dll><classname>NoiseSummaryGadget</classname>"
        "<property><name>noise_file</name>"
        f"<value>GadgetronNoiseCovarianceMatrix_{name}</value></property>"
        "</gadget></gadgetronStreamConfiguration>"
    )
    answer, end = session(address, ConfigScript(xml.encode()), Close())
    assert isinstance(answer, Dependency)
    assert end == Close()
    return meta_from_xml(answer.xml)


def test_a_noise_session_makes_no_image_and_its_statistics_are_told(address: Address) -> None:
    assert summary(address, "STATISTICS") == {"status": "failed"}
    readout = noise(N_COILS, sample_time_us=2.5)
    assert session(address, NOISE_SCAN, header("STATISTICS"), readout, Close()) == [Close()]
    told = summary(address, "STATISTICS")
    assert (told["status"], told["channels"]) == ("success", str(N_COILS))
    sigma = np.sqrt((np.abs(readout.data) ** 2).sum(1) / (readout.data.shape[1] - 1))
    for key, value in (
        ("min_sigma", sigma.min()),
        ("mean_sigma", sigma.mean()),
        ("max_sigma", sigma.max()),
        ("noise_dwell_time_us", 2.5),
    ):
        assert float(told[key]) == pytest.approx(float(value), rel=1e-5)


GADGETRON_CLASSES = load("default.xml").replace(
    "<stream>",
    "<stream><gadget><dll>gadgetron_mricore</dll><classname>NoiseAdjustGadget</classname></gadget>",
)


@pytest.mark.parametrize(
    "chain", [ConfigScript(GADGETRON_CLASSES.encode()), ConfigFile("zero_filled.xml")]
)
def test_stored_noise_gives_the_image_that_noise_in_the_stream_gives(
    address: Address, chain: ConfigScript | ConfigFile
) -> None:
    readout, lines = noise(N_COILS), SCAN.lines()
    lines[-1].header["flags"] = Flag.LAST_IN_SLICE
    session(address, NOISE_SCAN, header("EARLIER"), readout, Close())

    def pixels(head: Header, items: list[Acquisition]) -> Floats:
        image, *said, end = session(address, chain, head, *items, Close())
        assert isinstance(image, Image)
        assert all("without the noise" in one.text for one in said if isinstance(one, Text))
        assert end == Close()
        return image.data.astype(np.float32)

    own = pixels(header("IMAGE"), [readout, *lines])
    np.testing.assert_array_equal(pixels(header("IMAGE", dependency="EARLIER"), lines), own)
    for labels in ("CAB", "XYZ"):  # the coils of other elements, and of another array
        other = pixels(header("IMAGE", labels=labels, dependency="EARLIER"), lines)
        assert np.abs(own - other).max() > 0.01 * np.abs(own).max()


def test_a_record_of_a_scan_with_stored_noise_is_whitened_again_where_it_is_not_stored(
    address: Address, records: Path, noise_folder: Path
) -> None:
    lines = SCAN.lines()
    lines[-1].header["flags"] = Flag.LAST_IN_SLICE
    session(address, NOISE_SCAN, header("GONE"), noise(N_COILS), Close())
    before = set(records.iterdir())
    head = header("RECORDED", dependency="GONE")
    first, _ = session(address, ConfigFile("zero_filled.xml"), head, *lines, Close())
    (record,) = set(records.iterdir()) - before
    for path in noise_folder.iterdir():
        path.unlink()
    (again,) = replay(record, address, "zero_filled.xml").images
    assert isinstance(first, Image)
    np.testing.assert_allclose(again.data, first.data, rtol=1e-3, atol=1e-5 * first.data.max())


def test_noise_on_disk_names_no_patient(address: Address, noise_folder: Path) -> None:
    session(address, NOISE_SCAN, header("DEVICE_JANE-DOE_STUDY_1"), noise(N_COILS), Close())
    files = list(noise_folder.iterdir())
    assert files
    for path in files:
        assert "JANE" not in path.name + path.read_text()


RECORDED = {  # of a Gadgetron 4.7 without GPU
    "gadgetron::info::python": "1",
    "gadgetron::info::matlab": "0",
    "gadgetron::info::cuda": "0",
    "gadgetron::cuda::devices": "0",
    "gadgetron::cuda::memory": "",
    "no::such::key": "Unknown query",
}


def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 85 << 30

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: Properties)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (9, device))


@pytest.mark.parametrize(("key", "expected"), RECORDED.items())
def test_info_queries_are_answered_as_gadgetron_without_gpu_does(
    address: Address, key: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_gpu(monkeypatch)
    assert session(address, Query(3, key), Close()) == [Response(3, expected), Close()]


def test_gpus_are_joined_by_semicolons(monkeypatch: pytest.MonkeyPatch) -> None:
    two_gpus(monkeypatch)
    assert host_info.answer("gadgetron::info::cuda") == "1"
    assert host_info.answer("gadgetron::cuda::devices") == "2"
    assert host_info.answer("gadgetron::cuda::memory") == f"{85 << 30};{85 << 30}"
    assert host_info.answer("gadgetron::cuda::capabilities") == "9.0;9.1"
    assert "CUDA Support       : YES" in host_info.answer("gadgetron::info")


def test_memory_is_that_of_the_machine_in_bytes() -> None:
    (total,) = (
        line.split()[1]
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal")
    )
    assert int(host_info.answer("gadgetron::info::memory")) == int(total) * 1024


def test_the_info_text_has_the_lines_that_gadgetron_s_test_runner_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_gpu(monkeypatch)
    first, *lines, last = host_info.answer("gadgetron::info").split("\n")[:-1]
    assert (first, last) == ("Gadgetron Version Info", "")
    assert all(line.startswith("  -- ") and line[23:26] == " : " for line in lines)
    found = {line[5:23].rstrip(): line[26:] for line in lines}
    assert found["System Memory size"].endswith(" MB")
    assert found["Python Support"] == "YES"
    assert found["CUDA Support"] == found["Matlab Support"] == found["Julia Support"] == "NO"


@pytest.mark.parametrize("key", ["driver", "runtime"])
def test_cuda_versions_are_numbers_or_not_available(key: str) -> None:
    assert re.fullmatch(r"N/A|\d+\.\d+", host_info.answer(f"gadgetron::cuda::{key}"))


def test_a_site_s_own_pipeline_is_found_by_name_and_goes_before_ours(tmp_path: Path) -> None:
    (tmp_path / "site.xml").write_text("<ours/>")
    (tmp_path / "default.xml").write_text("<changed/>")
    assert load("site.xml", extra=tmp_path) == "<ours/>"
    assert load("default.xml", extra=tmp_path) == "<changed/>"
    assert load("cg_sense.xml", extra=tmp_path) == load("cg_sense.xml")


def test_a_session_runs_a_site_s_own_pipeline(address: Address) -> None:
    lines = SCAN.lines()
    lines[-1].header["flags"] = Flag.LAST_IN_SLICE
    heard = session(address, ConfigFile("site.xml"), header("1"), *lines, Close())
    assert [type(message) for message in heard] == [Image, Close]


@pytest.mark.parametrize(
    "name",
    [
        "../outside.xml",
        "below/inside.xml",
        "./site.xml",
        "site.xml/../site.xml",
        "below/../site.xml",
        "{folder}/site.xml",
        "{folder}/../outside.xml",
        "..\\outside.xml",
        "*.xml",
        "below",
    ],
)
def test_no_name_leads_out_of_a_site_s_folder(
    address: Address, pipelines_folder: Path, name: str
) -> None:
    named = ConfigFile(name.replace("{folder}", str(pipelines_folder)))
    text = error(session(address, named, header("1"), Close()))
    assert "no pipeline" in text
    assert "outside" not in text.partition("expected one of")[2]


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path, content: bytes | None) -> None:
    if content is None:
        (tmp_path / "site.xml").mkdir()
    else:
        (tmp_path / "site.xml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"'site\.xml' cannot be read"):
        load("site.xml", extra=tmp_path)


def test_a_folder_that_is_none_stops_the_host_before_it_listens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no folder"):
        Host(port=0, mask_endpoint="tcp://127.0.0.1:*", pipelines=tmp_path / "missing")


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "::", "scanner.example"])
def test_mrd_on_an_address_that_others_reach_is_refused_unless_it_is_guarded(address: str) -> None:
    with pytest.raises(ConfigError, match="--address-is-guarded"):
        Host(address=address, port=0, mask_endpoint="tcp://127.0.0.1:*")


def test_a_host_whose_address_is_guarded_listens_to_others() -> None:
    endpoint = "tcp://127.0.0.1:*"
    with Host(address="0.0.0.0", port=0, mask_endpoint=endpoint, device="cpu", guarded=True) as one:
        socket.create_connection(("127.0.0.1", one.port), timeout=60).close()
