import numpy as np
import pytest
import torch

from mnet.physics import sense
from mnet.recon.linear import cg_sense, zero_filled
from tests.training.helpers.real_scans import real_scan
from tests.training.real.test_invariances import family_mask
from training.real.inserted import insert, measure, survival
from training.real.methods import reconstruct
from training.real.objects import (
    N_OBJECTS,
    SIZES,
    Kind,
    NoRoomError,
    local_mean,
    local_phase,
    object_image,
    place,
    tissue,
)

pytestmark = pytest.mark.slow  # many images of real size

DISC = Kind(shape="disc", size=4)


def measured(scan, kind, contrast, mask, call):
    inserted = insert(scan, kind, contrast)
    without, within = (
        reconstruct(call, which, mask) for which in (inserted.without, inserted.within)
    )
    return measure(inserted, without, within)


def call_zero_filled(kspace, csm, mask):
    return zero_filled(kspace, csm, mask)


def call_cg_sense(kspace, csm, mask):
    return cg_sense(kspace, csm, mask)


@pytest.mark.parametrize("kind", [DISC, Kind(shape="line", size=2)])
def test_a_perfect_reconstruction_recovers_everything_and_invents_nothing(kind):
    scan = real_scan()
    found = measured(scan, kind, 0.1, scan.sample.acquirable, call_zero_filled)
    assert found["recovered"] == pytest.approx(1, abs=1e-3)
    assert found["lowest"] == pytest.approx(1, abs=1e-3)
    assert found["false"] < 1e-3
    assert found["cnr"] is None  # nothing to hold it against


def test_what_is_doubled_is_recovered_twice():
    scan = real_scan()
    inserted = insert(scan, DISC, 0.1)
    without = inserted.without.encoded_reference
    found = measure(inserted, without, without + 2 * inserted.truth)
    assert found["recovered"] == pytest.approx(2, abs=1e-4)


def test_zero_filling_recovers_less_than_cg_sense_and_that_less_than_all():
    scan = real_scan()
    mask = family_mask(scan)
    least, more = (
        measured(scan, DISC, 0.1, mask, call) for call in (call_zero_filled, call_cg_sense)
    )
    assert least["recovered"] < more["recovered"] < 1
    assert least["recovered"] < 0.9
    assert least["false"] > 0.05


def test_false_structure_is_what_lies_outside_the_objects():
    scan = real_scan()
    inserted = insert(scan, DISC, 0.1)
    without = inserted.without.encoded_reference
    ghost = torch.zeros_like(without)
    x, y = np.argwhere(inserted.outside.numpy())[0]
    ghost[x, y] = 0.5 * inserted.truth.norm()
    found = measure(inserted, without, without + inserted.truth + ghost)
    assert found["false"] == pytest.approx(0.5, rel=1e-4)
    assert found["recovered"] == pytest.approx(1, abs=1e-4)


def test_of_a_linear_method_contrast_changes_visibility_alone():
    scan = real_scan()
    mask = family_mask(scan)
    faint, strong = (measured(scan, DISC, c, mask, call_cg_sense) for c in (0.05, 0.2))
    assert faint["recovered"] == pytest.approx(strong["recovered"], rel=2e-3)
    assert faint["false"] == pytest.approx(strong["false"], rel=2e-2)
    assert strong["cnr"] > faint["cnr"] + 0.1


def test_objects_enter_all_coils_as_the_maps_of_all_lines_see_them():
    scan = real_scan()
    inserted = insert(scan, DISC, 0.2)
    added = inserted.within.coil_images - inserted.without.coil_images
    assert (added.abs().amax((-2, -1)) > 0).all()
    # maps of other lines differ a little, so most of it, not all, fits those of the calibration
    inside = torch.stack([entry.cover for entry in inserted.placed]).sum(0) > 0
    csm = scan.sample.csm
    fitted = csm * sense.combine(added, csm)
    assert float((fitted - added)[:, inside].norm() / added[:, inside].norm()) < 0.3
    rows = torch.from_numpy(~scan.sample.acquirable)
    assert not inserted.within.sample.kspace[..., rows].any()


def test_objects_lie_in_tissue_apart_and_half_of_them_are_dark():
    scan = real_scan()
    image = scan.encoded_reference
    inside = tissue(image)
    for kind in (DISC, Kind(shape="disc", size=2)):
        placed = place(inside, kind, np.random.default_rng(0))
        assert 2 <= len(placed) <= N_OBJECTS
        own = torch.stack([entry.own for entry in placed])
        assert own.sum(0).max() == 1
        assert inside[own.any(0)].all()
        assert {entry.sign for entry in placed} == {1.0, -1.0}


@pytest.mark.parametrize("size", SIZES)
def test_objects_have_the_size_that_they_say(size):
    inside = torch.ones(128, 128, dtype=torch.bool)
    for entry in place(inside, Kind(shape="disc", size=size), np.random.default_rng(0)):
        assert float(entry.cover.sum()) == pytest.approx(np.pi * size**2 / 4, rel=0.05)
    for entry in place(inside, Kind(shape="line", size=size), np.random.default_rng(0)):
        assert float(entry.cover.sum()) == pytest.approx(16 * size, rel=0.05)


def test_an_object_has_its_share_of_local_brightness_and_the_local_phase():
    image = 3.0 * torch.exp(1j * torch.linspace(0, 1, 64))[:, None] * torch.ones(64)
    placed = place(torch.ones(64, 64, dtype=torch.bool), DISC, np.random.default_rng(0))
    added = object_image(image, placed, 0.1)
    for entry in placed:
        centre = entry.cover == 1
        ratio = added[centre] / image[centre]
        assert torch.allclose(ratio.real, torch.tensor(0.1 * entry.sign), rtol=1e-3)
        assert ratio.imag.abs().max() < 1e-3
    assert torch.allclose(local_mean(image.abs()), torch.tensor(3.0))
    assert torch.allclose(local_phase(image).abs(), torch.tensor(1.0))


def test_places_do_not_depend_on_contrast_and_do_on_the_slice():
    scan = real_scan()
    first, same = (insert(scan, DISC, c).outside for c in (0.05, 0.2))
    assert torch.equal(first, same)
    assert not torch.equal(first, insert(scan, DISC, 0.05, seed=1).outside)


def test_without_room_a_kind_is_left_out_by_name():
    scan = real_scan()
    with pytest.raises(NoRoomError, match="discs of 40 pixels"):
        insert(scan, Kind(shape="disc", size=40), 0.1)
    kinds = [Kind(shape="disc", size=40), DISC]
    rows, words = survival(scan, family_mask(scan), {"cg_sense": call_cg_sense}, kinds, [0.1, 0.2])
    assert [(row["size"], row["contrast"]) for row in rows] == [(4, 0.1), (4, 0.2)]
    assert len(words) == 1
    assert words[0].startswith("a.h5, slice 0: discs of 40 pixels")
