import numpy as np
import pytest
import torch

from tests.training.helpers.generated import volumes
from training.data import images
from training.data.images import Volume
from training.data.read_images import load_parts
from training.data.sources import sources, subjects

PARTS = sorted({source.part for source in sources()})


def test_parts_of_one_subject_that_share_a_file_lie_apart():
    # neighbouring slices are near-duplicates: a gap of one slice at least
    knees = {source.part: source for source in sources() if source.subject == "knee-1"}
    assert sorted(knees) == ["knee-1a", "knee-1b"]
    assert knees["knee-1a"].slices is not None
    assert knees["knee-1b"].slices is not None
    assert knees["knee-1b"].slices[0] - knees["knee-1a"].slices[1] >= 2
    for a in sources():
        for b in sources():
            if a.file == b.file and a.part != b.part and not a.member:
                assert {a.part, b.part} == {"knee-1a", "knee-1b"}


def test_every_part_shows_one_subject_and_so_does_every_file_that_names_no_members():
    for key in ("file", "part"):
        named = [source for source in sources() if key == "part" or not source.member]
        whose = {getattr(source, key): source.subject for source in named}
        assert all(whose[getattr(source, key)] == source.subject for source in named)


def test_subjects_are_those_of_the_parts():
    assert subjects(["head-1", "knee-1a", "knee-1b", "mine"]) == {"head-1", "knee-1", "mine"}


def test_raw_data_that_is_for_testing_is_in_no_part():
    for source in sources():
        assert "agile" not in source.file
        assert "gpunufft" not in source.file


def test_every_source_states_its_licence():
    assert all(source.licence for source in sources())


@pytest.mark.parametrize("part", PARTS)
def test_the_real_volumes_load_and_show_anatomy(part, shared):
    loaded = load_parts(shared / "data" / "images", [part])
    assert [v.name for v in loaded] == [s.part for s in sources() if s.part == part]
    for volume in loaded:
        image, pixels = images.random_slice([volume], np.random.default_rng(0))
        assert (image > 0.15).float().mean() > 0.1  # 0.12 before it was cut to its k-space
        assert min(pixels) >= min(volume.voxel)


def test_the_two_parts_of_the_real_knee_hold_other_slices(shared):
    a, b = load_parts(shared / "data" / "images", ["knee-1a", "knee-1b"])
    assert (len(a.data), len(b.data)) == (10, 7)
    assert not any(np.array_equal(x, y) for x in a.data for y in b.data)


def test_a_part_is_cut_to_its_slices(tmp_path):
    # every slice of the knee holds its number
    numbers = np.broadcast_to(np.arange(24)[:, None, None], (24, 4, 4))
    np.savez(tmp_path / "knee_mese_t2_gattia.npz", images=numbers)
    a, b = load_parts(tmp_path, ["knee-1a", "knee-1b"])
    assert np.unique(a.data).tolist() == list(range(3, 13))
    assert np.unique(b.data).tolist() == list(range(15, 22))


def test_any_other_npz_of_the_folder_is_a_part(tmp_path):
    data = np.random.default_rng(0).random((5, 6, 7))
    np.savez(tmp_path / "mine.npz", images=data)
    (volume,) = load_parts(tmp_path, ["mine"])
    assert np.array_equal(volume.data, data)
    assert (volume.name, volume.voxel, volume.reslice) == ("mine", (1.0, 1.0, 1.0), True)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("through", "reslice"), [(1.2, True), (5.0, False)])
