"""``ministream daq``: the first stage, also with the options of the APS streaming mini-app's DAQ."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import click

from ministream.cli.options import (
    config_option,
    json_option,
    reconnect_timeout_option,
    run_stage,
    verbose_option,
    version_option,
)
from ministream.cli.scan_options import detector_options, order_option, reading_options, substitute_options

_MINI_APP_ADDRESS = "tcp://*:50000"
_DETECTOR, _SIMULATION, _TEST = range(3)


@click.command(name="daq", short_help="Play a scan as a detector would: the first stage.")
@click.argument("source", required=False, metavar="[SCAN.h5 | FOLDER | pva:PV | phantom[:KEY=VALUE,...]]")
@click.option(
    "--listen",
    default="tcp://127.0.0.1:0",
    show_default=True,
    metavar="tcp://HOST:PORT",
    help="Where consumers connect; port 0 takes a free one.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Projections per second; 0 is as fast as possible.",
)
@order_option("as-measured")
@click.option(
    "--consumers",
    type=click.IntRange(min=0),
    help="Consumers to wait for; each gets every frame. [default: 1; 0 with --publish]",
)
@click.option(
    "--truth",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a phantom's ground truth to this HDF5 file first.",
)
@click.option(
    "--steer",
    metavar="tcp://HOST:PORT",
    help="Take requests to end the scan early, as of quality --stop-daq. Whoever reaches it can.",
)
@substitute_options
@reconnect_timeout_option()
@reading_options
@detector_options
@click.option(
    "--publish",
    "--publisher_addr",
    "publish",
    metavar="tcp://HOST:PORT",
    help="Publish TImage messages for the mini-app's distributors, which subscribe here (ZeroMQ PUB).",
)
@click.option(
    "--synch-addr",
    "--synch_addr",
    "synch",
    metavar="tcp://HOST:PORT",
    help="Where subscribers say that they are there (ZeroMQ REQ).",
)
@click.option(
    "--subscribers",
    "--synch_count",
    "subscribers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Subscribers to wait for.",
)
@click.option(
    "--send-queue",
    "--publisher_hwm",
    "send_queue",
    type=click.IntRange(min=0),
    default=64,
    show_default=True,
    help="Frames that may wait for one subscriber; then it is waited for. 0, the mini-app's default, is 64.",
)
@click.option(
    "--mode",
    type=click.IntRange(0, 2),
    help="As the mini-app: 0 follows --image_pv, 1 plays --simulation_file, 2 a phantom. Publishes at "
    f"{_MINI_APP_ADDRESS} if nothing else is said.",
)
@click.option("--image_pv", metavar="PV", help="As the mini-app: pva:PV with --attributes mini-app.")
@click.option(
    "--simulation_file",
    metavar="FILE",
    help="As the mini-app: plays FILE, interlaced and as float32 if nothing else is said.",
)
@click.option(
    "--projection_sleep",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="As the mini-app: time between projections, in place of --rate.",
)
@click.option(
    "--iteration_sleep",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="As the mini-app: pause before the scan is played again.",
)
@click.option(
    "--beg_sinogram", type=click.IntRange(min=0), default=0, help="As the mini-app: the first row to take."
)
@click.option(
    "--num_sinograms",
    type=click.IntRange(min=0),
    default=0,
    help="As the mini-app: how many rows to take, in place of --rows; 0 for all.",
)
@click.option(
    "--num_sinogram_columns", type=click.IntRange(min=1), help="As the mini-app: columns of mode 2."
)
@click.option(
    "--num_sinogram_projections", type=click.IntRange(min=1), help="As the mini-app: projections of mode 2."
)
@json_option()
@config_option()
@verbose_option()
@version_option()
@click.pass_context
def command(context: click.Context, /, as_json: bool, **options: Any) -> None:
    """Play a scan to its consumers: fields before the projections that they correct, at a given rate.

    Waits for the consumers, and for whoever is slow: no frame is ever dropped. Ends when every consumer has
    acknowledged every frame. Of a live detector, frames that were lost on the way here, or found the buffer
    full, are counted, told, and end it with exit code 4 after everything else has been passed on.

    SOURCE is one of:

    \b
      SCAN.h5       APS Data Exchange, or NeXus NXtomo (image_key); any stack with
                    --dataset, --flats, --darks, --angles
      FOLDER, *.tif TIFF files; fields in FOLDER/flats and FOLDER/darks; --angles
      pva:PV        a detector by EPICS pvAccess (NTNDArray); --projections;
                    needs pip install 'ministream[epics]'
      phantom       a synthetic scan with known truth; its keys are object (rock,
                    shepp-logan, cylinder), columns, rows, projections, flats,
                    darks, fields_every, range, photons, absorption,
                    center_offset, rings, zingers, dead_pixels, drift, move_x,
                    move_y, move_rows, pixel_type and seed

    \b
    Examples:
      ministream daq scan.h5 --listen tcp://0.0.0.0:5001 --rate 100
      ministream daq scan.nxs --order golden-angle --rows 1000:1016
      ministream daq tiffs/ --angles 0:180 --dark-value 100
      ministream daq pva:2bm:Pva1:Image --projections 2bm:TomoScan:NumAngles --angles 0:180
      ministream daq phantom:columns=320,rows=16,zingers=5 --truth truth.h5 --json
      ministream daq --mode 1 --simulation_file scan.h5 --synch_addr tcp://*:50001 --synch_count 2
    """
    from ministream.sources import SourceOptions, ViewOrder
    from ministream.stages.daq import DaqOptions, run
    from ministream.stages.frame_publisher import SEND_QUEUE

    given = _Given(context)
    source = _source(given, options)
    if options["publish"] is None and (options["mode"] is not None or options["synch"] is not None):
        options["publish"] = _MINI_APP_ADDRESS
    if options["consumers"] is None:
        options["consumers"] = 0 if options["publish"] is not None else 1
    _rate(given, options)
    _rows(given, options)
    reading = SourceOptions(**{entry.name: options[entry.name] for entry in fields(SourceOptions)})
    chosen = DaqOptions(
        source=source,
        reading=reading,
        order=ViewOrder(options["order"]),
        repeat_pause_s=options["iteration_sleep"],
        send_queue=options["send_queue"] or SEND_QUEUE,
        **{name: options[name] for name in _PASSED_ON},
    )
    run_stage(lambda report, stop: run(chosen, report, stop), as_json=as_json)


_PASSED_ON = (
    "listen",
    "rate",
    "consumers",
    "truth",
    "publish",
    "synch",
    "subscribers",
    "reconnect_timeout_s",
    "steer",
)


class _Given:
    """Which options the user has given, anywhere, and not left to their defaults."""

    def __init__(self, context: click.Context) -> None:
        self._context = context

    def __call__(self, name: str) -> bool:
        source = self._context.get_parameter_source(name)
        return source is not click.core.ParameterSource.DEFAULT and source is not None

    def complain(self, message: str) -> click.UsageError:
        return click.UsageError(message, self._context)


def _source(given: _Given, options: dict[str, Any]) -> str:
    """Return the source, from SOURCE or from the mini-app's options; set what these imply."""
    named = {
        "SOURCE": options["source"],
        "--image_pv": options["image_pv"],
        "--simulation_file": options["simulation_file"],
    }
    there = [name for name, value in named.items() if value is not None]
    mode = options["mode"]
    if len(there) > 1 or (mode is not None and there == ["SOURCE"]):
        raise given.complain(f"{' and '.join([*there, '--mode'][:2])} name two sources; one is played")
    wanted = {_DETECTOR: "--image_pv", _SIMULATION: "--simulation_file"}.get(mode)
    if mode is not None and there != ([wanted] if wanted else []):
        raise given.complain(
            f"--mode {mode} needs {wanted}" if wanted else f"--mode {mode} has no use for {there[0]}"
        )
    if options["image_pv"] is not None:
        _imply(given, options, "attributes", "mini-app")
        return f"pva:{options['image_pv']}"
    if options["simulation_file"] is not None:
        _imply(given, options, "order", "interlaced")
        _imply(given, options, "pixel_type", "float32")
        return str(options["simulation_file"])
    if mode == _TEST:
        return _phantom(options)
    return str(options["source"] or "phantom")


