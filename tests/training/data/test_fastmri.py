import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from gadgets.files.source import write_mrd
from mnet.physics import sense
from mnet.physics.fourier import inverse_fourier
from tests.training.helpers import fake_fastmri as fake
from training.data import corpus
from training.data.cohort_index import subjects
from training.data.fastmri import samples, split, to_sample, write_cohort
from training.data.images import Volume
from training.data.volume import read_volume


@pytest.mark.parametrize("shape", [fake.KNEE, fake.TINY])
def test_a_sample_has_the_images_of_a_plain_transform_but_for_one_scale(tmp_path, shape):
    data = fake.write(tmp_path / "a.h5", shape)
    truth = fake.cropped(fake.fft2(data[1].astype(complex), inverse=True), shape[2] // 2)
    sample = next(samples(read_volume(tmp_path / "a.h5"), 4, [1], whiten=False))
    image = inverse_fourier(sample.kspace, dim=-1).numpy()
    scale = np.vdot(truth, image) / np.vdot(truth, truth)
    assert np.abs(image - scale * truth).max() < 1e-5 * np.abs(image).max()
    assert scale.real > 0
    assert abs(scale.imag) < 1e-5 * scale.real
    assert sample.csm.shape == sample.kspace.shape == (shape[1], shape[2] // 2, shape[3])
    assert torch.equal(sample.clean, sample.kspace)


def test_maps_and_scale_come_from_the_calibration_lines_alone(tmp_path):
    fake.write(tmp_path / "a.h5")
    volume = read_volume(tmp_path / "a.h5")
    kspace = volume.hybrid(0)
    sample = to_sample(kspace, volume.acquirable, 2.0)
    calibration = torch.from_numpy(sample.plan().calibration)
    other = kspace.clone()
    other[..., ~calibration] *= 100
    again = to_sample(other, volume.acquirable, 2.0)
    torch.testing.assert_close(again.csm, sample.csm)
    torch.testing.assert_close(again.kspace[..., calibration], sample.kspace[..., calibration])


def ball(size=64):
    """Return a ball of random blocks, as anatomy to simulate scans of."""
    axis = np.linspace(-1.2, 1.2, size)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    blocks = np.random.default_rng(0).uniform(0.4, 1, (8, 8, 8)).repeat(8, 0).repeat(8, 1)
    return Volume(data=np.where(x**2 + y**2 + z**2 < 1, blocks.repeat(8, 2), 0), voxel=(3, 3, 3))


@pytest.mark.parametrize("unit", [1e-8, 1.0, 1e4])
def test_the_scale_is_that_of_simulated_scans_whatever_the_unit(unit):
    settings = corpus.Cohort(
        parts=(), n=12, seed=5, reference=120, largest=140, accelerations=(4.0, 6.0)
    )
    volumes, ratios = [ball()], []
    for number in range(settings.n):
        scan = corpus.draw(volumes, settings, number)
        again = to_sample(scan.kspace * unit, scan.acquirable, scan.acceleration)
        ratios.append(float(again.kspace.norm() / scan.kspace.norm()))
    # one scan's brightest tissue may be a third off its mean, all of them are not
    assert 0.8 < np.exp(np.mean(np.log(ratios))) < 1.25
    assert max(ratios) < 1.5
    assert min(ratios) > 0.67


def no_kspace(path):
    with h5py.File(path, "w") as file:
        file["reconstruction_rss"] = np.zeros(3)


def no_hdf5(path):
    path.write_bytes(b"not HDF5 at all" * 100)


def no_header(path):
    fake.write(path, xml=None)


def no_lines(path):
    write_mrd(path, fake.header(fake.TINY), [])


def undersampled(path):
    fake.write(path)
    with h5py.File(path, "a") as file:
        file["mask"] = np.arange(48) % 2 == 0


BAD = {
    no_kspace: r"expected MRD .* got HDF5 with \['reconstruction_rss'\]",
    no_hdf5: "cannot be read as HDF5",
    no_header: "expected /ismrmrd_header, got none",
    no_lines: "but no acquisitions",
    undersampled: "expected a fully sampled scan",
}


@pytest.mark.parametrize("damage", BAD, ids=lambda damage: damage.__name__)
def test_a_bad_file_is_named_and_nothing_is_written(tmp_path, damage):
    fake.write(tmp_path / "good.h5")
    damage(tmp_path / "bad.h5")
    with pytest.raises(ValueError, match=rf"bad\.h5.*{BAD[damage]}"):
        read_volume(tmp_path / "bad.h5", need_header=True)
    with pytest.raises(ValueError, match=r"bad\.h5"):
        write_cohort(
            tmp_path / "cohort",
            [tmp_path / "good.h5", tmp_path / "bad.h5"],
            [2.0],
            margins=(0, 0),
        )
    assert not (tmp_path / "cohort").exists()


@pytest.fixture(scope="module")
def scans(tmp_path_factory) -> list[Path]:
    """Ten files of eight patients."""
    folder = tmp_path_factory.mktemp("scans")
    files = [folder / f"file{i}.h5" for i in range(10)]
    for i, path in enumerate(files):
        fake.write(path, data=fake.kspace((1, 2, 80, 48)), patient=f"p{i % 8}")
    return files


def test_a_split_shares_no_patient_and_does_not_depend_on_order(scans):
    parts = {"train": 0.5, "validation": 0.25, "test": 0.25}
    result = split(scans, parts, seed=3)
    assert split(scans[::-1], parts, seed=3) == result
    assert any(split(scans, parts, seed=seed) != result for seed in range(3))
    owners = [{read_volume(path).subject for path in result[part]} for part in parts]
    assert [len(owner) for owner in owners] == [4, 2, 2]
    assert len(set.union(*owners)) == 8
    assert sorted(path for files in result.values() for path in files) == scans


def test_lists_are_taken_as_given_and_fractions_share_the_rest(scans):
    result = split(scans, {"test": ["file0.h5", "file3"], "train": 1.0})
    assert [path.name for path in result["test"]] == ["file0.h5", "file3.h5"]
    # file8 shows the patient of file0, so nobody may train on it
    assert scans[8] not in result["train"]
    assert len(result["train"]) == 7


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": ["file0", "file1"], "test": ["file8"]}, "share the subject 'p0' of file8"),
        ({"train": ["file0", "file1"], "test": ["file1"]}, "share the subject 'p1' of file1"),
        ({"train": ["file77"]}, "no file 'file77' among the 10"),
        ({"train": 0.8, "test": 0.3}, "at most 1 in all"),
        ({"train": 0.99, "test": 0.01}, "leaves none"),
    ],
)
def test_a_split_that_cannot_be_is_refused(scans, parts, message):
    with pytest.raises(ValueError, match=message):
        split(scans, parts)


