"""How much faster the ICD of the label step is than the published one, and how good its masks.

    .venv/bin/python -m tests.benchmarks.icd_speed [--slices 20] [--json bench.json]

What is measured is what makes the labels: `training.masks.icd.descend` on the loss of
`training.masks.labels.scan_loss`, with the U-Net of the open study.

Quality: on simulated slices of 96 to 128 columns and one of 368, the published pass and the fast
search start from the same masks, under the same U-Net; the fast one may use a tenth of the
evaluations. A gradient counts as three. Starts: a variable-density mask, as published, and the
best member of the mask family.

Time: the whole search on one slice of 368 columns against the published time per candidate: the
zero-filled image rebuilt with three 2-D transforms of 15 coils at 640 x 368, cropped to 320 x 320,
through the same U-Net and divided by its maximum, four at a time. A pass tries 17,112 candidates:
62 lines by 276 rows. They are timed by turns with the search.

Without weights, a small U-Net is trained for --quick steps: enough to try the benchmark out.
"""

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fft

from mnet.masks import densities
from mnet.masks.family import family
from mnet.masks.line_plan import Bool, LinePlan
from mnet.physics import sense
from mnet.recon.unet import UNetReconstructor
from mnet.weight_files import load_weights
from tests.benchmarks.open_study import HOW, UNET
from training.data.corpus import Cohort, Sample, draw
from training.data.images import Volume
from training.data.read_images import load_parts
from training.fit.train_recon import band, recon_loss
from training.masks.icd import Label, Loss, descend, descend_exact, losses_of
from training.masks.labels import scan_loss

