"""Gadgetron's stock classes here: arithmetic by hand, and the states of a session."""

import socket
import struct
from collections.abc import Iterator

import numpy as np
import pytest

from gadgets.errors import GadgetError
from gadgets.host.child_host import Address
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import ACQUISITION_HEADER, IMAGE_HEADER, WAVEFORM_HEADER, Flag
from gadgets.mrd.header_xml import header_xml
from gadgets.mrd.image_attributes import meta_from_xml
from gadgets.mrd.items import Acquisition, Image, Waveform
from gadgets.mrd.messages import (
    Close,
    ConfigFile,
    ConfigScript,
    Dependency,
    Error,
    Feedback,
    Header,
    Message,
    Query,
    Response,
    Text,
    write_message,
)
from gadgets.pipeline.build import load, parse
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from gadgets.steps.gadgetron_images import AutoScale, Extract, FloatToShort, FloatToUShort
from gadgets.steps.image_finish import FLOAT, MAGNITUDE
from tests.gadgets.helpers.closed_loop import source
from tests.gadgets.helpers.peer import Peer, connected, error

N_X, N_KY, N_COILS = 24, 12, 3
HEADER = header_xml(
    encoded=(2 * N_X, N_KY, 1),
    encoded_fov=(480, 240, 5),
    recon=(N_X, N_KY, 1),
    recon_fov=(240, 240, 5),
    n_coils=N_COILS,
)
LINES_ONLY = (
    "<configuration><version>2</version><readers><reader><classname>AcquisitionReader</classname>"
    "</reader></readers><writers><writer><classname>AcquisitionWriter</classname></writer>"
    "</writers><stream><gadget><classname>NoiseAdjustGadget</classname></gadget></stream>"
    "</configuration>"
)


def lines(counters: Iterator[int] | range = range(N_KY), *, last: bool = True) -> list[Acquisition]:
    rng = np.random.default_rng(5)
    kspace = rng.standard_normal((N_KY, N_COILS, 2 * N_X, 2), np.float32).view(np.complex64)[..., 0]
    found = []
    for counter in counters:
        header = np.zeros(1, ACQUISITION_HEADER)[0]
        header["version"], header["number_of_samples"], header["center_sample"] = 1, 2 * N_X, N_X
        header["active_channels"], header["kspace_encode_step_1"] = N_COILS, counter
        header["position"] = (1, 2, 3)
        found.append(Acquisition(header=header, data=kspace[counter]))
    if last:
        found[-1].header["flags"] = Flag.LAST_IN_SLICE
    return found


def waveform() -> Waveform:
    header = np.zeros(1, WAVEFORM_HEADER)[0]
    header["channels"], header["number_of_samples"] = 1, 4
    return Waveform(header=header, data=np.zeros((1, 4), np.uint32))


def default(items: list[Acquisition]) -> list[Image]:
    out = run(parse(load("default.xml")), Scan(geometry=Geometry.parse(HEADER)), items)
    return [item for item in out if isinstance(item, Image)]