def _phantom(options: dict[str, Any]) -> str:
    """Return the phantom of the mini-app's sizes; rows are those that it would send."""
    sizes = {
        "columns": options["num_sinogram_columns"],
        "projections": options["num_sinogram_projections"],
        "rows": options["num_sinograms"] or None,
    }
    options["beg_sinogram"] = options["num_sinograms"] = 0
    return "phantom:" + ",".join(f"{key}={value}" for key, value in sizes.items() if value is not None)


def _imply(given: _Given, options: dict[str, Any], name: str, value: str) -> None:
    if not given(name):
        options[name] = value


def _rate(given: _Given, options: dict[str, Any]) -> None:
    pause_s = options["projection_sleep"]
    if pause_s is None:
        return
    if given("rate"):
        raise given.complain("--rate and --projection_sleep say the same; one of them is enough")
    options["rate"] = 1 / pause_s if pause_s else 0.0


def _rows(given: _Given, options: dict[str, Any]) -> None:
    first, count = options["beg_sinogram"], options["num_sinograms"]
    if not count:
        if first:
            raise given.complain("--beg_sinogram needs --num_sinograms: how many rows to take from there")
        return
    if options["rows"] is not None:
        raise given.complain("--rows and --num_sinograms say the same; one of them is enough")
    options["rows"] = first, count
