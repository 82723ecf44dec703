import itertools
import shutil
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.training.helpers.generated import cohort, volumes
from training.data import corpus, simulate


@lru_cache  # a scan takes its time
def draw(number: int, **changes: object) -> corpus.Sample:
    return corpus.draw(volumes(), cohort(**changes), number)


def same(a: corpus.Sample, b: corpus.Sample) -> bool:
    return (
        torch.equal(a.kspace, b.kspace)
        and torch.equal(a.clean, b.clean)
        and torch.equal(a.csm, b.csm)
        and np.array_equal(a.acquirable, b.acquirable)
        and (a.acceleration, a.noise, a.folded) == (b.acceleration, b.noise, b.folded)
    )


def test_a_scan_follows_from_its_cohort_s_seed_and_its_number():
    first = draw(3)
    assert same(first, draw.__wrapped__(3))
    assert not same(first, draw(4))
    assert not same(first, draw(3, seed=2))


def test_accelerations_take_turns():
    assert cohort().accelerations == (4.0, 8.0, 4.0, 8.0, 6.0)
    assert [draw(i).acceleration for i in range(6)] == [4.0, 8.0, 4.0, 8.0, 6.0, 4.0]


def test_a_cohort_may_have_arrays_of_some_sizes_alone():
    sizes = {len(draw(number, coils=(1, 2)).kspace) for number in range(8)}
    assert sizes == {1, 2}


def test_a_paired_cohort_measures_every_anatomy_once_at_each_acceleration():
    paired = {"accelerations": (4.0, 8.0), "paired": True}
    four, eight, other = (draw(i, **paired) for i in (2, 3, 4))
    assert (four.acceleration, eight.acceleration) == (4.0, 8.0)
    assert torch.equal(four.kspace, eight.kspace)
    assert torch.equal(four.clean, eight.clean)
    assert not torch.equal(four.csm, eight.csm)  # of its own calibration lines
    assert four.clean.shape != other.clean.shape or not torch.equal(four.clean, other.clean)


def test_scans_of_an_unpaired_cohort_all_have_other_anatomy():
    scans = [draw(i) for i in range(4)]
    for a, b in itertools.pairwise(scans):
        assert a.clean.shape != b.clean.shape or not torch.equal(a.clean, b.clean)


def test_a_scan_survives_the_disk(tmp_path):
    sample = draw(0)
    corpus.save(sample, tmp_path / "a.safetensors")
    assert same(corpus.load(tmp_path / "a.safetensors"), sample)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("number", range(3))
def test_maps_come_from_the_calibration_lines_alone(number):
    sample = draw(number)
    other = sample.kspace.clone()
    calibration = torch.from_numpy(sample.plan().calibration)
    other[..., ~calibration] = 1e6
    again = corpus.coil_maps(other[..., calibration], other.shape[-1])
    torch.testing.assert_close(again, sample.csm)


