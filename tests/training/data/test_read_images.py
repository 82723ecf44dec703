import json

import numpy as np
import pytest

from training.data.read_images import load_parts
from training.data.sources import sources


def save(path, images, subjects=None, **meta):
    """A file as the open ones are: voxels of 4 x 0.5 x 0.5 mm."""
    more = {} if subjects is None else {"subjects": np.array(subjects)}
    np.savez(path, images=images, voxel_mm=[4.0, 0.5, 0.5], meta=json.dumps(meta), **more)


@pytest.mark.parametrize(("meta", "reslice"), [({}, False), ({"reslice": False}, False)])
def test_voxels_are_read_and_thick_stacks_are_never_cut_across(meta, reslice, tmp_path):
    save(tmp_path / "mine.npz", np.ones((3, 4, 5)), **meta)
    (volume,) = load_parts(tmp_path, ["mine"])
    assert volume.voxel == (4.0, 0.5, 0.5)
    assert volume.reslice is reslice


def test_a_file_that_says_so_is_cut_across(tmp_path):
    save(tmp_path / "mine.npz", np.ones((3, 4, 5)), reslice=True)
    assert load_parts(tmp_path, ["mine"])[0].reslice


def test_what_a_file_says_of_its_voxels_holds_for_known_sources_too(tmp_path):
    save(tmp_path / "neck_t2s_ax_sct.npz", np.ones((3, 4, 5)), reslice=False)
    (volume,) = load_parts(tmp_path, ["neck-sct"])
    assert (volume.voxel, volume.reslice) == ((4.0, 0.5, 0.5), False)


def test_a_part_is_one_subject_out_of_a_file_of_several(tmp_path):
    images = np.arange(6)[:, None, None] * np.ones((6, 4, 5))
    names = ["SC-N-02", "SC-N-06", "SC-N-02", "SC-N-10", "SC-N-06", "SC-N-02"]
    save(tmp_path / "heart_cine_sunnybrook_a.npz", images, names)
    save(tmp_path / "mine.npz", images, names)
    for part in ("heart-SC-N-02", "mine:SC-N-02"):
        (volume,) = load_parts(tmp_path, [part])
        assert volume.name == part
        assert volume.data[:, 0, 0].tolist() == [0, 2, 5]


@pytest.mark.parametrize("part", ["mine", "mine:c"])
def test_a_file_of_several_subjects_is_no_part_as_a_whole(part, tmp_path):
    save(tmp_path / "mine.npz", np.ones((2, 4, 5)), ["a", "b"])
    with pytest.raises(ValueError, match=r"mine\.npz holds several subjects, .* a, b"):
        load_parts(tmp_path, [part])


def test_complex_images_give_magnitude_and_smooth_phase(tmp_path):
    # a ramp of 2 rad over the image is far below the filter's 6 lines; the noise of 3 % is not
    rng = np.random.default_rng(0)
    axis = np.linspace(-1, 1, 64)
    head = np.exp(-2 * (axis[:, None] ** 2 + axis**2))
    image = 1000 * (head * np.exp(1j * axis) + 0.03 * rng.normal(size=(2, 64, 64)))
    np.savez(
        tmp_path / "mine.npz",
        real=image.real.astype(np.int16),
        imag=image.imag.astype(np.int16),
        scale=np.array([0.1, 10.0], dtype=np.float32),
    )
    (volume,) = load_parts(tmp_path, ["mine"])
    assert not volume.reslice
    for number, scale in enumerate((0.1, 10.0)):
        expected = scale * np.abs(image[number])
        np.testing.assert_allclose(volume.data[number], expected, atol=1.5 * scale)  # of rounding
    assert volume.phase.dtype == np.complex64
    np.testing.assert_allclose(np.abs(volume.phase), 1, rtol=1e-5)
    apart = np.abs(np.angle(volume.phase * np.exp(-1j * axis)))
    assert apart[:, 16:48, 16:48].max() < 0.1


def test_the_real_low_field_images_of_a_patient_have_a_smooth_phase(shared):
    (volume,) = load_parts(shared / "data" / "images", ["lowfield-hku6a"])
    assert volume.data.shape == volume.phase.shape == (8, 128, 126)
    steps = np.abs(np.angle(volume.phase[:, 1:] * volume.phase[:, :-1].conj()))
    assert np.median(steps[volume.data[:, 1:] > 0.3 * volume.data.max()]) < 0.2  # rad a pixel


def test_every_real_file_is_in_the_table_as_its_file_says(shared):
    table = {source.file: source for source in sources() if not source.drawn}
    files = sorted((shared / "data" / "images").glob("*.npz"))
    assert {path.stem for path in files} == set(table)
    for path in files:
        source = table[path.stem]
        with np.load(path) as content:
            meta = json.loads(str(content["meta"]))
            assert "voxel_mm" in content or source.voxel is not None or "real" in content
            if "subjects" in content:
                members = {s.member for s in sources() if s.file == path.stem}
                assert members == set(content["subjects"])
            elif "subject" in meta:
                assert meta["subject"] == source.subject
            if "reslice" in meta:
                (volume, *_) = load_parts(path.parent, [source.part])
                assert not volume.reslice or meta["reslice"]


def test_every_licence_of_the_real_files_that_asks_for_a_name_has_one(shared):
    for source in sources():
        if source.drawn:
            continue
        with np.load(shared / "data" / "images" / f"{source.file}.npz") as content:
            licence = json.loads(str(content["meta"]))["licence"]
        if licence.startswith(("CC BY", "CeCILL")):
            assert source.licence.split()[0] == licence.split()[0].split("(")[0].strip()
            assert source.attribution, source.file


def test_test_objects_need_no_file_and_every_third_is_even_inside(tmp_path):
    (volume,) = load_parts(tmp_path, ["phantom-objects"])
    (again,) = load_parts(tmp_path, ["phantom-objects"])
    assert np.array_equal(volume.data, again.data)
    assert not volume.reslice
    assert volume.data.min() == 0
    assert volume.data.max() <= 1
    middles = volume.data[:, 130:190, 130:190]
    even = np.ptp(middles, axis=(1, 2)) < 1e-6
    assert even[::3].all()
    assert 0.3 < 1 - even.mean() < 0.67
