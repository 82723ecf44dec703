"""`mnet sequence`: a reference sequence as a Pulseq file."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError
from ..pulseq.limits import LIMITS, PLATFORMS, Limits

if TYPE_CHECKING:
    from ..pulseq.protocol import Protocol

SUMMARY = "Write a turbo spin echo or a spoiled gradient echo as a Pulseq file for a scanner."
MORE = """\
Whole, it measures the calibration and the lines of the best fixed mask. In two scans it is
adaptive: `--part calibration` first; then `mnet decide` on what that measured; then the same
protocol with `--masks`, which measures the rest. The file is checked before the command ends:
where samples lie in k-space, when echoes come, and gradients in any orientation.
Needs pip install mnet-gadgets[sequence]; docs/sequence.md has the whole way.

example: mnet sequence tse --limits siemens --slices 12 --part calibration -o first.seq
         mnet sequence tse --limits siemens --slices 12 --masks masks.json -o second.seq"""
# what a platform plays as a rule; the lowest-field machines are slow
_TR_MS = {"tse": 3000.0, "gre": 10.0}
_FLIP_DEG = {"tse": 180.0, "gre": 15.0}
_DUMMIES = {"tse": 1, "gre": 100}
_TRAIN = {"tse": 8, "gre": 1}
_ECHO_MS = {"tse": 9.6, "gre": None}


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = command("sequence", run, SUMMARY, MORE)
    parser.add_argument("kind", choices=["tse", "gre"], help="turbo spin echo, or gradient echo")
    parser.add_argument("--limits", choices=PLATFORMS, required=True, help="of which scanner")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.seq")
    parser.add_argument(
        "--part",
        choices=["whole", "calibration"],
        default="whole",
        help="what is measured (default whole)",
    )
    parser.add_argument(
        "--masks", type=Path, metavar="FILE", help="measure these lines and not the calibration"
    )
    parser.add_argument("--acceleration", type=float, default=4.0, help="nominal (default 4)")
    _protocol(parser)
    _order(parser)
    for name in ("max-grad-mt-m", "max-slew-t-m-s"):
        parser.add_argument(f"--{name}", type=float, help="in place of that of --limits")
    parser.add_argument("--v141", action="store_true", help="Pulseq 1.4.1, for older interpreters")
    parser.add_argument(
        "--no-labels", action="store_true", help="for interpreters that know none, as MaRCoS"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="one shot, and k-space by echo (PNG, SVG, PDF)"
    )


def _protocol(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("protocol")
    group.add_argument("--matrix", type=int, nargs=2, default=(256, 256), metavar=("X", "Y"))
    group.add_argument("--fov-mm", type=float, nargs=2, default=(256.0, 256.0), metavar=("X", "Y"))
    group.add_argument("--thickness-mm", type=float, default=4.0)
    group.add_argument("--slices", type=int, default=1)
    group.add_argument("--spacing-mm", type=float, help="from slice to slice (default: 5/4 thick)")
    group.add_argument(
        "--rotate-deg",
        type=float,
        nargs=3,
        default=(0.0, 0.0, 0.0),
        metavar=("X", "Y", "Z"),
        help="turn slices in the file, about x, then y, then z, for consoles that do not",
    )
    group.add_argument("--tr-ms", type=float, help="of a slice (default 3000, gre 10)")
    group.add_argument(
        "--echo-ms", type=float, help="tse: echo spacing (default 9.6); gre: echo time (shortest)"
    )
    group.add_argument("--flip-deg", type=float, help="tse: refocusing (default 180); gre (15)")
    group.add_argument("--bandwidth-hz", type=float, default=300.0, help="of a pixel (default 300)")
    group.add_argument("--dummies", type=int, help="shots of a slice (default 1, gre 100)")


def _order(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("echo order")
    group.add_argument("--echo-train", type=int, help="echoes of a shot (default 8, gre 1)")
    group.add_argument(
        "--order",
        choices=["linear", "centre-out", "shuffled", "continuous", "bands"],
        help="as for scan",
    )
    group.add_argument("--effective-echo", type=int, metavar="ECHO", help="as for scan")


def run(options: argparse.Namespace) -> int:
    """Draw, check and write."""
    from ..pulseq.check import check
    from ..pulseq.write import sequence_of, write_sequence

    limits, protocol = _limits(options), protocol_of(options)
    course = _course(options, protocol)
    sequence = sequence_of(protocol, course, limits, labels=not options.no_labels)
    checked = check(sequence, protocol, course, limits)
    write_sequence(sequence, options.output, v141=options.v141)
    if options.picture:
        from ..pulseq.pictures import draw

        draw(options.picture, sequence, protocol, course)
        print(f"picture: {options.picture}")
    seconds = float(sequence.duration()[0])
    n_lines = int(sum(shot.rows is not None for shot in course.shots()) * protocol.train)
    print(f"{options.output}: {n_lines} lines of {len(protocol.slices_mm)} slices, {seconds:.1f} s")
    print(checked.sentence)
    return 0 if checked.timing else 1


def _limits(options: argparse.Namespace) -> Limits:
    limits = LIMITS[options.limits]
    given = {
        name: getattr(options, name)
        for name in ("max_grad_mt_m", "max_slew_t_m_s")
        if getattr(options, name) is not None
    }
    return replace(limits, **given)


def protocol_of(options: argparse.Namespace) -> "Protocol":
    """Return the protocol of the options; ConfigError for one that cannot be."""
    from ..pulseq.protocol import Protocol, stack

    def given(name: str, default: dict[str, Any]) -> Any:
        value = getattr(options, name)
        return default[options.kind] if value is None else value

    thick, n = options.thickness_mm, options.slices
    spacing = 1.25 * thick if options.spacing_mm is None else options.spacing_mm
    if n > 1 and spacing < thick:
        raise ConfigError(f"--spacing-mm {spacing:g}: expected {thick:g} or more, the thickness")
    return Protocol(
        kind=options.kind,
        matrix=tuple(options.matrix),
        fov_mm=tuple(options.fov_mm),
        thickness_mm=thick,
        slices_mm=stack(n, spacing),
        rotation_deg=tuple(options.rotate_deg),
        tr_ms=given("tr_ms", _TR_MS),
        echo_ms=given("echo_ms", _ECHO_MS),
        train=given("echo_train", _TRAIN),
        flip_deg=given("flip_deg", _FLIP_DEG),
        bandwidth_hz=options.bandwidth_hz,
        dummies=given("dummies", _DUMMIES),
    )


def _course(options: argparse.Namespace, protocol: "Protocol") -> Any:
    from mnet.sequence.echo_order import EchoOrder, default_rule

    from ..pulseq.course import Course, Part, fixed_masks, plan_of

    try:
        order = EchoOrder(
            rule=options.order or default_rule(protocol.train),
            train=protocol.train,
            effective_echo=options.effective_echo,
        )
    except ValueError as error:
        raise ConfigError(f"{error}; see --order, --echo-train, --effective-echo") from error
    if options.masks is not None:
        if options.part != "whole":
            raise ConfigError("--masks measures the part that is not --part calibration: give one")
        from ..mask.mask_file import read_masks
        from ..pulseq.second_part import planned

        part: Part = "adaptive"
        plan, masks = planned(read_masks(options.masks), protocol)
    else:
        part, plan = options.part, plan_of(protocol, options.acceleration)
        masks = fixed_masks(plan, len(protocol.slices_mm), weights=part == "whole")
    return Course(
        plan=plan,
        order=order,
        masks=masks,
        part=part,
        dummies=protocol.dummies,
        interleaved=protocol.interleaved,
    )