def test_any_nifti_of_the_folder_is_a_part(suffix, through, reslice, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    data = np.random.default_rng(0).random((6, 7, 5)).astype(np.float32)
    image = nibabel.Nifti1Image(data, np.diag([0.8, 0.9, through, 1.0]))
    nibabel.save(image, tmp_path / f"mine{suffix}")
    (volume,) = load_parts(tmp_path, ["mine"])
    assert volume.data.shape == (5, 6, 7)  # slices first
    np.testing.assert_allclose(volume.data, data.transpose(2, 0, 1))
    np.testing.assert_allclose(volume.voxel, (through, 0.8, 0.9), rtol=1e-6)
    assert volume.reslice is reslice


def test_a_nifti_turned_in_its_file_is_turned_back(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    data = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)  # slices first
    across_last = np.array([[0, 0.8, 0, 0], [0, 0, 0.9, 0], [1.2, 0, 0, 0], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(data, across_last), tmp_path / "mine.nii")
    (volume,) = load_parts(tmp_path, ["mine"])
    np.testing.assert_allclose(volume.data, data)
    np.testing.assert_allclose(volume.voxel, (1.2, 0.8, 0.9), rtol=1e-6)


def test_several_parts_are_loaded_in_their_order(tmp_path):
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", images=np.ones((2, 3, 4)))
    assert [v.name for v in load_parts(tmp_path, ["two", "one"])] == ["two", "one"]


def test_a_part_without_a_file_is_an_error_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no mine\.npz, \.nii or \.nii\.gz"):
        load_parts(tmp_path, ["mine"])
    with pytest.raises(FileNotFoundError, match="brain_t1_sag_uih_a"):
        load_parts(tmp_path, ["head-1"])


def test_an_empty_volume_is_refused_instead_of_searched_for_ever():
    with pytest.raises(ValueError, match="no slice with anatomy"):
        images.random_slice([Volume(data=np.zeros((8, 8, 8)))], np.random.default_rng(0))


@pytest.mark.parametrize("shape", [(96, 128), (101, 97), (160, 120)])
def test_a_view_holds_the_whole_object(shape):
    axis = torch.linspace(-1, 1, 200)
    disc = ((axis[:, None] - 0.2) ** 2 + axis**2 < 0.5).float()  # round: rotation changes nothing
    for seed in range(8):
        inside = images.random_view(disc, (1.0, 1.0), shape, np.random.default_rng(seed)) > 0.5
        for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert not edge.any()
        across = [int(inside.any(1 - dim).sum()) / shape[dim] for dim in (0, 1)]
        assert 0.6 < max(across) < 1


def test_zeros_that_a_scanner_filled_in_are_cut_off():
    # a wave at 0.6 of the half-width of k-space lies in what is kept of 0.7, one at 0.8 does not
    rows = torch.arange(200)[:, None]
    for place, kept in ((0.6, True), (0.8, False)):
        wave = torch.cos(np.pi * place * rows).expand(200, 100) / 2
        image, pixels = images.native(1 + wave, (0.5, 2.0), (0.7, 1.0))
        assert image.shape == (140, 100)
        assert pixels == pytest.approx((0.5 / 0.7, 2.0))
        assert (image.std() > 0.3) == kept
        assert image.mean() == pytest.approx(1, abs=0.01)


def test_a_view_is_not_finer_than_its_source_unless_the_object_would_be_tiny():
    rng = np.random.default_rng(0)
    finer = 0
    for _ in range(200):
        pixels = tuple(rng.uniform(0.4, 1.6, 2))
        extent = tuple(rng.uniform(90, 240, 2))
        shape = (int(rng.integers(96, 385)), int(rng.integers(96, 385)))
        fill = rng.uniform(0.65, 0.98, 2)
        spacing = images.view_spacing(extent, pixels, shape, fill)
        assert 1 / 1.31 < spacing[0] / spacing[1] < 1.31
        for i in (0, 1):
            share = extent[i] / (spacing[i] * shape[i])
            assert share <= fill[i] + 1e-9
            if spacing[i] < pixels[i] - 1e-9:
                assert share <= images.LEAST_FILL + 1e-9
                finer += 1
    assert finer > 0


def test_the_source_s_own_grid_is_the_finest_view():
    # stripes of one pixel are the finest a source can hold: no view shows them magnified
    image = torch.zeros(120, 120)
    image[10:110, 10:110] = 1 + 0.5 * (-1) ** torch.arange(100)[:, None]
    view = images.random_view(image, (1.0, 1.0), (160, 160), np.random.default_rng(0))
    extent = int((view > 0.5).any(1).sum()), int((view > 0.5).any(0).sum())
    assert max(extent) <= 1.2 * 100  # turned by up to 12 degrees, never magnified


@pytest.mark.parametrize("shape", [(96, 128), (101, 97)])
def test_a_view_of_a_head_is_finite_and_fills_its_matrix(shape):
    for seed in range(8):
        rng = np.random.default_rng(seed)
        image, pixels = images.random_slice(volumes(), rng)
        view = images.random_view(image, pixels, shape, rng)
        assert view.shape == shape
        assert torch.isfinite(view).all()
        assert (view > 0.3).float().mean() > 0.15


def test_a_view_keeps_the_brightness_of_the_slice():
    image = torch.zeros(80, 80)
    image[20:60, 20:60] = 1.0
    for seed in range(4):
        view = images.random_view(image, (1.0, 1.0), (96, 96), np.random.default_rng(seed))
        assert view[view > 0.5].median().item() == pytest.approx(1.0, abs=0.03)


def test_air_fades_and_anatomy_stays():
    image = torch.full((60, 60), 0.01)
    image[20:40, 20:40] = 0.7
    cleaned = images.without_air(image)
    assert cleaned[:10].abs().max() == 0
    torch.testing.assert_close(cleaned[24:36, 24:36], image[24:36, 24:36])


def test_a_random_contrast_keeps_air_dark_and_values_finite():
    image = torch.linspace(0, 1.5, 100).reshape(10, 10)
    for seed in range(20):
        mapped = images.random_contrast(image, np.random.default_rng(seed))
        assert mapped[0, 0] == 0
        assert torch.isfinite(mapped).all()
        assert mapped.min() >= 0


def test_texture_is_of_low_contrast_about_one_and_finer_parts_are_weaker():
    for seed in range(20):
        field = images.texture((64, 96), np.random.default_rng(seed))
        contrast = float(field.std())
        assert 0.009 < contrast < 0.09
        assert float(field.mean()) == pytest.approx(1, abs=0.1)
        power = torch.fft.fft2(field - field.mean()).abs().square()
        k = torch.fft.fftfreq(64).abs()[:, None] + torch.fft.fftfreq(96).abs()
        coarse, fine = power[(k > 0) & (k < 0.15)].mean(), power[k > 0.5].mean()
        assert float(coarse) > 2 * float(fine)  # amplitudes fall as 1 / k^0.5 at the least


def test_some_curves_leave_little_contrast():
    ramp = torch.linspace(0.25, 0.95, 50)[None]
    lowest = [
        float((curve := images.random_contrast(ramp, np.random.default_rng(seed))).min())
        / float(curve.max())
        for seed in range(200)
    ]
    assert np.mean(np.array(lowest) > 0.55) > 0.1
    assert np.mean(np.array(lowest) < 0.4) > 0.3