def test_default_xml_is_the_centred_transform_and_the_root_of_the_sum_of_squares() -> None:
    items = lines()
    kspace = np.stack([line.data for line in items], 1).astype(np.complex128)
    shifted = np.fft.ifft2(np.fft.ifftshift(kspace, axes=(1, 2)), norm="ortho")
    expected = np.sqrt((np.abs(np.fft.fftshift(shifted, axes=(1, 2))) ** 2).sum(0))
    (image,) = default(items)
    assert image.data.dtype == np.float32
    np.testing.assert_allclose(image.data[0, 0], expected[:, N_X // 2 : 3 * N_X // 2], rtol=1e-5)
    assert image.header["position"].tolist() == [1, 2, 3]
    assert image.header["field_of_view"].tolist() == [240, 240, 5]
    assert (image.header["image_index"], image.header["image_series_index"]) == (1, 0)


def test_lines_that_were_not_measured_are_zeros_and_the_image_says_so() -> None:
    (image,) = default(lines(range(0, N_KY, 2)))
    assert image.meta["ImageComments"] == image.meta["GADGETRON_ImageComment"]
    assert "6 of 12 lines" in image.meta["ImageComments"]


def test_missing_lines_that_no_flag_explains_are_an_error_and_no_image() -> None:
    with pytest.raises(GadgetError, match="1 images are incomplete"):
        default(lines(range(7), last=False))


def test_a_cut_readout_among_whole_ones_is_an_error() -> None:
    items = lines()
    header = items[5].header.copy()
    header["number_of_samples"] = 40
    items[5] = Acquisition(header=header, data=items[5].data[:, :40])
    with pytest.raises(GadgetError, match=r"ky 5.* 40 samples, expected 48"):
        default(items)


def image(pixels: list[float] | list[complex], kind: int = MAGNITUDE) -> Image:
    data = np.array(pixels)[None, None, None]
    header = np.zeros(1, IMAGE_HEADER)[0]
    header["image_type"], header["data_type"] = kind, FLOAT
    header["matrix_size"], header["channels"] = (data.size, 1, 1), 1
    dtype = np.complex64 if data.dtype.kind == "c" else np.float32
    return Image(header=header, data=data.astype(dtype))


def through(gadget: Extract | AutoScale | FloatToUShort | FloatToShort, one: Image) -> list[Image]:
    scan = Scan(geometry=Geometry.parse(HEADER))
    return [item for item in gadget(scan, iter([one])) if isinstance(item, Image)]


def test_extract_gives_parts_in_series_of_their_own_and_shifts_the_phase_by_pi() -> None:
    parts = through(
        Extract(extract_real=True, extract_imag=True, extract_phase=True), image([3 + 4j, -2j])
    )
    values = [part.data.ravel().tolist() for part in parts]
    assert values[:3] == [[5, 2], [3, 0], [4, -2]]
    np.testing.assert_allclose(values[3], [np.pi + np.arctan2(4, 3), np.pi / 2], rtol=1e-6)
    assert [int(part.header["image_type"]) for part in parts] == [1, 3, 4, 2]
    series = [int(part.header["image_series_index"]) for part in parts]
    assert series == [0, 1000, 2000, 3000]


def test_the_mask_of_extract_stands_for_its_four_switches() -> None:
    parts = through(Extract(extract_mask=6), image([1 + 2j]))
    assert [int(part.header["image_type"]) for part in parts] == [3, 4]


def test_autoscale_takes_the_bin_that_holds_99_percent() -> None:
    pixels = [float(i) for i in range(1, 101)]  # 99 % lie below bin 99 of 100: factor 2048 / 100
    (scaled,) = through(AutoScale(), image(pixels))
    np.testing.assert_allclose(scaled.data.max(), 100 * 2048 / 101, rtol=1e-5)


def test_autoscale_leaves_an_empty_image_and_other_parts_alone() -> None:
    assert through(AutoScale(), image([0.0, 0.0]))[0].data.tolist() == [[[[0, 0]]]]
    assert through(AutoScale(), image([1.0, 2.0], kind=2))[0].data.tolist() == [[[[1, 2]]]]


@pytest.mark.parametrize(
    ("gadget", "kind", "pixels", "expected"),
    [
        (FloatToUShort(), 1, [0.5, 1.5, -3.2, 9999.0], [1, 2, 3, 4095]),
        (FloatToUShort(), 3, [0.0, -2048.5, 3000.0], [2048, 0, 4095]),
        (FloatToUShort(), 2, [0.0, -np.pi, np.pi], [2048, 0, 4095]),
        (FloatToShort(), 4, [0.5, -0.5, -1.5, 1e9], [1, -1, -2, 32767]),
        (FloatToShort(), 2, [3.0], [0]),
    ],
)
def test_integers_are_rounded_half_away_from_zero_shifted_and_clipped(
    gadget: FloatToUShort | FloatToShort, kind: int, pixels: list[float], expected: list[int]
) -> None:
    (converted,) = through(gadget, image(pixels, kind))
    assert converted.data.ravel().tolist() == expected
    assert int(converted.header["data_type"]) == gadget.data_type


@pytest.fixture
def peer(address: Address) -> Iterator[Peer]:
    with connected(address) as one:
        yield one


CONFIG, MRD_HEADER = ConfigFile("default.xml"), Header(HEADER)

# Session states: one test per row, named after it.


def test_state_config_takes_a_name_or_a_pipeline_and_then_the_header(peer: Peer) -> None:
    peer.say(ConfigScript(load("default.xml").encode()), MRD_HEADER, *lines(), Close())
    assert [type(m) for m in peer.rest()] == [Image, Close]


def test_state_config_close_ends_the_session(peer: Peer) -> None:
    peer.say(Close())
    assert peer.rest() == [Close()]


def test_state_config_header_is_refused_although_the_client_waits(peer: Peer) -> None:
    peer.say(MRD_HEADER)
    assert "HEADER before the configuration" in error(peer.rest())


def test_state_header_second_configuration_is_refused(peer: Peer) -> None:
    peer.say(CONFIG, CONFIG, Close())
    assert "CONFIG_FILE before the MRD header" in error(peer.rest())


def test_state_header_close_runs_nothing_and_is_no_error(peer: Peer) -> None:
    peer.say(CONFIG, Close())
    assert peer.rest() == [Close()]


def test_state_stream_second_header_is_refused(peer: Peer) -> None:
    peer.say(CONFIG, MRD_HEADER, MRD_HEADER, Close())
    assert "HEADER in the stream" in error(peer.rest())


def test_state_stream_images_leave_while_data_still_come(peer: Peer) -> None:
    peer.say(CONFIG, MRD_HEADER, *lines())
    assert isinstance(peer.hear(), Image)
    peer.say(Close())
    assert peer.rest() == [Close()]


def test_state_any_query_is_answered_with_its_number(peer: Peer) -> None:
    ask = Query(7, "gadgetron::version"), Query(8, "no::such::key")
    for messages in ((), (CONFIG,), (MRD_HEADER,)):
        peer.say(*messages, *ask)
        answers = [peer.hear(), peer.hear()]
        assert [type(a) for a in answers] == [Response, Response]
        assert [a.correlation for a in answers if isinstance(a, Response)] == [7, 8]
        assert answers[1] == Response(8, "Unknown query")
    peer.say(Close())
    assert peer.rest() == [Close()]


def test_state_end_without_close_is_told_and_what_was_whole_is_not_lost(peer: Peer) -> None:
    peer.say(CONFIG, MRD_HEADER, *lines())
    peer.sock.shutdown(socket.SHUT_WR)
    image, *rest = peer.rest()
    assert isinstance(image, Image)
    assert "without CLOSE" in error(rest)


def test_state_error_is_one_text_at_once_and_the_rest_is_read_before_the_end(peer: Peer) -> None:
    peer.say(CONFIG, MRD_HEADER, MRD_HEADER)
    assert isinstance(peer.hear(), Text)
    peer.say(*lines(), Close())
    assert peer.rest() == [Close()]


def test_state_stream_an_id_without_reader_ends_the_input_and_what_was_finished_stays(
    peer: Peer,
) -> None:
    peer.say(ConfigScript(LINES_ONLY.encode()), MRD_HEADER, *lines(), waveform(), Close())
    *back, text, end = peer.rest()
    assert len(back) == N_KY
    assert isinstance(text, Text)
    assert "1026 WAVEFORM came, for which the pipeline has no reader" in text.text
    assert end == Close()


def test_state_stream_an_image_that_no_writer_takes_is_an_error_not_silence(peer: Peer) -> None:
    xml = load("default.xml").replace("MRIImageWriter", "AcquisitionWriter")
    peer.say(ConfigScript(xml.encode()), MRD_HEADER, *lines(), Close())
    assert "lists no ImageWriter" in error(peer.rest())


def test_state_writers_decide_what_is_sent(peer: Peer) -> None:
    sent = lines()
    peer.say(ConfigScript(LINES_ONLY.encode()), MRD_HEADER, *sent, Close())
    *back, end = peer.rest()
    assert [write_message(m) for m in back] == [write_message(m) for m in sent]
    assert end == Close()


def test_isalive_xml_is_answered_with_close_alone(peer: Peer) -> None:
    peer.say(ConfigFile("isalive.xml"), Close())
    assert peer.rest() == [Close()]


@pytest.mark.parametrize(
    ("gadget", "expected"),
    [
        ("NoiseSummaryGadget", {"status": "failed"}),
        ("DependencyQueryGadget", {"NoiseDependencies": "Dummy"}),
    ],
)
def test_the_stock_client_s_noise_session_is_answered_by_1019(
    peer: Peer, gadget: str, expected: dict[str, str]
) -> None:
    xml = (
        '<gadgetronStreamConfiguration xmlns="http://gadgetron.sf.net/gadgetron"><writer>'
        "<slot>1019</slot><dll>gadgetron_mricore</dll><classname>DependencyQueryWriter</classname>"
        f"</writer><gadget><dll>gadgetron_mricore</dll><classname>{gadget}</classname><property>"
        "<name>noise_file</name><value>X</value></property></gadget></gadgetronStreamConfiguration>"
    )
    peer.say(ConfigScript(xml.encode()), Close())
    answer, end = peer.rest()
    assert isinstance(answer, Dependency)
    assert (meta_from_xml(answer.xml), end) == (expected, Close())


# Message ids: what a client may send in the stream, one row of the table each.


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (CONFIG, "message 1 CONFIG_FILE in the stream"),
        (ConfigScript(b"<c/>"), "message 2 CONFIG_SCRIPT in the stream"),
        (MRD_HEADER, "message 3 HEADER in the stream"),
        (Response(1, "x"), "message 7 RESPONSE in the stream"),
        (Error("x"), "message 8 ERROR in the stream"),
        (Dependency(b"<d/>"), "message 1019 DEPENDENCY in the stream"),
        (Feedback("n", b"1"), "message 1028 FEEDBACK in the stream"),
        (image([1.0]), "image-to-image"),
    ],
)
def test_id_that_is_not_for_a_stream_is_named(peer: Peer, message: Message, words: str) -> None:
    peer.say(CONFIG, MRD_HEADER, message, Close())
    assert words in error(peer.rest())


