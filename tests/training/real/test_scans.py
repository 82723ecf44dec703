import pytest
import torch

from mnet.physics.fourier import inverse_fourier
from mnet.physics.sense import combine
from tests.training.helpers.fake_fastmri import TINY, write
from training.data.volume import read_volume
from training.real.means import is_phantom
from training.real.scans import files_in, middle, read_scans, subject_of


def test_a_scan_is_whitened_and_has_the_maps_that_its_calibration_lines_give(tmp_path):
    write(tmp_path / "a.h5", TINY)
    scans = list(read_scans(tmp_path / "a.h5", [2.0, 3.0], 1))
    assert [(s.slice, s.sample.acceleration) for s in scans] == [(1, 2.0), (1, 3.0)]
    scan = scans[0]
    images = inverse_fourier(scan.sample.kspace, dim=-1)
    whole = scan.to_recon_space(combine(images, scan.sample.csm))
    assert torch.equal(scan.reference, whole)
    assert scan.rss.shape == scan.reference.shape == (40, 40)  # without oversampling


def test_files_of_one_head_are_one_subject_and_phantoms_are_no_people(tmp_path):
    for name in ("brain_t2_4ch_gpunufft", "brain_t2_4ch_agile_os", "phantom_1", "b"):
        write(tmp_path / f"{name}.h5", TINY)
    (tmp_path / "notes.txt").write_text("no scan")
    files = files_in([tmp_path, tmp_path / "b.h5"])
    assert [f.stem for f in files] == [
        "b",
        "brain_t2_4ch_agile_os",
        "brain_t2_4ch_gpunufft",
        "phantom_1",
    ]
    names = [subject_of(read_volume(path)) for path in files]
    assert names == ["b", "brain_t2_4ch", "brain_t2_4ch", "phantom_1"]
    assert [is_phantom(name) for name in names] == [False, False, False, True]


def test_a_folder_without_scans_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"empty: expected k-space files"):
        files_in([tmp_path / "empty"])


def test_the_middle_slices_are_taken():
    assert list(middle(5, 1)) == [2]
    assert list(middle(6, 2)) == [2, 3]
    assert list(middle(2, None)) == list(middle(2, 9)) == [0, 1]
