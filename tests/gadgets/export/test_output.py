"""`--output` by suffix, and `mnet show`."""

import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from gadgets.cli import main
from gadgets.errors import ConfigError
from gadgets.export.output import Output
from gadgets.export.pictures_of import image_sections, raw_sections
from gadgets.files.image_file import read_images
from gadgets.files.source import open_source, write_images, write_mrd
from gadgets.host.child_host import Address
from gadgets.mrd.messages import Close, Header, write_message
from tests.gadgets.export.test_export import image
from tests.gadgets.helpers.closed_loop import N_KY, N_X, head_like, source


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("raw") / "raw.h5"
    scan = source(n_slices=2)
    write_mrd(path, scan.header, scan.acquisitions)
    return path


def png(path: Path) -> np.ndarray:
    """Decode a grey PNG whose rows have no filter (RFC 2083)."""
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    at = data.index(b"IDAT")
    (size,) = struct.unpack(">I", data[at - 4 : at])
    rows = np.frombuffer(zlib.decompress(data[at + 4 : at + 4 + size]), np.uint8)
    return rows.reshape(height, 1 + width)[:, 1:]


@pytest.mark.parametrize("name", ["i.h5", "v.nii.gz", "p.png", "dicom"])
def test_replay_keeps_images_in_the_format_of_the_name(
    name: str, raw: Path, address: Address, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"{address.host}:{address.port}"
    target = tmp_path / name
    command = ["replay", str(raw), "--host", where, "--config", "cg_sense.xml"]
    assert main([*command, "--output", str(target)]) == 0
    assert str(target) in capsys.readouterr().out
    if name == "i.h5":
        assert len(read_images(target)) == 2
    elif name == "v.nii.gz":
        assert nibabel.load(target).shape == (N_X, N_KY, 2)
    elif name == "dicom":
        assert [pydicom.dcmread(p).Rows for p in sorted(target.iterdir())] == [N_KY] * 2
    else:
        page = png(target)
        # two slices of 48 x 64 enlarged four times, and the gap between them
        assert page.shape == (4 * N_KY, 2 * 4 * N_X + 2)
        first = page[::4, : 4 * N_X : 4]
        truth = np.abs(head_like(N_X, N_KY, 0)).T
        assert np.corrcoef(first.ravel(), truth.ravel())[0, 1] > 0.98


def test_replay_without_output_says_that_images_were_not_kept(
    raw: Path, address: Address, capsys: pytest.CaptureFixture[str]
) -> None:
    where = f"{address.host}:{address.port}"
    assert main(["replay", str(raw), "--host", where]) == 0
    assert "2 images of 128 acquisitions, not kept: --output says where to" in (
        capsys.readouterr().out
    )


def test_an_output_that_cannot_be_is_refused_before_there_are_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no format '\.jpg', expected a name in \.h5"):
        Output.of(tmp_path / "x.jpg")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        Output.of(tmp_path / "full")


def test_raw_data_are_drawn_as_lines_k_space_and_coils(raw: Path, tmp_path: Path) -> None:
    sections = raw_sections(open_source(raw))
    assert [s.title for s in sections[:3]] == ["lines", "k-space, log", "images"]
    assert sections[0].pictures[1].caption == "slice 1: 64 of 64 lines, 0 calibration"
    coils = sections[3:]
    assert [s.title for s in coils] == ["coils of slice 0", "coils of slice 1"]
    assert all(len(s.pictures) == 4 for s in coils)
    kspace = sections[1].pictures[0].pixels
    strongest = np.unravel_index(kspace.argmax(), kspace.shape)
    # coils and the object's phase move it by a few samples
    np.testing.assert_allclose(strongest, (N_KY // 2, N_X), atol=3)
    truth = np.abs(head_like(N_X, N_KY, 0)).T > 0
    rss = sections[2].pictures[0].pixels
    assert rss.shape == truth.shape
    assert rss[truth].mean() > 10 * rss[~truth].mean()


@pytest.mark.parametrize("name", ["page.html", "page.png"])
def test_show_draws_raw_data_and_images(name: str, raw: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "i.h5", [image(0), image(1)], "mnet")
    for data, n in ((raw, 6 + 8), (tmp_path / "i.h5", 2)):
        assert main(["show", str(data), "--output", str(tmp_path / name)]) == 0
        if name.endswith("html"):
            assert (tmp_path / name).read_text().count("<img ") == n


def test_images_of_a_stream_are_read_too(tmp_path: Path) -> None:
    parts = [Header(b"<ismrmrdHeader/>"), image(0), image(1), Close()]
    (tmp_path / "s.mrd").write_bytes(b"".join(map(write_message, parts)))
    images = read_images(tmp_path / "s.mrd")
    assert [int(i.header["slice"]) for i in images] == [0, 1]
    (section,) = image_sections(images)
    assert section.title.startswith("series 1: mnet_modl, 2 images")


def test_show_draws_every_case(shared: Path, tmp_path: Path) -> None:
    if not (shared / "cases").is_dir():
        pytest.skip("no cases")
    drawn = {}
    for path in sorted((shared / "cases").iterdir()):
        if path.suffix in (".h5", ".ismrmrd"):
            group = ["--group", "dataset_2"] if path.name == "multi_meas.h5" else []
            command = ["show", str(path), "--output", str(tmp_path / "p.png"), *group]
            drawn[path.name] = main(command)
    assert drawn.pop("empty.h5") == 1
    assert set(drawn.values()) == {0}