def test_a_file_given_twice_is_refused(scans):
    with pytest.raises(ValueError, match="got twice: file1"):
        split([*scans, scans[1]], {"train": 0.5})


def cohort(folder, files, accelerations=(2.0, 3.0), **settings):
    return list(write_cohort(folder, files, accelerations, margins=(1, 0), **settings))


def test_a_cohort_is_read_as_a_simulated_one_is(tmp_path):
    files = [tmp_path / "b.h5", tmp_path / "a.h5"]
    shapes = [fake.TINY, (3, 2, 80, 48)]  # another coil count is another scan
    for path, shape in zip(files, shapes, strict=True):
        fake.write(path, shape, patient=f"patient of {path.stem}")
    paths = cohort(tmp_path / "cohort", files)
    assert [path.name for path in paths] == [f"{i:05d}.safetensors" for i in range(4)]
    read = [corpus.load(path) for path in paths]
    assert [sample.acceleration for sample in read] == [2.0, 3.0, 2.0, 3.0]
    assert [sample.kspace.shape[0] for sample in read] == [2, 2, 4, 4]
    assert subjects(tmp_path / "cohort") == ["patient of a"] * 2 + ["patient of b"] * 2
    direct = next(samples(read_volume(files[0]), 3.0, [2]))
    torch.testing.assert_close(read[3].kspace, direct.kspace)
    torch.testing.assert_close(read[3].csm, direct.csm)


def test_a_paired_cohort_has_every_slice_at_every_acceleration(tmp_path):
    fake.write(tmp_path / "a.h5")
    cohort(tmp_path / "cohort", [tmp_path / "a.h5"], paired=True)
    scans = json.loads((tmp_path / "cohort" / "cohort.json").read_text())["scans"]
    assert [(scan["slice"], scan["acceleration"]) for scan in scans] == [
        (1, 2.0),
        (1, 3.0),
        (2, 2.0),
        (2, 3.0),
    ]


def test_an_interrupted_cohort_is_completed_and_nothing_done_twice(tmp_path):
    fake.write(tmp_path / "a.h5")
    files = [tmp_path / "a.h5"]
    first = next(write_cohort(tmp_path / "cohort", files, (2.0, 3.0), margins=(1, 0)))
    before = first.stat().st_mtime_ns
    assert len(cohort(tmp_path / "cohort", files)) == 2
    assert first.stat().st_mtime_ns == before


def test_a_cohort_of_other_settings_is_not_overwritten(tmp_path):
    fake.write(tmp_path / "a.h5")
    paths = cohort(tmp_path / "cohort", [tmp_path / "a.h5"])
    before = [path.read_bytes() for path in paths]
    with pytest.raises(ValueError, match="other settings"):
        cohort(tmp_path / "cohort", [tmp_path / "a.h5"], (2.0,))
    (tmp_path / "cohort" / "cohort.json").unlink()
    with pytest.raises(ValueError, match="scans without"):
        cohort(tmp_path / "cohort", [tmp_path / "a.h5"])
    assert [path.read_bytes() for path in paths] == before


def test_too_few_slices_for_the_margins_is_an_error(tmp_path):
    fake.write(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"a\.h5: expected more than 15 slices.*got 3"):
        write_cohort(tmp_path / "cohort", [tmp_path / "a.h5"], [4.0])


def test_a_real_oversampled_brain_has_the_image_of_a_plain_transform(shared):
    path = shared / "data" / "raw" / "brain_t2_4ch_agile_os.h5"
    with h5py.File(path, "r") as file:
        coils = fake.fft2(file["kspace"][0].astype(complex), inverse=True)
    truth = fake.cropped(np.sqrt((np.abs(coils) ** 2).sum(0)), 256)
    volume = read_volume(path, need_header=True)
    image = inverse_fourier(volume.hybrid(0), -1).abs().square().sum(0).sqrt().numpy()
    assert np.abs(image - truth).max() < 1e-5 * truth.max()
    sample = next(samples(volume, 4.0, whiten=False))
    combined = sense.combine(inverse_fourier(sample.kspace, -1), sample.csm).abs().numpy()
    inside = truth > 0.1 * truth.max()
    correlated = np.corrcoef(combined[inside], truth[inside])[0, 1]
    assert correlated > 0.99
    assert 0.8 < combined[inside].mean() < 1.25
