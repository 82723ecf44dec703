import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gadgets.errors import GadgetsError, HeaderError, ProtocolError
from gadgets.mrd.geometry import SCAN_TOKEN, Geometry
from gadgets.mrd.header_xml import header_xml, with_user_parameter
from gadgets.mrd.image_attributes import meta_from_xml

with warnings.catch_warnings():  # importing ismrmrd changes the warning filters
    import ismrmrd


def header(**changes: object) -> bytes:
    values: dict[str, object] = {
        "encoded": (640, 368, 1),
        "encoded_fov": (440.0, 253.0, 5.0),
        "recon": (320, 320, 1),
        "recon_fov": (220.0, 220.0, 5.0),
        "n_coils": 15,
    }
    return header_xml(**(values | changes))  # type: ignore[arg-type]


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    """Odd and even matrices, partial Fourier, limits that reach over one edge of the matrix."""
    ny = draw(st.integers(4, 400))
    ky_min = draw(st.integers(0, 40))
    ky_max = draw(st.integers(ky_min, ky_min + ny - 1))
    center = draw(st.integers(ky_min, ky_max))
    return Geometry.parse(
        header(
            encoded=(640, ny, 1),
            ky_min=ky_min,
            ky_max=ky_max,
            center=center,
        )
    )


@given(geometries())
def test_the_central_counter_lies_in_the_central_row(geometry: Geometry) -> None:
    assert geometry.row(geometry.center) == geometry.n_ky // 2


@given(geometries())
def test_row_and_counter_invert_each_other_on_every_row(geometry: Geometry) -> None:
    rows = np.arange(geometry.n_ky)
    np.testing.assert_array_equal(geometry.row(geometry.counter(rows)), rows)
    assert [geometry.row(geometry.counter(int(row))) for row in rows] == rows.tolist()


@given(geometries())
def test_limit_counters_are_those_within_limits_and_matrix(geometry: Geometry) -> None:
    expected = [
        counter
        for counter in range(geometry.ky_min, geometry.ky_max + 1)
        if 0 <= counter + geometry.n_ky // 2 - geometry.center < geometry.n_ky
    ]
    assert geometry.limit_counters.tolist() == expected
    assert geometry.center in expected


def test_unsigned_counters_do_not_wrap_below_zero() -> None:
    geometry = Geometry.parse(header(encoded=(640, 9, 1), ky_min=5, ky_max=13, center=10))
    counters = np.array([0, 6, 10], np.uint16)
    assert geometry.row(counters).tolist() == [-6, 0, 4]
    assert geometry.row(counters[0]) == -6


def test_fastmri_numbers_put_the_acquired_lines_after_the_left_padding() -> None:
    geometry = Geometry.parse(header(encoded=(640, 372, 1), ky_max=325, center=163))
    assert geometry.row(0) == 372 // 2 - 163
    assert geometry.row(325) == 372 // 2 - 163 + 325
    assert geometry.n_x == 320
    assert geometry.limit_counters.size == 326


def test_a_built_header_parses_to_what_was_asked_and_ismrmrd_agrees() -> None:
    xml = header(
        ky_max=300,
        center=150,
        n_slices=4,
        n_contrasts=2,
        n_repetitions=3,
        n_averages=2,
        measurement_id="45_1_2_7",
        tr_ms=4.6,
        user={"site": "a & b"},
    )
    geometry = Geometry.parse(xml)
    assert geometry.encoded == (640, 368, 1)
    assert geometry.recon_fov == (220.0, 220.0, 5.0)
    assert (geometry.ky_min, geometry.ky_max, geometry.center) == (0, 300, 150)
    assert (geometry.n_slices, geometry.n_contrasts, geometry.n_repetitions) == (4, 2, 3)
    assert (geometry.n_averages, geometry.n_phases, geometry.n_sets) == (2, 1, 1)
    assert geometry.n_coils == 15
    assert geometry.measurement_id == "45_1_2_7"
    assert geometry.tr_ms == 4.6
    assert geometry.user == {"site": "a & b"}
    assert geometry.scan_token is None
    assert geometry.relative_receiver_noise_bandwidth == 0.793

    document = ismrmrd.xsd.CreateFromDocument(xml)
    encoding = document.encoding[0]
    assert encoding.encodedSpace.matrixSize.x == 640
    assert encoding.reconSpace.fieldOfView_mm.y == 220.0
    assert encoding.encodingLimits.kspace_encoding_step_1.center == 150
    assert encoding.encodingLimits.slice.maximum == 3
    assert document.acquisitionSystemInformation.receiverChannels == 15
    assert document.sequenceParameters.TR == [4.6]
    assert document.userParameters.userParameterString[0].value == "a & b"


