import numpy as np
import pytest
import torch
from generated import volumes, write_corpus

from training import corpus


def draw(split, number):
    return corpus.draw(volumes(), split, number, largest=100)


def same(a: corpus.Sample, b: corpus.Sample) -> bool:
    return (
        torch.equal(a.kspace, b.kspace)
        and torch.equal(a.clean, b.clean)
        and torch.equal(a.csm, b.csm)
        and np.array_equal(a.acquirable, b.acquirable)
        and a.acceleration == b.acceleration
    )


def test_a_sample_follows_from_its_split_and_number():
    first = draw("train", 3)
    assert same(first, draw("train", 3))
    assert not same(first, draw("train", 4))
    assert not same(first, draw("validation", 3))


def test_a_sample_survives_the_disk(tmp_path):
    sample = draw("train", 0)
    corpus.save(sample, tmp_path / "a.safetensors")
    assert same(corpus.load(tmp_path / "a.safetensors"), sample)
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("number", range(3))
def test_maps_come_from_the_calibration_lines_alone(number):
    sample = draw("train", number)
    other = sample.kspace.clone()
    calibration = torch.from_numpy(sample.lines().calibration)
    other[..., ~calibration] = 1e6
    again = corpus.coil_maps(other[..., calibration], other.shape[-1])
    torch.testing.assert_close(again, sample.csm)


def test_maps_are_for_the_calibration_of_the_nominal_acceleration():
    sample = draw("train", 1)
    lines = sample.lines()
    assert lines.n_lines == int(sample.acquirable.sum() // sample.acceleration)
    assert sample.lines(2.0).n_lines > sample.lines(8.0).n_lines


def test_noise_lies_only_on_acquirable_lines():
    sample = draw("train", 2)
    noise = sample.kspace - sample.clean
    assert noise[..., ~sample.acquirable].abs().sum() == 0
    assert noise[..., sample.acquirable].abs().min() > 0


def test_a_corpus_is_written_with_whole_files_only(tmp_path):
    write_corpus(tmp_path, "train", 2)
    names = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert names == ["00000.safetensors", "00001.safetensors"]
