"""Mask latency while other slices are being reconstructed, on the scanner's clock.

    .venv/bin/python tests/benchmarks/mask_latency.py --scans 10 --tr-ms 5 [--json bench.json]

Host and scanner are two processes on one machine, 15 coils, 640 x 368, R = 4. Slices follow each
other without a pause and a reconstruction takes longer than a slice, so the worker is busy from the
second slice on; the first slice of every scan is left out.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from gadgets.anatomy import demo_volume, write_demo
from gadgets.dataset import open_source
from gadgets.private_host import private_host
from gadgets.scan import fully_sampled, plan_lines
from gadgets.scanner import Sequence, play
from mnet.select import MNetSelect
from mnet.weights import load_weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=10)
    parser.add_argument("--slices", type=int, default=8)
    parser.add_argument("--tr-ms", type=float, default=5.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    sampler = load_weights("mnet_select")[0]
    if not isinstance(sampler, MNetSelect):
        raise TypeError("weights 'mnet_select' are not an MNetSelect")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "demo.h5"
        write_demo(path, demo_volume(n_slices=options.slices))
        source = open_source(path)
        lines = plan_lines(fully_sampled(source), 4.0)
        sequence = Sequence(lines=lines, fallback=sampler.population(lines), tr_ms=options.tr_ms)
        latencies: list[float] = []
        fallbacks = 0
        with private_host(Path(folder) / "records", device="cpu") as address:
            for _ in range(options.scans):
                played, _ = play(source, sequence, address, "adaptive_modl.xml")
                fallbacks += sum(p.fallback for p in played)
                latencies += [p.latency_ms for p in played[1:] if p.latency_ms]
                print(
                    f"{len(latencies)} masks, median {np.median(latencies):.1f} ms,"
                    f" p99 {np.percentile(latencies, 99):.1f} ms",
                    flush=True,
                )
    values = np.array(latencies)
    result = {
        "machine": {"cores": os.cpu_count()},
        "figures": [
            {
                "figure": f"mask latency beside a reconstruction, {name}",
                "ours": round(float(value), 2),
                "peer": None,
                "peer_name": None,
                "unit": "ms",
                "ratio": None,
                "target": target,
                "met": bool(value < target),
            }
            for name, value, target in (
                ("median", np.median(values), 10.0),
                ("p99", np.percentile(values, 99), 25.0),
            )
        ],
        "masks": int(values.size),
        "fallbacks": fallbacks,
        "max_ms": round(float(values.max()), 2),
    }
    print(json.dumps(result, indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
