from pathlib import Path

import numpy as np
import pytest
import torch
from generated import volumes

from training import images
from training.images import SOURCES, Volume


def test_no_head_is_in_two_splits():
    heads = {s.subject: s.split for s in SOURCES if s.subject.startswith("head")}
    for source in SOURCES:
        if source.subject in heads:
            assert source.split == heads[source.subject]
    assert {"train", "validation", "test"} == set(heads.values())


def test_knee_slices_of_the_splits_are_disjoint_with_a_gap():
    knees = {s.split: s.slices for s in SOURCES if s.subject.startswith("knee")}
    assert knees["train"] is not None
    assert knees["test"] is not None
    assert knees["test"][0] - knees["train"][1] >= 2


def test_raw_data_that_is_for_testing_is_in_no_split():
    for source in SOURCES:
        assert "agile" not in source.file
        assert "gpunufft" not in source.file


def test_every_source_states_its_licence():
    assert all(source.licence for source in SOURCES)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_real_volumes_load_and_show_anatomy(split, shared):
    loaded = images.load_split(shared / "data" / "images", split)
    assert [v.name for v in loaded] == [s.subject for s in SOURCES if s.split == split]
    image, pixels = images.random_slice(loaded, np.random.default_rng(0))
    assert (image > 0.15).float().mean() > 0.12
    assert min(pixels) > 0.3


def test_a_missing_folder_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        images.load_split(tmp_path, "train")


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