def test_the_plan_is_for_the_nominal_acceleration_unless_another_is_asked_for():
    sample = draw(1)
    assert sample.plan().n_lines == int(sample.acquirable.sum() // sample.acceleration)
    assert sample.plan(2.0).n_lines == int(sample.acquirable.sum() // 2)


def test_noise_lies_only_on_acquirable_lines():
    for number in range(6):
        sample = draw(number)
        noise = sample.kspace - sample.clean
        assert noise[..., ~sample.acquirable].abs().sum() == 0
        assert noise[..., sample.acquirable].abs().min() > 0


def test_a_scan_knows_how_loud_its_noise_is():
    for number in range(6):
        sample = draw(number)
        noise = (sample.kspace - sample.clean)[..., sample.acquirable]
        found = float(noise.abs().square().mean().sqrt())
        # a partial echo leaves out up to 35 % of the samples
        assert 0.79 * sample.noise < found < 1.02 * sample.noise


def test_a_scan_that_does_not_say_how_loud_its_noise_is_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    corpus.save(draw(0), path)
    old = {name: value for name, value in load_file(path).items() if name != "noise"}
    save_file(old, path)
    with pytest.raises(ValueError, match="does not say how loud its noise is"):
        corpus.load(path)


COHORT = cohort(2, parts=("generated",))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one volume, `generated`."""
    folder = tmp_path_factory.mktemp("images")
    np.savez(folder / "generated.npz", images=volumes()[0].data.astype(np.float32))
    return folder


@pytest.fixture(scope="module")
def written(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole cohort; not to be changed."""
    folder = tmp_path_factory.mktemp("cohort") / "some" / "where"
    paths = list(corpus.write(folder, COHORT, images))
    assert paths == [corpus.scan_path(folder, 0), corpus.scan_path(folder, 1)]
    return folder


def test_a_cohort_is_written_with_whole_files_only(written, images):
    names = sorted(path.name for path in written.iterdir())
    assert names == ["00000.safetensors", "00001.safetensors"]
    again = corpus.draw(corpus.load_parts(images, ("generated",)), COHORT, 1)
    assert same(corpus.load(written / "00001.safetensors"), again)


def test_only_what_is_missing_of_a_cohort_is_drawn(written, images, tmp_path, monkeypatch):
    folder = tmp_path / "again"
    shutil.copytree(written, folder)
    first, second = (corpus.scan_path(folder, number) for number in (0, 1))
    before = first.stat().st_mtime_ns, second.read_bytes()
    second.unlink()
    drawn = []
    real = corpus.draw
    monkeypatch.setattr(
        corpus, "draw", lambda v, c, number: drawn.append(number) or real(v, c, number)
    )
    assert list(corpus.write(folder, COHORT, images)) == [first, second]
    assert drawn == [1]
    assert (first.stat().st_mtime_ns, second.read_bytes()) == before


def test_a_whole_cohort_needs_no_images(written, tmp_path):
    assert len(list(corpus.write(written, COHORT, tmp_path / "nowhere"))) == 2
    with pytest.raises(FileNotFoundError, match=r"no generated\.npz"):
        list(corpus.write(written, replace(COHORT, n=3), tmp_path / "nowhere"))


MIXED = cohort(60, parts=("a", "b", "c"), accelerations=(4.0, 8.0), phases=("z",))


def test_the_parts_of_a_cohort_have_equal_shares_whatever_the_acceleration():
    paired = replace(MIXED, paired=True)
    for number in range(0, 60, 2):  # both accelerations of an anatomy, and the parts in turn
        found = {corpus.part_of(paired, number), corpus.part_of(paired, number + 1)}
        assert found == {"abc"[number // 2 % 3]}
    drawn = Counter((corpus.part_of(MIXED, n), n % 2) for n in range(6000))
    assert len(drawn) == 6
    assert all(abs(count - 1000) < 5 * 29 for count in drawn.values())  # 29 is a deviation


def test_a_scan_is_drawn_from_its_part_alone_and_may_borrow_a_phase(monkeypatch):
    head = volumes()[0]
    named = [replace(head, name=name) for name in "abcz"]
    named[3] = replace(named[3], phase=np.ones(head.data.shape, np.complex64))
    given = []
    real = corpus.simulate
    monkeypatch.setattr(
        corpus, "simulate", lambda v, s, r: given.append([x.name for x in v]) or real(v, s, r)
    )
    for number in range(3):
        corpus.draw(named, MIXED, number)
    assert given == [[corpus.part_of(MIXED, number), "z"] for number in range(3)]


def test_a_volume_that_lends_its_phase_is_not_shown_itself(monkeypatch):
    head = volumes()[0]
    lender = replace(head, phase=np.ones(head.data.shape, np.complex64))
    shown = []
    real = simulate.random_slice
    monkeypatch.setattr(simulate, "random_slice", lambda v, r: shown.append(v) or real(v, r))
    size = simulate.Size(n_x=64, n_ky=64, n_coils=2)
    simulate.simulate([head, lender], size, np.random.default_rng(0))
    simulate.simulate([lender], size, np.random.default_rng(0))
    assert shown == [[head], [lender]]
