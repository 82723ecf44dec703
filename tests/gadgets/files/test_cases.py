"""Every file of `shared/cases` has its right value: an image, or the sentence that says why not."""

import logging
from pathlib import Path
from typing import Any

import pytest

from gadgets.errors import ConfigError, ProtocolError
from gadgets.files.source import open_source
from gadgets.mrd.items import Image
from tests.gadgets.helpers.cases import WHOLE, against_the_phantom, images_of, magnitude

SAME = 1e-3  # the phantom's own lines: what is left is rounding and the storage as 16 bit
R2 = 0.06  # every second line of a 4-coil phantom without noise, maps from 12 to 32 lines


@pytest.fixture
def cases(shared: Path) -> Path:
    if not (shared / "cases").is_dir():
        pytest.skip("no cases")
    return shared / "cases"


@pytest.mark.parametrize(
    ("name", "most", "options"),
    [
        ("limits_absent.h5", SAME, {}),
        ("z2.h5", SAME, {}),
        ("centre0.h5", SAME, {}),
        ("group_other.h5", SAME, {}),
        ("multi_meas.h5", SAME, {"group": "dataset_2"}),
        ("coils_sc.h5", SAME, {}),
        ("coils_noise.h5", 0.03, {}),  # three noise readouts of 192 samples give other weights
        ("grappa2.h5", R2, {}),
        ("tse.h5", R2, {}),
        ("enc_ref1.h5", R2, {}),
        ("enc_ref0.h5", R2, {}),
        ("pf_wrongcentre.h5", 0.07, {"header": {"ky_center": "24"}}),
        ("pfw_fixed.h5", 0.07, {}),
    ],
)
def test_the_image_is_the_phantom(
    cases: Path, name: str, most: float, options: dict[str, Any]
) -> None:
    (found,) = against_the_phantom(cases / name, open_source(cases / name, **options))
    assert found < most


def test_three_echoes_are_three_images_of_their_own_strength(cases: Path) -> None:
    source = open_source(cases / "me_zero.h5")
    images: list[Image] = images_of(source)[0]
    assert [int(image.header["contrast"]) for image in images] == [0, 1, 2]
    assert max(against_the_phantom(cases / "me_zero.h5", source)) < SAME
    strengths = [float(magnitude(image).max()) for image in images]
    assert strengths == sorted(strengths, reverse=True)  # they decay
    assert strengths[0] > 1.5 * strengths[2]


def test_three_averages_are_less_noisy_than_one_by_the_root_of_three(cases: Path) -> None:
    path = cases / "avg_nolim.h5"
    source = open_source(path)
    (mean,) = against_the_phantom(path, source)
    first = [line for line in source.acquisitions if line.header["average"] == 0]
    alone = type(source)(
        kind=source.kind,
        header=open_source(path, header={"averages": "1"}).header.replace(
            b"<average><minimum>0</minimum><maximum>2<", b"<average><minimum>0</minimum><maximum>0<"
        ),
        acquisitions=first,
    )
    (single,) = against_the_phantom(path, alone)
    assert single / mean == pytest.approx(3**0.5, rel=0.1)


def test_one_of_two_scans_is_never_taken_in_silence(cases: Path) -> None:
    with pytest.raises(
        ConfigError, match="2 scans: name one with --group, of dataset_1, dataset_2"
    ):
        open_source(cases / "multi_meas.h5")
    with pytest.raises(ConfigError, match=r"no group 'dataset'.*one of dataset_1, dataset_2"):
        open_source(cases / "multi_meas.h5", group="dataset")
    first = open_source(cases / "multi_meas.h5", group="/dataset_1")
    assert first.acquisitions[0].data.shape[0] == 2


def test_a_file_without_acquisitions_says_so(cases: Path) -> None:
    with pytest.raises(ProtocolError, match=r"empty\.h5: .*but no acquisitions"):
        open_source(cases / "empty.h5")


def test_a_wrong_centre_is_said_with_what_to_do(
    cases: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        images_of(open_source(cases / "pf_wrongcentre.h5"))
    assert "the strongest line is ky 24, but the header's center is 36" in caplog.text
    assert "--header ky_center" in caplog.text


def test_readouts_that_are_not_the_image_s_are_counted(cases: Path) -> None:
    other = "readouts of other coils than the image's"
    assert images_of(open_source(cases / "coils_sc.h5"))[1] == {other: 96}
    assert images_of(open_source(cases / "coils_noise.h5"))[1] == {other: 1}
    assert images_of(open_source(cases / "enc_ref1.h5"))[1] == {}  # the references are used
    assert images_of(open_source(cases / WHOLE))[1] == {}