def test_a_user_parameter_is_added_replaced_and_leaves_the_rest() -> None:
    xml = header(measurement_id="1_2_3_4", user={"site": "here"})
    once = with_user_parameter(xml, SCAN_TOKEN, "first")
    twice = with_user_parameter(once.decode() + "\0", SCAN_TOKEN, "second")
    geometry = Geometry.parse(twice)
    assert geometry.scan_token == "second"
    assert geometry.user == {"site": "here", SCAN_TOKEN: "second"}
    assert geometry.measurement_id == "1_2_3_4"
    document = ismrmrd.xsd.CreateFromDocument(twice)
    assert [p.value for p in document.userParameters.userParameterString] == ["here", "second"]


def test_a_user_parameter_lands_where_the_schema_wants_it() -> None:
    waveform = (
        b"<waveformInformation><waveformName>ECG</waveformName><waveformType>ecg</waveformType>"
    )
    xml = header().replace(
        b"</ismrmrdHeader>", waveform + b"</waveformInformation></ismrmrdHeader>"
    )
    amended = with_user_parameter(xml, SCAN_TOKEN, "token")
    assert amended.index(b"userParameters") < amended.index(b"waveformInformation")
    assert Geometry.parse(amended).scan_token == "token"  # and a bare waveform does not matter


def test_headers_with_trailing_nul_foreign_elements_and_no_namespace_are_read() -> None:
    xml = header().replace(b' xmlns="http://www.ism', b' other="http://www.ism')
    xml = xml.replace(
        b"<experimentalConditions>", b"<vendor><x>1</x></vendor><experimentalConditions>"
    )
    assert Geometry.parse(xml + b"\0\0").n_coils == 15
    assert Geometry.parse(xml.decode() + "\0").n_coils == 15


def test_channel_labels_bandwidth_and_noise_dependency_are_read() -> None:
    system = (
        b"<relativeReceiverNoiseBandwidth>0.8</relativeReceiverNoiseBandwidth>"
        b"<receiverChannels>2</receiverChannels>"
        b"<coilLabel><coilNumber>1</coilNumber><coilName>B</coilName></coilLabel>"
        b"<coilLabel><coilNumber>0</coilNumber><coilName>A</coilName></coilLabel>"
    )
    noise = (
        b"</patientPosition><measurementDependency><dependencyType>Noise</dependencyType>"
        b"<measurementID>9</measurementID></measurementDependency>"
    )
    xml = header(n_coils=2, measurement_id="1").replace(b"</patientPosition>", noise)
    geometry = Geometry.parse(xml.replace(b"<receiverChannels>2</receiverChannels>", system))
    assert geometry.channel_labels == ("A", "B")
    assert geometry.relative_receiver_noise_bandwidth == 0.8
    assert geometry.noise_dependency == "9"


def limits_removed(name: str) -> bytes:
    xml = header()
    start, end = xml.index(f"<{name}>".encode()), xml.index(f"</{name}>".encode())
    return xml[:start] + xml[end + len(name) + 3 :]


