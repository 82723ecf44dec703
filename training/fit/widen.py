"""A wider network that begins where a narrower one has arrived.

    python -m training.fit.widen NARROW WIDE --channels 32

The wide network computes what the narrow one does: its further channels look at everything, but
nothing looks at them before training. So a larger MoDL does not learn again what a smaller one
knows. After Chen et al. 2016 (Net2Net), arXiv:1511.05641, with zeros instead of copies.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor

from mnet.recon.modl import MoDL
from mnet.weight_files import load_weights, save_weights
from training.fit.card import started_from


def widened(narrow: MoDL, n_channels: int) -> MoDL:
    """Return a MoDL of `n_channels` that maps as `narrow` does, for now.

    Raises
    ------
    ValueError
        If that is not wider.
    """
    before = narrow.config["n_channels"]
    if n_channels <= before:
        raise ValueError(f"{n_channels} channels, expected more than the {before} there are")
    wide = MoDL(**{**narrow.config, "n_channels": n_channels})
    old, new = narrow.state_dict(), wide.state_dict()
    scale = n_channels / before
    for name, value in old.items():
        if value.dim() == 4:
            transposed = name.startswith("denoiser.up.")
            new[name] = _placed(value, new[name], scale, transposed, "denoiser.merge" in name)
        elif name == "denoiser.gain.weight":
            new[name] = _gains(value, narrow.denoiser.sizes, wide.denoiser.sizes)
        else:
            new[name] = value.clone()
    wide.load_state_dict(new)
    return wide.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


def _placed(old: Tensor, new: Tensor, scale: float, transposed: bool, merges: bool) -> Tensor:
    """Place a kernel (out, in, ., .) among random ones; old outputs see no new inputs."""
    old, new = (kernel.transpose(0, 1) if transposed else kernel for kernel in (old, new.clone()))
    n_out, n_in = old.shape[:2]
    # a merging block takes two equal halves, the upper level and the skipped one
    joined = merges and n_in != old.shape[0] and round(n_in * scale) == new.shape[1]
    halves = 2 if joined else 1
    inputs = [
        half * new.shape[1] // halves + i for half in range(halves) for i in range(n_in // halves)
    ]
    new[:n_out] = 0
    new[:n_out, inputs] = old
    return (new.transpose(0, 1) if transposed else new).contiguous()


def _gains(old: Tensor, narrow: list[int], wide: list[int]) -> Tensor:
    """Place the gains of the old channels of every block; new channels have a gain of 1."""
    parts = []
    for block, n in zip(torch.split(old, narrow), wide, strict=True):
        parts.append(torch.cat([block, block.new_zeros(n - len(block), block.shape[1])]))
    return torch.cat(parts)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("narrow", help="weights of a MoDL: packaged, or a path without suffix")
    parser.add_argument("wide", type=Path, help="where the new ones go, without suffix")
    parser.add_argument("--channels", type=int, required=True, metavar="N")
    options = parser.parse_args()
    model = load_weights(options.narrow)[0]
    if not isinstance(model, MoDL):
        raise SystemExit(f"{options.narrow} is a {type(model).__name__}, expected a MoDL")
    card = {"widened_from": started_from(options.narrow)}
    save_weights(widened(model, options.channels), options.wide, card)


if __name__ == "__main__":
    main()
