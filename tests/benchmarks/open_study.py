"""The weights of the open study that benchmarks compare with; git does not hold them."""

from pathlib import Path

UNET = Path(__file__).parents[2] / "runs" / "open" / "weights" / "unet"
HOW = (
    "made by `python -m training.pipeline --config training/configs/open.json "
    "--until reconstructors`, --plan says how long"
)