@pytest.mark.parametrize("name", ["encodingLimits", "kspace_encoding_step_1"])
def test_limits_that_are_absent_are_those_of_the_matrix_and_a_note_says_so(name: str) -> None:
    geometry = Geometry.parse(limits_removed(name))
    assert (geometry.ky_min, geometry.ky_max, geometry.center) == (0, 367, 184)
    assert geometry.n_averages == geometry.n_slices == 1
    assert ["0 to 367, the centre at 184" in note for note in geometry.notes] == [True]
    assert Geometry.parse(header()).notes == ()


def test_an_encoded_z_of_two_whose_image_has_one_partition_is_2_d() -> None:
    assert Geometry.parse(header(encoded=(640, 368, 2))).n_ky == 368


def parallel(inner: bytes) -> bytes:
    end = b"</trajectory>"
    return header().replace(end, end + b"<parallelImaging>" + inner + b"</parallelImaging>")


@pytest.mark.parametrize(
    ("xml", "word"),
    [
        (limits_removed("encodedSpace"), "encodedSpace"),
        (header(encoded=(640, 368, 3)), "3-D"),
        (header(encoded=(640, 368, 2), recon=(320, 320, 2)), "3-D"),
        (header(ky_max=368), "0 to 368 are 369 counters, more than the 368 rows"),
        (header(encoded=(1, 1, 1), encoded_fov=(220, 253, 5)), "at least 4 x 4 pixels, got 1 x 1"),
        (header(encoded=(640, 3, 1)), "at least 4 x 4 pixels, got 320 x 3"),
        (header(encoded=(0, 368, 1)), "matrixSize"),
        (
            header().replace(
                b"<average>",
                b"<kspace_encoding_step_2><minimum>0</minimum><maximum>3</maximum>"
                b"<center>2</center></kspace_encoding_step_2><average>",
            ),
            "3-D",
        ),
        (parallel(b"<multiband><multiband_factor>2</multiband_factor></multiband>"), "multiband"),
        (header().replace(b"cartesian", b"epi"), "epi"),
        (header().replace(b"cartesian", b"radial"), "radial"),
        (header(recon_fov=(220.0, 260.0, 5.0)), "along y"),
        (header(recon_fov=(0.0, 220.0, 5.0)), "fieldOfView_mm"),
        (header(recon_fov=(0.1, 220.0, 5.0)), "none in the"),
        (header(encoded_fov=(float("nan"), 220.0, 5.0)), "fieldOfView_mm/x"),
        (header(ky_max=10, center=11), "center"),
        (header(ky_max=10**9), "65535"),
        (header(n_coils=0), "receiverChannels"),
        (header().replace(b">368<", b">many<"), "many"),
        (b"Dummy XML header", "no XML"),
        (b"", "no XML"),
        (b"<configuration/>", "configuration"),
    ],
)
def test_what_cannot_be_reconstructed_is_refused_by_name(xml: bytes, word: str) -> None:
    with pytest.raises(HeaderError, match=word) as caught:
        Geometry.parse(xml)
    assert isinstance(caught.value, GadgetsError)
    assert isinstance(caught.value, ValueError)


def test_recorded_headers_of_a_real_host_parse(shared: Path) -> None:
    folder = shared / "captures"
    headers = sorted(folder.glob("b0*/*.header.xml"))
    if not headers:
        pytest.skip(f"no recorded headers in {folder}")
    for path in headers:
        assert Geometry.parse(path.read_bytes()).n_ky > 0, path


@pytest.mark.parametrize("encoding", ["utf-7", "idna", "undefined", "punycode", "hex", "none-such"])
def test_an_encoding_that_xml_does_not_take_is_an_error_of_ours(encoding: str) -> None:
    text = f'<?xml version="1.0" encoding="{encoding}"?><ismrmrdHeader>\u00fc</ismrmrdHeader>'
    with pytest.raises(HeaderError, match="no XML"):
        Geometry.parse(text.encode("latin-1"))
    with pytest.raises(ProtocolError, match="no XML"):
        meta_from_xml(text.replace("ismrmrdHeader", "ismrmrdMeta").encode("latin-1"))


