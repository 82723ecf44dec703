import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet.masks.line_plan import LinePlan
from mnet.sampler import mnet
from mnet.sampler.features import features
from mnet.sampler.mnet import MNet
from mnet.sampler.paper_mnet import PaperMNet
from tests.mnet.helpers.small_problems import coils, make_plan


def slices(plan: LinePlan, n: int = 2, n_x: int = 40, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (n, 5, n_x, int(plan.calibration.sum()))
    return features(torch.randn(size, dtype=torch.complex64, generator=generator))


def scrambled(model: MNet) -> MNet:
    """Give the layer that starts at zero some weight."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        weight = model.head.out.weight
        weight.copy_(torch.randn(weight.shape, generator=generator))
    return model.eval()


def small(rich: bool = False) -> MNet:
    torch.manual_seed(0)
    return scrambled(MNet(8, 16, rich))


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(48, 400),
    acceleration=st.floats(1.5, 8.0),
    padded=st.integers(0, 6),
    n_x=st.integers(8, 90),
    n_coils=st.integers(1, 32),
    rich=st.booleans(),
)
def test_any_size_coil_count_and_acceleration_gives_an_exact_mask(
    n, acceleration, padded, n_x, n_coils, rich
):
    plan = make_plan(n, acceleration, padded)
    with torch.no_grad():
        logits = small(rich)(slices(plan, 1, n_x), plan, coils(n_coils))
    assert logits.shape == (1, n)
    mask = mnet.mask_of(logits, plan)
    assert mask.sum() == plan.n_lines
    assert np.all(mask[plan.calibration])
    assert not np.any(mask & ~plan.acquirable)


@pytest.mark.parametrize("rich", [False, True])
def test_the_prediction_depends_on_the_slice_and_not_on_its_scale(rich):
    plan = make_plan(128)
    model = small(rich)
    with torch.no_grad():
        logits = model(slices(plan), plan, coils())
        louder = model(slices(plan) * 1e4, plan, coils())
    assert not torch.allclose(logits[0], logits[1])
    torch.testing.assert_close(louder, logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rich", [False, True])
def test_the_energy_of_the_lines_is_seen_by_the_rich_sampler_alone(rich):
    plan = make_plan(128)
    z = slices(plan)
    other = z.clone()
    other[:, 2] = other[:, 2].flip(-1)  # the scale, its root mean square, stays
    with torch.no_grad():
        same = torch.allclose(
            small(rich)(z, plan, coils()), small(rich)(other, plan, coils()), atol=1e-5
        )
    assert same is not rich


def test_a_slice_s_prediction_does_not_depend_on_its_batch():
    plan = make_plan(128)
    z = slices(plan, 3)
    with torch.no_grad():
        torch.testing.assert_close(
            small()(z, plan, coils())[1:2], small()(z[1:2], plan, coils()), rtol=1e-4, atol=1e-4
        )


def test_features_of_a_silent_slice_give_finite_logits():
    plan = make_plan(96)
    with torch.no_grad():
        logits = small()(slices(plan) * 0, plan, coils())
    assert torch.isfinite(logits).all()


def test_features_of_other_lines_than_the_plan_s_are_refused():
    plan = make_plan(96)
    with pytest.raises(ValueError, match="calibration lines"):
        MNet(8, 16)(slices(plan)[..., :-1], plan, coils())


def test_the_logits_teach_every_part_of_the_network():
    plan = make_plan(96)
    model = small(rich=True)
    mnet.top_lines(model(slices(plan), plan, coils()), plan).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_rows_are_described_by_where_they_lie_from_the_centre():
    plan = make_plan(96, padded=4)
    calibration, acquirable, position, distance = mnet.line_table(plan)[:4]
    assert mnet.line_table(plan).shape == (mnet.N_TABLE, 96)
    assert np.array_equal(calibration > 0, plan.calibration)
    assert np.array_equal(acquirable > 0, plan.acquirable)
    assert position[plan.center] == 0
    assert np.abs(position[plan.acquirable]).max() == 1
    np.testing.assert_allclose(distance, plan.distance(), rtol=1e-6)


def test_top_lines_take_the_highest_logits_of_movable_rows():
    plan = make_plan(64)
    logits = torch.arange(64.0)[None]
    mask = mnet.top_lines(logits, plan)[0] > 0.5
    movable = np.flatnonzero(plan.movable)
    expected = plan.mask(movable[-plan.n_movable :])
    assert np.array_equal(mask.numpy(), expected)


def test_the_straight_through_gradient_is_that_of_the_mask_on_movable_rows_only():
    plan = make_plan(64, padded=3)
    logits = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    mask = mnet.top_lines(logits, plan)
    assert set(mask.detach().unique().tolist()) == {0.0, 1.0}
    (mask * weight).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, weight * torch.from_numpy(plan.movable))


def test_the_paper_s_layout_has_its_five_stages_and_four_linear_layers():
    model = PaperMNet(320, 320, n_channels=4)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
    assert [m.out_channels for m in convolutions] == [4, 4, 8, 8, 16, 16, 32, 32, 64, 64]
    assert len(linear) == 4
    assert linear[-1].out_features == 320


def test_the_paper_s_layout_at_full_width_has_the_weights_of_its_five_stages():
    with torch.device("meta"):
        model = PaperMNet(320, 320)
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    stages = [(2, 128), (128, 256), (256, 512), (512, 1024), (1024, 2048)]
    expected = sum(9 * (a * b + b * b) + 2 * b for a, b in stages)
    assert sum(p.numel() for m in convolutions for p in m.parameters()) == expected
    # the original has 79.9 million with narrower linear layers and no output for the centre
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(81, abs=1)


def test_the_paper_s_layout_predicts_an_exact_mask():
    plan = make_plan(170)
    model = PaperMNet(163, 170, n_channels=2)
    with torch.no_grad():
        mask = mnet.mask_of(model(slices(plan, 1, 163), plan, coils()), plan)
    assert mask.sum() == plan.n_lines


def test_the_paper_s_layout_refuses_another_size():
    plan = make_plan(171)
    with pytest.raises(ValueError, match="built for 163 x 170, got 163 x 171"):
        PaperMNet(163, 170, n_channels=2)(slices(plan, 1, 163), plan, coils())


def test_a_matrix_too_small_for_the_paper_s_stages_is_refused():
    with pytest.raises(ValueError, match="100 x 170 is too small"):
        PaperMNet(100, 170)
