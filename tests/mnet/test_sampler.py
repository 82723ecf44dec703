import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mnet import sampler
from mnet.masks import Lines
from mnet.sampler import MNet, PaperMNet


def plan(n: int = 96, acceleration: float = 4.0, padded: int = 0) -> Lines:
    acquirable = np.ones(n, dtype=bool)
    acquirable[:padded] = acquirable[n - padded :] = padded == 0
    return Lines.plan(acquirable, acceleration)


def slices(lines: Lines, n: int = 2, n_x: int = 40, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (n, 5, n_x, int(lines.calibration.sum()))
    return sampler.features(torch.randn(size, dtype=torch.complex64, generator=generator))


def scrambled(model: MNet) -> MNet:
    """Give the layers that start at zero some weight."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer in (model.choose, model.out):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    return model


def test_as_initialised_the_prediction_is_a_density_mask_that_no_slice_changes():
    lines = plan(128)
    model = MNet().eval()
    logits = model(slices(lines), lines, 5)
    for row in logits:
        assert np.array_equal(sampler.mask_of(row, lines), model.population(lines))


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(48, 400),
    acceleration=st.floats(1.5, 8.0),
    padded=st.integers(0, 6),
    n_x=st.integers(8, 90),
    n_coils=st.integers(1, 32),
)
def test_any_size_coil_count_and_acceleration_gives_an_exact_mask(
    n, acceleration, padded, n_x, n_coils
):
    lines = plan(n, acceleration, padded)
    with torch.no_grad():
        logits = scrambled(MNet(8, 16)).eval()(slices(lines, 1, n_x), lines, n_coils)
    assert logits.shape == (1, n)
    mask = sampler.mask_of(logits, lines)
    assert mask.sum() == lines.n_lines
    assert np.all(mask[lines.calibration])
    assert not np.any(mask & ~lines.acquirable)


def test_the_prediction_depends_on_the_slice_and_not_on_its_scale():
    lines = plan(128)
    model = scrambled(MNet(8, 16)).eval()
    with torch.no_grad():
        logits = model(slices(lines), lines, 5)
        louder = model(slices(lines) * 1e4, lines, 5)
    assert not torch.allclose(logits[0], logits[1])
    torch.testing.assert_close(louder, logits, rtol=1e-3, atol=1e-3)


def test_a_slice_s_prediction_does_not_depend_on_its_batch():
    lines = plan(128)
    model = scrambled(MNet(8, 16)).eval()
    z = slices(lines, 3)
    with torch.no_grad():
        torch.testing.assert_close(
            model(z, lines, 5)[1:2], model(z[1:2], lines, 5), rtol=1e-4, atol=1e-4
        )


def test_features_of_a_silent_slice_give_finite_logits():
    lines = plan(96)
    with torch.no_grad():
        logits = scrambled(MNet(8, 16)).eval()(slices(lines) * 0, lines, 5)
    assert torch.isfinite(logits).all()


def test_features_of_other_lines_than_the_plan_s_are_refused():
    lines = plan(96)
    with pytest.raises(ValueError, match="calibration lines"):
        MNet(8, 16)(slices(lines)[..., :-1], lines, 5)


def test_features_line_by_line_are_the_features_of_all_lines():
    block = torch.randn(2, 5, 12, 7, dtype=torch.complex64)
    together = sampler.features(block)
    assert together.shape == (2, 3, 12, 7)
    for i in range(7):
        torch.testing.assert_close(together[..., i], sampler.line_features(block[..., i]))


def test_the_energy_feature_survives_coil_phases_that_cancel_the_mean():
    line = torch.tensor([1, -1, 1j, -1j], dtype=torch.complex64)[:, None].expand(4, 6)
    real, imaginary, energy = sampler.line_features(line)
    assert real.abs().max() == 0
    assert imaginary.abs().max() == 0
    torch.testing.assert_close(energy, torch.ones(6))


def test_the_population_mask_has_the_lowest_loss_interpolated_to_the_acceleration():
    n = len(sampler.FAMILY)
    losses = np.ones((2, n))
    losses[0, 3], losses[1, 3] = 0.1, 0.5  # member 3 is best in between, 5 only at the far end
    losses[0, 5], losses[1, 5] = 0.9, 0.0
    model = MNet(preferences={"acceleration": [2.0, 4.0], "loss": losses.tolist()})
    lines = plan(96, 3.0)
    np.testing.assert_allclose(model.mean_losses(lines)[[3, 5]], [0.3, 0.45])
    assert np.array_equal(model.population(lines), sampler.family(lines)[3])
    assert np.array_equal(model.population(plan(96, 4.0)), sampler.family(plan(96, 4.0))[5])


def test_top_lines_take_the_highest_logits_of_movable_rows():
    lines = plan(64)
    logits = torch.arange(64.0)[None]
    mask = sampler.top_lines(logits, lines)[0] > 0.5
    movable = np.flatnonzero(lines.movable)
    expected = lines.mask(movable[-lines.n_movable :])
    assert np.array_equal(mask.numpy(), expected)


def test_the_straight_through_gradient_is_that_of_the_mask_on_movable_rows_only():
    lines = plan(64, padded=3)
    logits = torch.randn(2, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(2, 64, generator=torch.Generator().manual_seed(1))
    mask = sampler.top_lines(logits, lines)
    assert set(mask.detach().unique().tolist()) == {0.0, 1.0}
    (mask * weight).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, weight * torch.from_numpy(lines.movable))


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
    lines = plan(170)
    model = PaperMNet(163, 170, n_channels=2)
    with torch.no_grad():
        mask = sampler.mask_of(model(slices(lines, 1, 163), lines, 5), lines)
    assert mask.sum() == lines.n_lines


def test_the_paper_s_layout_refuses_another_size():
    lines = plan(171)
    with pytest.raises(ValueError, match="built for 163 x 170, got 163 x 171"):
        PaperMNet(163, 170, n_channels=2)(slices(lines, 1, 163), lines, 5)


def test_a_matrix_too_small_for_the_paper_s_stages_is_refused():
    with pytest.raises(ValueError, match="100 x 170 is too small"):
        PaperMNet(100, 170)