def test_each_count_and_the_image_matrix_stand_where_the_header_says() -> None:
    counts = {"n_slices": 2, "n_contrasts": 3, "n_phases": 4, "n_repetitions": 5, "n_sets": 6}
    geometry = Geometry.parse(header(**counts, n_averages=7))
    assert {name: getattr(geometry, name) for name in counts} == counts
    assert (geometry.n_averages, geometry.recon) == (7, (320, 320, 1))
    assert (geometry.measurement_id, geometry.channel_labels) == ("", ())


def test_an_encoding_space_of_its_own_is_read_its_centre_the_matrix_s_where_it_says_none() -> None:
    second = "<encoding>" + header(encoded=(128, 65, 1), encoded_fov=(300.0, 160.0, 5.0)).decode()[
        len("<encoding>") + header(encoded=(128, 65, 1)).decode().index("<encoding>") :
    ].partition("</encoding>")[0] + "</encoding>"  # fmt: skip
    whole = header().decode()
    at = whole.index("</encoding>") + len("</encoding>")
    for text, center in ((second, 32), (without(second, "encodingLimits"), 32)):
        broken = "<encoding><trajectory>cartesian</trajectory></encoding>"  # one we cannot use
        found = Geometry.parse(whole[:at] + broken + text + whole[at:]).references
        assert set(found) == {2}
        assert (found[2].encoded, found[2].encoded_fov) == ((128, 65), (300.0, 160.0))
        assert found[2].center == center


def without(xml: str, name: str) -> str:
    """Return XML without an element."""
    return xml[: xml.index(f"<{name}>")] + xml[xml.index(f"</{name}>") + len(name) + 3 :]


@pytest.mark.parametrize(
    ("minimum", "maximum", "z", "fits"),
    [(0, 0, 2, True), (1, 1, 1, True), (0, 1, 1, False), (1, 2, 2, False), (0, 0, 3, False)],
)
def test_one_partition_is_2_d_wherever_its_counter_begins(
    minimum: int, maximum: int, z: int, *, fits: bool
) -> None:
    limits = (
        f"<kspace_encoding_step_2><minimum>{minimum}</minimum><maximum>{maximum}</maximum>"
        f"<center>{minimum}</center></kspace_encoding_step_2>"
    )
    xml = header(encoded=(640, 368, z)).decode()
    xml = xml.replace("</kspace_encoding_step_1>", f"</kspace_encoding_step_1>{limits}", 1)
    if fits:
        assert Geometry.parse(xml).n_ky == 368
    else:
        with pytest.raises(HeaderError, match="3-D"):
            Geometry.parse(xml)


def test_the_largest_and_the_smallest_that_a_header_may_say_are_taken() -> None:
    whole = Geometry.parse(header(encoded=(640, 65535, 1), n_coils=1))
    assert (whole.n_ky, whole.n_coils) == (65535, 1)
    last = Geometry.parse(header(ky_min=65168, ky_max=65535, center=65352))
    assert last.ky_max == 65535
    for wrong in ({"n_coils": 0}, {"recon_fov": (220.0, 0.0, 5.0)}, {"encoded": (640, 65536, 1)}):
        with pytest.raises(HeaderError):
            Geometry.parse(header(**wrong))


@pytest.mark.parametrize("name", ["multiband_factor", "multibandFactor"])
def test_multiband_is_refused_by_either_name_and_a_factor_of_1_is_none(name: str) -> None:
    def xml(factor: int) -> bytes:
        return parallel(f"<multiband><{name}>{factor}</{name}></multiband>".encode())

    with pytest.raises(HeaderError, match="multiband"):
        Geometry.parse(xml(2))
    assert Geometry.parse(xml(1)).n_ky == 368


def test_a_header_is_written_in_utf_8_and_says_so() -> None:
    assert header(user={"place": "Zürich"}).startswith(b"<?xml version='1.0' encoding='utf-8'?>")
    assert "Zürich".encode() in header(user={"place": "Zürich"})
