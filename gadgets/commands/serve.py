"""`mnet serve`: the embedded host."""

import argparse
import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from ..errors import ConfigError
from ..host.stop import Stop, stopping
from ..limits.options import add_limits, limits_of
from ..limits.settings import UNRECORDED
from .options import add_folders, add_host

log = logging.getLogger(__name__)


def add(adder: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command."""
    serve = adder(
        "serve",
        run,
        "Run the embedded host.",
        "Takes MRD streams as Gadgetron does, runs the pipelines of xml_configs, and binds the\n"
        "mask channel. Stop it with Ctrl-C (status 130) or SIGTERM (0): it takes no more scans,\n"
        "and running ones have --stop-s seconds to end before they are told and ended.",
    )
    serve.add_argument("--allow-inline-config", action="store_true")
    serve.add_argument(
        "--stop-s", type=float, default=30.0, help="for running scans at a stop (default 30)"
    )
    serve.add_argument(
        "--while-stdin", action="store_true", help="stop too when stdin ends, as with a parent"
    )
    serve.add_argument(
        "--unrecorded",
        choices=UNRECORDED,
        default="go-on",
        help="a scan that cannot be recorded, as on a full disk: it goes on; it goes on, and "
        "/readyz is 503; or it is refused (default go-on)",
    )
    add_limits(serve)
    serve.add_argument("--announce", action="store_true", help="print ports as JSON when ready")
    serve.add_argument("--log-json", action="store_true", help="log JSON, one object a line")
    add_host(serve)
    add_folders(serve)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM, or until stdin ends."""
    with stopping() as stop:
        return _serve(options, stop)


def _serve(options: argparse.Namespace, stop: Stop) -> int:
    import zmq

    from ..files.noise_store import default_folder
    from ..host.serve import Host
    from ..mask.curve_keys import ServerKeys

    if options.while_stdin:
        threading.Thread(target=_at_end_of_stdin, args=(stop,), daemon=True).start()
    keys = ServerKeys.load(options.mask_keys) if options.mask_keys else None
    try:
        monitor = _monitor(options)
        host = Host(
            address=options.address,
            port=options.port,
            external_port=options.external,
            mask_endpoint=options.mask_endpoint,
            mask_keys=keys,
            records=options.records,
            noise=options.noise or default_folder(),
            pipelines=options.pipelines,
            gadgets=options.gadgets,
            device=options.device,
            allow_inline=options.allow_inline_config,
            status_port=options.status_port,
            stop_s=options.stop_s,
            limits=limits_of(options),
            unrecorded=options.unrecorded,
            guarded=options.address_is_guarded,
            monitor=monitor,
        )
    except (OSError, ValueError, zmq.ZMQError) as error:
        raise ConfigError(
            f"cannot bind: {error}; `mnet doctor` with these options says what is in the way"
        ) from error
    with host:
        log.info("MRD on %s:%d, masks on %s", options.address, host.port, host.mask_endpoint)
        if monitor is not None:
            log.info("see it work: http://127.0.0.1:%d/", monitor.port)
        if options.announce:
            host.wait_warm()
            ports = {
                "port": host.port,
                "mask_endpoint": host.mask_endpoint,
                "external_port": host.external_port,
                "status_port": host.status_port,
            }
            if monitor is not None:
                ports["monitor_port"] = monitor.port
            try:
                print(json.dumps(ports), flush=True)
            except BrokenPipeError:  # whoever started this host has gone
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 0
        stop.wait()
    return 0


def _at_end_of_stdin(stop: Stop) -> None:
    while os.read(0, 4096):
        pass
    stop.now()


def _monitor(options: argparse.Namespace) -> Any:
    if options.monitor_port is None:
        return None
    from ..monitor.monitor import Monitor

    return Monitor(options.monitor_port, options.status_port)
