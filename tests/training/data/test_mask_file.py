import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.data import mask_file
from training.data.mask_file import read_masks, write_masks

SETTINGS = {"n_rows": 40, "weights": "abc", "powers": (1.0, 2.5)}


def some_masks(lengths=(5, 160, 8, 211)):
    rng = np.random.default_rng(0)
    return {7 * i + 3: rng.random(n) < 0.3 for i, n in enumerate(lengths)}


def write(path: Path) -> None:
    loss = np.array([[0.1, np.nan], [0.3, 0.4], [0.5, 0.6], [0.7, 0.8]])
    write_masks(path, some_masks(), SETTINGS, {"loss": loss, "has_icd": np.arange(4) < 2})


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(lengths=st.lists(st.integers(0, 70), max_size=6))
def test_masks_of_any_lengths_survive_the_disk(lengths, tmp_path):
    masks = some_masks(lengths)
    write_masks(tmp_path / "a.npz", masks, {})
    found = read_masks(tmp_path / "a.npz").masks
    assert list(found) == list(masks)
    for scan, mask in masks.items():
        assert found[scan].dtype == np.bool_
        np.testing.assert_array_equal(found[scan], mask)


def test_arrays_and_settings_survive_the_disk(tmp_path):
    write(tmp_path / "a.npz")
    found = read_masks(tmp_path / "a.npz", SETTINGS)
    assert found.arrays["loss"].shape == (4, 2)
    assert np.isnan(found.arrays["loss"][0, 1])
    assert found.arrays["has_icd"].tolist() == [True, True, False, False]
    assert found.settings == {"n_rows": 40, "weights": "abc", "powers": [1.0, 2.5]}
    assert found.digest == mask_file.settings_digest(dict(reversed(SETTINGS.items())))


def test_masks_take_an_eighth_of_a_byte_per_row(tmp_path):
    rng = np.random.default_rng(0)
    n, rows = 400, 256
    write_masks(tmp_path / "a.npz", {i: rng.random(rows) < 0.5 for i in range(n)}, {})
    assert (tmp_path / "a.npz").stat().st_size < 1.2 * n * rows / 8 + 3000


def test_the_same_content_is_the_same_file(tmp_path):
    write(tmp_path / "a.npz")
    write(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_other_settings_are_refused_by_name(tmp_path):
    write(tmp_path / "a.npz")
    asked = {"n_rows": 64, "weights": "abc", "powers": [1.0, 2.5], "shortlist": 8}
    with pytest.raises(ValueError, match="other settings") as error:
        read_masks(tmp_path / "a.npz", asked)
    assert "n_rows: 40, expected 64" in str(error.value)
    assert "shortlist: nothing, expected 8" in str(error.value)
    assert "weights" not in str(error.value)


def test_a_file_with_other_settings_is_not_overwritten(tmp_path):
    path = tmp_path / "a.npz"
    write(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="n_rows"):
        write_masks(path, some_masks(), SETTINGS | {"n_rows": 1})
    assert path.read_bytes() == before
    write_masks(path, some_masks(), SETTINGS | {"n_rows": 1}, replace=True)
    assert read_masks(path).settings["n_rows"] == 1
    write_masks(path, some_masks((9,)), SETTINGS | {"n_rows": 1})  # the same settings: may grow
    assert [mask.size for mask in read_masks(path).masks.values()] == [9]


def test_a_damaged_file_is_not_overwritten(tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(b"precious")
    with pytest.raises(ValueError, match="not a whole mask file"):
        write_masks(path, some_masks(), SETTINGS)
    assert path.read_bytes() == b"precious"


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_harmless_or_found(place, bit, tmp_path):
    path = tmp_path / "a.npz"
    write_masks(path, some_masks(), SETTINGS, {"x": np.arange(4.0)}, replace=True)
    whole = read_masks(path)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(data)
    try:
        found = read_masks(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    assert found.settings == whole.settings
    assert all(np.array_equal(found.masks[scan], mask) for scan, mask in whole.masks.items())
    np.testing.assert_array_equal(found.arrays["x"], np.arange(4.0))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_file_is_an_error(share, tmp_path):
    path = tmp_path / "a.npz"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match="not a whole mask file"):
        read_masks(path)


def test_an_archive_of_something_else_is_an_error(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3))
    with pytest.raises(ValueError, match="settings"):
        read_masks(tmp_path / "a.npz")


def test_nothing_is_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    path = tmp_path / "a.npz"
    write(path)
    bad = tmp_path / "bad.npy"
    np.save(bad, np.array([Trap()], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("array.trap.npy", bad.read_bytes())
    with pytest.raises(ValueError, match="not a whole mask file"):
        read_masks(path)
    assert not (tmp_path / "sprung").exists()


def test_objects_and_other_shapes_are_not_written(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(ValueError, match="objects"):
        write_masks(path, some_masks(), {}, {"x": np.array([None] * 4)})
    with pytest.raises(ValueError, match=r"x: shape \(3,\), expected \(4, ...\)"):
        write_masks(path, some_masks(), {}, {"x": np.zeros(3)})
    with pytest.raises(ValueError, match="scan 1: float64"):
        write_masks(path, {1: np.zeros(3)}, {})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    write(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(mask_file.os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_missing_file_is_called_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_masks(tmp_path / "a.npz")