PUBLISHED_CANDIDATES = 62 * 276
N_COILS, N_X, N_KY, CROP = 15, 640, 368, 320


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The two searches on one slice from one start."""

    n_columns: int
    start: str
    exact: Label
    fast: Label


def slices(volumes: list[Volume], n: int, smallest: int, largest: int, seed: int) -> list[Sample]:
    """Draw slices at R = 4 with `smallest` to `largest` columns, all of them acquirable."""
    cohort = Cohort(
        parts=(), n=0, seed=seed, accelerations=(4.0,), reference=largest - 16, largest=largest
    )
    if smallest == largest:
        cohort = Cohort(
            parts=(), n=0, seed=seed, accelerations=(4.0,), reference=largest, largest=largest
        )
    found: list[Sample] = []
    number = 0
    while len(found) < n:
        sample = draw(volumes, cohort, number)
        number += 1
        wide_enough = smallest < largest or sample.kspace.shape[1] >= CROP
        if sample.acquirable.all() and smallest <= sample.acquirable.size and wide_enough:
            found.append(sample)
    return found


def starts(loss: Loss, plan: LinePlan, seed: int) -> dict[str, Bool]:
    """Return the masks that searches start from."""
    members = family(plan)
    best = members[int(np.argmin(losses_of(loss, [*members], 4)))]
    random = densities.variable_density(plan, np.random.default_rng(seed))
    return {"variable density": random, "best of the family": best}


def quality(samples: list[Sample], unet: UNetReconstructor, n_rows: int) -> list[Pair]:
    """Run both searches on all slices; large ones on a band of `n_rows`."""
    pairs = []
    for number, sample in enumerate(samples):
        plan = sample.plan()
        n_ky = plan.acquirable.size
        loss = scan_loss(sample, unet, n_rows if n_ky > 128 else CROP)
        for name, start in starts(loss, plan, number).items():
            exact = descend_exact(loss, plan, start, batch=8)
            limit = exact.n_evaluations // 10
            fast = descend(loss, plan, start, n_passes=30, max_evaluations=limit, enough=0.0)
            pairs.append(Pair(n_columns=n_ky, start=name, exact=exact, fast=fast))
            print(
                f"{number}: {n_ky} columns, {name}: {exact.start_loss:.5f} -> exact "
                f"{exact.loss:.5f} in {exact.n_evaluations}, fast {fast.loss:.5f} "
                f"({fast.loss / exact.loss - 1:+.2%}) in {fast.n_evaluations}",
                flush=True,
            )
    return pairs


def published_candidates(unet: UNetReconstructor, n: int) -> float:
    """Return the median seconds per candidate of the published procedure, of batches of four."""
    generator = torch.Generator().manual_seed(0)
    shape = (N_COILS, N_X, N_KY)
    kspace = torch.randn(shape, dtype=torch.complex64, generator=generator)
    csm = torch.randn(shape, dtype=torch.complex64, generator=generator)
    mask = torch.rand(N_KY, generator=generator) < 0.25
    seconds = []
    for _ in range(-(-n // 4)):
        began = time.perf_counter()
        images = []
        for _ in range(4):
            image = sense.combine(_image(kspace * mask), csm)
            # twice more there and back to rescale what was rescaled already
            image = sense.combine(_image(_kspace(csm * image) * mask), csm)
            row, column = (N_X - CROP) // 2, (N_KY - CROP) // 2
            images.append(image[row : row + CROP, column : column + CROP])
        batch = torch.view_as_real(torch.stack(images)).permute(0, 3, 1, 2)
        with torch.no_grad():
            result = batch + unet.unet(batch)
        result / result.square().sum(1).sqrt().amax((-2, -1))[:, None, None, None]
        seconds.append((time.perf_counter() - began) / 4)
    return float(np.median(seconds))


def _image(kspace: Tensor) -> Tensor:
    return fft.fftshift(fft.ifft2(fft.ifftshift(kspace, (-2, -1)), norm="ortho"), (-2, -1))


def _kspace(image: Tensor) -> Tensor:
    return fft.fftshift(fft.fft2(fft.ifftshift(image, (-2, -1)), norm="ortho"), (-2, -1))


def times(sample: Sample, unet: UNetReconstructor, n_candidates: int) -> dict[str, Any]:
    """Time the search of one large slice against the published candidates, by turns."""
    plan = sample.plan()
    start = densities.variable_density(plan, np.random.default_rng(0))
    per_candidate = [published_candidates(unet, n_candidates)]
    began = time.perf_counter()
    label = descend(scan_loss(sample, unet, CROP), plan, start)
    seconds = time.perf_counter() - began
    per_candidate.append(published_candidates(unet, n_candidates))
    candidate = float(np.mean(per_candidate))
    published = candidate * PUBLISHED_CANDIDATES
    return {
        "figure": "ICD of one slice of 368 columns, times faster than published",
        "value": published / seconds,
        "at_least": 15,
        "seconds": seconds,
        "published_seconds_per_candidate": candidate,
        "published_seconds": published,
        "start_loss": label.start_loss,
        "loss": label.loss,
        "n_evaluations": label.n_evaluations,
    }


def summary(pairs: list[Pair]) -> list[dict[str, Any]]:
    """Sum up evaluations and losses by start."""
    figures = []
    for start in sorted({pair.start for pair in pairs}):
        of = [pair for pair in pairs if pair.start == start]
        ratios = [pair.exact.n_evaluations / pair.fast.n_evaluations for pair in of]
        exact, fast = (np.mean([getattr(pair, kind).loss for pair in of]) for kind in FORMS)
        figures.append(
            {
                "figure": f"ICD from {start}: evaluations, exact to fast, the least of all slices",
                "value": min(ratios),
                "median": float(np.median(ratios)),
                "at_least": 10,
                "mean_loss_exact": float(exact),
                "mean_loss_fast": float(fast),
                "fast_to_exact": float(fast / exact),
                "n_slices": len(of),
                "columns": sorted(pair.n_columns for pair in of),
            }
        )
    published = np.mean([p.exact.loss for p in pairs if p.start == "variable density"])
    ours = np.mean([p.fast.loss for p in pairs if p.start == "best of the family"])
    name = "mean loss, fast from the best of the family to published from variable density"
    return [*figures, {"figure": name, "value": float(ours / published), "at_most": 1.0}]


FORMS = ("exact", "fast")


def network(path: str, samples: list[Sample], n_channels: int, n_steps: int) -> UNetReconstructor:
    """Load a U-Net, or train one for a moment where no path is given."""
    if path:
        model, _ = load_weights(path)
        if not isinstance(model, UNetReconstructor):
            raise TypeError(f"{path} is a {type(model).__name__}, expected a UNetReconstructor")
        return model
    torch.manual_seed(0)
    unet = UNetReconstructor(n_channels)
    optimiser = torch.optim.Adam(unet.parameters(), 1e-3)
    rng = np.random.default_rng(0)
    for _ in range(n_steps):
        sample = samples[rng.integers(len(samples))]
        mask = densities.variable_density(sample.plan(), rng, power=float(rng.uniform(0, 4)))
        loss = recon_loss(unet, *band(sample, 48, rng), torch.from_numpy(mask[None]).float())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 0.5)
        optimiser.step()
    return unet.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    known = str(UNET) if UNET.with_suffix(".json").exists() else ""
    parser.add_argument("--weights", default=known, help=f"of a U-Net, without suffix; {HOW}")
    parser.add_argument("--quick", type=int, default=300, help="training steps without weights")
    parser.add_argument("--channels", type=int, default=16, help="of the U-Net without weights")
    parser.add_argument("--slices", type=int, default=20)
    parser.add_argument("--large", type=int, default=1, help="slices of 368 columns for quality")
    parser.add_argument("--rows", type=int, default=64, help="band of the large slices' quality")
    parser.add_argument("--candidates", type=int, default=24, help="published ones, per turn")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--images", type=Path, default=Path(__file__).parents[3] / "shared" / "data" / "images"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    volumes = load_parts(options.images, ("head-2", "head-5"))
    seen = load_parts(options.images, ("head-1",))
    training = [] if options.weights else slices(seen, 24, 96, 128, seed=1)
    unet = network(options.weights, training, options.channels, options.quick)
    large = slices(volumes, max(options.large, 1), N_KY, N_KY, seed=3)
    timed = times(large[0], unet, options.candidates)
    print(f"{timed['figure']}: {timed['value']:.0f}", flush=True)
    samples = slices(volumes, options.slices, 96, 128, seed=2) + large[: options.large]
    figures = [timed, *(summary(quality(samples, unet, options.rows)) if samples else [])]
    result = {
        "machine": {"threads": options.threads, "torch": torch.__version__},
        "weights": Path(options.weights).name or f"trained for {options.quick} steps",
        "figures": figures,
    }
    print(json.dumps(result, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
