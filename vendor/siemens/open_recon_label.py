#!/usr/bin/env python3
"""Write the Dockerfile that makes an Open Recon application of our image.

    python vendor/siemens/open_recon_label.py --vendor NAME > OpenRecon.dockerfile

The label is what the scanner reads of it: a JSON document in base64, in the structure that public
Open Recon projects use (metadata 1.1.0). Siemens' own schema is not public: check the JSON with
the SDK before use (--json prints it). Needs Python alone, version 3.11.
"""

import argparse
import base64
import datetime
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

LABEL = "com.siemens-healthineers.magneticresonance.openrecon.metadata:1.1.0"
ROOT = Path(__file__).resolve().parents[2]
# Open Recon has no way back to the sequence: pipelines that do without.
PIPELINES = ("cg_sense", "l1_wavelet", "adaptive_modl_shadow", "zero_filled")


def label(options: argparse.Namespace) -> dict[str, Any]:
    """Return the JSON document."""
    name, version = options.name, options.version
    return {
        "general": {
            "name": {"en": name},
            "version": version,
            "vendor": options.vendor,
            "information": {"en": "Parallel imaging and learned reconstruction, 2-D Cartesian"},
            "id": name,
            "regulatory_information": {
                "device_trade_name": name,
                "production_identifier": version,
                "manufacturer_address": options.address,
                "made_in": options.made_in,
                "manufacture_date": options.date,
                "material_number": f"{name}_{version}",
                "gtin": "",
                "udi": "",
                "safety_advices": "For research only, not for diagnosis",
                "special_operating_instructions": "",
                "additional_relevant_information": "",
            },
        },
        "reconstruction": {
            "transfer_protocol": {"protocol": "ISMRMRD", "version": "1.4.1"},
            "port": 9002,
            "emitter": "raw",
            "injector": "image",
            "can_process_adjustment_data": False,
            "can_use_gpu": options.gpu_memory > 0,
            "min_count_required_gpus": int(options.gpu_memory > 0),
            "min_required_gpu_memory": options.gpu_memory,
            "min_required_memory": options.memory,
            "min_count_required_cpu_cores": 2,
            "content_qualification_type": "RESEARCH",
        },
        "parameters": [
            {
                "id": "config",
                "label": {"en": "Reconstruction"},
                "type": "choice",
                "values": [{"id": each, "name": {"en": each}} for each in options.pipelines],
                "default": options.pipelines[0],
                "information": {"en": "Which pipeline reconstructs"},
            }
        ],
    }


def dockerfile(image: str, document: dict[str, Any]) -> str:
    """Return the lines that put the label on an image; Open Recon runs it as root."""
    text = base64.b64encode(json.dumps(document).encode()).decode()
    command = ["mnet", "serve", "--address", "0.0.0.0", "--address-is-guarded"]
    command += ["--noise", "/tmp/noise"]
    return (
        f"FROM {image}\nUSER root\nHEALTHCHECK NONE\n"
        f'LABEL "{LABEL}"="{text}"\nENTRYPOINT []\nCMD {json.dumps(command)}\n'
    )


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the options; ends with status 2 for one that Open Recon would refuse."""
    described = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=described)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    parser.add_argument("--image", default="mnet", help="that is built upon (default mnet)")
    parser.add_argument("--vendor", required=True, help="you: letters and digits")
    parser.add_argument("--name", default="mnet", help="of the application: letters and digits")
    parser.add_argument("--version", default=project["version"], help="X.Y.Z")
    parser.add_argument("--address", default="", help="of the manufacturer")
    parser.add_argument("--made-in", default="", help="country")
    parser.add_argument("--date", default=f"{datetime.date.today():%Y/%m/%d}", help="YYYY/MM/DD")
    parser.add_argument("--memory", type=int, default=8000, help="MB that it needs")
    parser.add_argument("--gpu-memory", type=int, default=0, help="MB; 0 for no GPU")
    parser.add_argument("--pipelines", nargs="+", default=PIPELINES, help="to choose from")
    parser.add_argument("--json", action="store_true", help="print the document instead")
    options = parser.parse_args(arguments)
    for what in ("vendor", "name"):
        if not re.fullmatch("[A-Za-z0-9]+", getattr(options, what)):
            parser.error(f"--{what} {getattr(options, what)!r}: expected letters and digits")
    if not re.fullmatch(r"\d+\.\d+\.\d+", options.version):
        parser.error(f"--version {options.version!r}: expected X.Y.Z")
    known = sorted(path.stem for path in (ROOT / "xml_configs").glob("*.xml"))
    unknown = sorted(set(options.pipelines) - set(known))
    if unknown:
        parser.error(f"--pipelines {' '.join(unknown)}: expected some of {' '.join(known)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Print the Dockerfile, and on stderr the names that the package must have."""
    options = parse(arguments)
    document = label(options)
    if options.json:
        print(json.dumps(document, indent=2))
        return 0
    print(dockerfile(options.image, document), end="")
    package = f"OpenRecon_{options.vendor}_{options.name}_V{options.version}"
    tag = f"openrecon_{options.vendor}_{options.name}:v{options.version}".lower()
    print(
        f"docker build -t {tag}; docker save -o {package}.tar; zip with {package}.pdf",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
