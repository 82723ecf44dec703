"""What can be found out before a command begins its work, beyond what each option says alone."""

import argparse
import socket
from contextlib import suppress

from ..errors import ConfigError
from .values import parts

ANSWER_S = 5.0  # to take a connection
_CLOSE = b"\4\0"  # the message CLOSE


def check(options: argparse.Namespace) -> None:
    """Look at what the options of a command mean together.

    Raises
    ------
    ConfigError
        If the pipeline or the format of the output is none, options contradict each other, keys
        cannot be read, or nobody listens at the host.
    """
    if hasattr(options, "effective_echo") and options.command != "sequence":
        _order(options)
    if options.command in ("scan", "demo", "replay"):
        from ..export.output import planned

        planned(options.output)
    host = getattr(options, "host", None)
    if host is None:
        _pipeline(options)
        return
    if options.command != "replay" and not options.mask_endpoint:
        raise ConfigError("--host needs --mask-endpoint too")
    if options.pipelines or options.gadgets:
        raise ConfigError("--pipelines and --gadgets are the host's: start that with them")
    if options.mask_keys:
        from ..mask.curve_keys import ClientKeys

        ClientKeys.load(options.mask_keys)
    try:
        with socket.create_connection(parts(host), ANSWER_S) as sock:
            sock.sendall(_CLOSE)  # a session that asks for nothing: no host takes it for a failure
            sock.settimeout(1.0)
            with suppress(OSError):
                sock.recv(2)
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigError(
            f"no host takes connections at {host} ({why}): `mnet serve` starts one, "
            "and without --host this command starts its own"
        ) from error


def _order(options: argparse.Namespace) -> None:
    """Put lines, train and echo together."""
    from ..scanner.adaptive_scan import Options, echo_order

    echo_order(
        Options(
            order=options.order,
            echo_train=options.echo_train,
            effective_echo=options.effective_echo,
        )
    )


def _pipeline(options: argparse.Namespace) -> None:
    """Look for the pipeline that a host of our own, or this process, shall run."""
    name = getattr(options, "config", None)
    if name is None or options.command == "conformance":
        return
    from ..pipeline.build import load, parse

    pipelines, gadgets = (getattr(options, each, None) for each in ("pipelines", "gadgets"))
    xml = load(name, extra=pipelines)
    if pipelines and not gadgets:  # ours are whole, and need no second to see it
        parse(xml)
