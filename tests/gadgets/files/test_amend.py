"""What a header leaves out or has wrong: taken from the lines, or from the user, and said once."""

import logging
from pathlib import Path

import numpy as np
import pytest

from gadgets.cli import main
from gadgets.errors import ConfigError, HeaderError
from gadgets.files.source import Source, open_kspace, open_source, write_mrd
from gadgets.mrd.geometry import Geometry
from gadgets.mrd.header_layouts import Flag
from gadgets.mrd.header_values import read_values
from gadgets.mrd.items import Acquisition, Frame
from gadgets.pipeline.chain import run
from gadgets.pipeline.scan import Scan
from gadgets.steps.accumulate import AccumulateFrame
from tests.gadgets.helpers.synthetic import changed, scanned

ONE = scanned()


def without_limits(xml: bytes) -> bytes:
    start, end = xml.index(b"<encodingLimits>"), xml.index(b"</encodingLimits>") + 17
    return xml[:start] + xml[end:]


def written(folder: Path, xml: bytes, lines: list[Acquisition]) -> Path:
    write_mrd(folder / "scan.h5", xml, lines)
    return folder / "scan.h5"


def frames(source: Source) -> list[Frame]:
    out = run((AccumulateFrame(),), Scan(geometry=source.geometry), source.acquisitions)
    return [item for item in out if isinstance(item, Frame)]


@pytest.mark.parametrize(("first", "last", "center"), [(0, 31, 16), (3, 31, 16), (4, 20, 16)])
def test_absent_limits_are_those_of_the_lines(
    tmp_path: Path, first: int, last: int, center: int, caplog: pytest.LogCaptureFixture
) -> None:
    lines = ONE.lines(counters=range(first, last + 1))
    path = written(tmp_path, without_limits(ONE.header), lines)
    with caplog.at_level(logging.WARNING):
        geometry = open_source(path).geometry
    assert (geometry.ky_min, geometry.ky_max, geometry.center) == (first, last, center)
    assert geometry.notes == ()  # the amended header has limits
    (record,) = caplog.records
    assert f"{first} to {last}, with the centre at {center}" in record.getMessage()


def test_averages_that_the_header_does_not_announce_are_averaged(tmp_path: Path) -> None:
    lines = [changed(line, average=average) for average in range(3) for line in ONE.lines()]
    louder = [
        Acquisition(header=line.header, data=line.data * (1 + int(line.header["average"])))
        for line in lines
    ]
    (frame,) = frames(open_source(written(tmp_path, ONE.header, louder)))
    np.testing.assert_allclose(frame.kspace, 2 * ONE.hybrid(), atol=1e-4)


def echoes(xml: bytes) -> tuple[bytes, list[Acquisition]]:
    """Return lines that come twice with equal counters, the second time half as strong."""
    lines = []
    for line in ONE.lines():
        lines += [line, Acquisition(header=line.header, data=line.data / 2)]
    return xml, lines


def test_echoes_are_told_apart_where_the_header_announces_them(tmp_path: Path) -> None:
    source = open_source(written(tmp_path, *echoes(scanned(n_contrasts=2).header)))
    first, second = frames(source)
    assert (first.key.contrast, second.key.contrast) == (0, 1)
    np.testing.assert_allclose(second.kspace, first.kspace / 2, atol=1e-6)


def test_lines_that_come_twice_for_no_reason_are_refused_until_the_user_gives_one(
    tmp_path: Path,
) -> None:
    path = written(tmp_path, *echoes(ONE.header))
    with pytest.raises(ConfigError, match=r"comes 2 times.*--header repeats=contrast"):
        open_source(path)
    assert len(frames(open_source(path, header={"repeats": "contrast"}))) == 2
    (mean,) = frames(open_source(path, header={"repeats": "average"}))
    np.testing.assert_allclose(mean.kspace, 0.75 * ONE.hybrid(), atol=1e-5)


def test_a_few_lines_that_come_twice_are_left_to_be_counted(tmp_path: Path) -> None:
    lines = [*ONE.lines(), *ONE.lines(counters=[3, 4])]
    assert len(open_source(written(tmp_path, ONE.header, lines)).acquisitions) == 34


def test_lines_of_several_partitions_are_refused_though_the_header_names_one(
    tmp_path: Path,
) -> None:
    lines = [changed(line, kspace_encode_step_2=i % 2) for i, line in enumerate(ONE.lines())]
    with pytest.raises(HeaderError, match=r"3-D encoding is not supported: .* 2 partitions"):
        open_source(written(tmp_path, ONE.header, lines))


def test_training_gets_the_same_amended_file(tmp_path: Path) -> None:
    path = written(tmp_path, *echoes(scanned(n_contrasts=2).header))
    file = open_kspace(path)
    assert sorted(set(file.headers()["contrast"].tolist())) == [0, 1]
    (second,) = file.lines(np.array([1]))
    assert int(second.header["contrast"]) == 1


@pytest.mark.parametrize(
    ("values", "field", "expected"),
    [
        ({"ky_min": "2"}, "ky_min", 2),
        ({"ky_max": "29"}, "ky_max", 29),
        ({"ky_center": "15"}, "center", 15),
        ({"averages": "4"}, "n_averages", 4),
        ({"encoded": "40x32"}, "encoded", (40, 32, 1)),
        ({"recon": "20X30x1"}, "recon", (20, 30, 1)),
        ({"encoded_fov": "60.5x32x5"}, "encoded_fov", (60.5, 32.0, 5.0)),
        ({"recon_fov": "20x20"}, "recon_fov", (20.0, 20.0, 5.0)),
        ({"coils": "3"}, "n_coils", 3),
    ],
)
def test_every_value_of_a_header_that_can_be_replaced_is(
    tmp_path: Path, values: dict[str, str], field: str, expected: object
) -> None:
    path = written(tmp_path, ONE.header, ONE.lines())
    given = read_values([f"{key}={value}" for key, value in values.items()])
    assert getattr(open_source(path, header=given).geometry, field) == expected


def test_a_trajectory_that_is_named_wrongly_can_be_replaced(tmp_path: Path) -> None:
    path = written(tmp_path, ONE.header.replace(b"cartesian", b"other"), ONE.lines())
    with pytest.raises(HeaderError, match="other"):
        _ = open_source(path).geometry
    assert open_source(path, header={"trajectory": "cartesian"}).geometry == ONE.geometry


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("center=3", "expected KEY=VALUE with ky_min"),
        ("ky_center", "expected KEY=VALUE"),
        ("ky_center=", "expected KEY=VALUE"),
        ("ky_center=middle", "ky counter of the centre"),
        ("encoded=192", "encoded matrix"),
        ("encoded=0x96", "encoded matrix"),
        ("repeats=echo", "contrast, average"),
    ],
)
def test_what_cannot_be_a_value_is_refused_before_the_work(
    tmp_path: Path, given: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, ONE.header, ONE.lines())
    with pytest.raises(SystemExit) as end:
        main(["convert", str(path), str(tmp_path / "out.h5"), "--header", given])
    assert end.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.h5").exists()


def test_reference_lines_alone_take_no_image_s_space(tmp_path: Path) -> None:
    noise = [changed(line, flags=Flag.NOISE) for line in ONE.lines()]
    source = open_source(written(tmp_path, ONE.header, noise))
    assert source.geometry == Geometry.parse(ONE.header)