@pytest.mark.parametrize(
    ("number", "words"),
    [
        *((number, "deprecated") for number in (*range(1001, 1008), *range(1009, 1013))),
        *((number, "deprecated") for number in (1015, 1016, 1017, 1020, 1021)),
        (1013, "cloud job"),
        (1014, "cloud job"),
        (1018, "DICOM"),
        (1023, "reconstruction data"),
        (1024, "image array"),
        (1030, "array"),
        (1031, "unknown"),
        (1032, "unknown"),
        (1033, "unknown"),
        (1050, "bucket"),
        (1051, "bundle"),
        (4096, "unknown"),
    ],
)
def test_id_that_is_not_read_ends_the_session_with_its_number(
    peer: Peer, number: int, words: str
) -> None:
    peer.say(CONFIG, MRD_HEADER)
    peer.sock.sendall(struct.pack("<H", number))
    peer.sock.shutdown(socket.SHUT_WR)
    text = error(peer.rest())
    assert f"message id {number}" in text
    assert words in text


def test_id_1_a_name_is_never_looked_up_in_the_environment(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("site_secret.xml", load("default.xml"))
    peer.say(ConfigFile("site_secret.xml"), MRD_HEADER, *lines(), Close())
    text = error(peer.rest())
    assert "no pipeline 'site_secret.xml'" in text
    assert "<configuration>" not in text


def test_id_5_text_before_the_configuration_is_refused(peer: Peer) -> None:
    peer.say(Text("hello"), Close())
    assert "TEXT before the configuration" in error(peer.rest())


def test_id_6_query_with_something_reserved_is_an_error(peer: Peer) -> None:
    peer.sock.sendall(struct.pack("<HQQQ", 6, 1, 9, 0))
    assert "the reserved field must be 0, got 1" in error(peer.rest())


def test_id_5_text_is_a_remark(peer: Peer) -> None:
    peer.say(CONFIG, Text("hello"), MRD_HEADER, Text("again\0"), *lines(), Close())
    assert [type(m) for m in peer.rest()] == [Image, Close]


def test_a_scan_of_the_stock_client_s_default_needs_no_name_but_default_xml(peer: Peer) -> None:
    data = source(1)
    peer.say(CONFIG, Header(data.header), *data.acquisitions, Close())
    assert [type(m) for m in peer.rest()] == [Image, Close]
