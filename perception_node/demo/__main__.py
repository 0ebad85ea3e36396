"""Runs the demo: starts recorder, node and player, waits for the footage to end, makes the report."""

import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from perception_node.demo.options import FPS, RATE
from perception_node.demo.report import make_report
from perception_node.demo.truth import knows_the_truth, lines
from perception_node.engine import DEVICES
from perception_node.errors import UserError
from perception_node.model import DEFAULT_MODEL, load_model
from perception_node.simulation.cache import cached_drive
from perception_node.sources import check_apart, open_source

DRIVE = {"seed": 7, "n_frames": 150}
"""What is driven without footage."""
STOP_TIMEOUT_S = 60
RESULTS = ("index.html", "annotated.mp4", "preview.jpg", "summary.json", "played.json", "truth.jpg")
TIED = ("setpriv", "--pdeathsig", "TERM")
"""Runs a command that gets SIGTERM when the process that started it ends, however it does."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("source", type=click.Path(path_type=Path), required=False)
@click.option("--seed", default=DRIVE["seed"], show_default=True, type=click.IntRange(0), help="Without SOURCE.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("out"), show_default=True)
@click.option("--model", default=DEFAULT_MODEL, show_default=True, help="Model folder or name.")
@click.option("--device", default="cpu", show_default=True, help=f"What computes: {', '.join(DEVICES)}.")
@click.option("--rate", default=1.0, show_default=True, type=RATE, help="Of the recorded pace.")
@click.option("--wait", is_flag=True, help="Send a frame when the last one is answered: every frame, at its own pace.")
@click.option("--topic", help="Image topic of a bag that has several.")
@click.option("--fps", type=FPS, help="Frame rate of footage without stamps.")
def main(
    source: Path | None,
    seed: int,
    out: Path,
    model: str,
    device: str,
    rate: float,
    wait: bool,
    topic: str | None,
    fps: float | None,
) -> None:
    """Drive SOURCE (a video, a folder of images, a rosbag2) through the ROS 2 node and show what it saw.

    A player process publishes the frames, the node perceives, a recorder writes all topics to OUT/bag. Then OUT has the
    bag, annotated.mp4, index.html and summary.json. They talk in a ROS domain of their own.

    Without SOURCE it is a drive along a simulated street, rendered once and kept. Its truth is known: how right the
    node was is measured and shown too, as it is for a bag of yours with /truth/ topics.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
            signal.signal(number, signal.default_int_handler)
    try:
        if source is None:
            source = cached_drive(**DRIVE | {"seed": seed})
        check_apart(source, out / "bag")
        folder = load_model(model).folder
        open_source(source, topic, fps)  # tells of bad footage before anything starts
        out.mkdir(parents=True, exist_ok=True)
        for name in RESULTS:  # an earlier run's; beside a new bag they would mislead
            (out / name).unlink(missing_ok=True)
        domain = _unused_domain()
        click.echo(f"in ROS_DOMAIN_ID={domain}, on this machine only")
        # Parameters are parsed as YAML, of which JSON is a part: a folder may be called 5, or true.
        parameters = {"model": str(folder.resolve()), "device": device}
        words = []
        for name, value in parameters.items():
            words += ["-p", f"{name}:={json.dumps(value, ensure_ascii=False)}"]
        with (
            _process(domain, "perception_node.main", "--ros-args", *words) as node,
            _process(domain, "perception_node.demo.recorder", str(out / "bag")) as recorder,
        ):
            options = ["--subscribers", "2", "--rate", str(rate), "--report", str(out / "played.json")]
            options += ["--wait"] if wait else []
            options += ["--topic", topic] if topic else []
            options += ["--fps", str(fps)] if fps else []
            with _process(domain, "perception_node.demo.player", str(source), *options) as player:
                _wait_for(player, while_running=(node, recorder))
        summary = make_report(
            out,
            {
                "source": str(source),
                "model": model,
                "device": device,
                "pace": "wait for each answer" if wait else f"{rate:g} x recorded",
            },
            source if knows_the_truth(source) else None,
        )
    except (UserError, OSError) as error:
        raise click.ClickException(str(error)) from error
    frames, latency = summary["frames"], summary["latency_ms"]
    dropped = ", ".join(f"{count} {reason}" for reason, count in frames["dropped"].items() if count) or "none"
    click.echo(f"{frames['in']} frames in, {frames['out']} out, dropped: {dropped}")
    click.echo(f"latency p50 {latency['p50']:.0f} ms, p95 {latency['p95']:.0f} ms, p99 {latency['p99']:.0f} ms")
    for line in lines(summary["truth"]) if "truth" in summary else ():
        click.echo(line)
    for what in ("index.html", "annotated.mp4", "summary.json", "bag"):
        click.echo(f"  {(out / what).resolve()}")


@contextmanager
def _process(domain: int, module: str, *arguments: str) -> Iterator[subprocess.Popen]:
    """A Python module as a process of its own, on this machine's loopback only, terminated at the end.

    The end is that of the context, or of this process, whatever ends it.

    Raises:
        UserError: it would not end.
    """
    environment = {**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_DOMAIN_ID": str(domain)}
    if os.environ.get("ROS_DISTRO") == "humble":  # which does not know the other yet
        environment["ROS_LOCALHOST_ONLY"] = "1"
    command = [*TIED, sys.executable, "-m", module, *arguments]
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    process.module = module
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise UserError(f"{module} did not end within {STOP_TIMEOUT_S} s of being told to") from None


def _unused_domain() -> int:
    """A ROS domain that nobody on this machine is in, so that the demo neither drives nor records another's node.

    Raises:
        UserError: all are taken.
    """
    # Ports are as RTPS has it (9.6.2), here those of the first ten participants. Domains above 101 would reach into the
    # ports that Linux hands out.
    for domain in random.sample(range(1, 102), 101):
        if all(_is_free(7400 + 250 * domain + offset) for offset in range(30)):
            return domain
    raise UserError("all ROS domains from 1 to 101 are in use on this machine; end some of its ROS processes")


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def _wait_for(process: subprocess.Popen, while_running: tuple[subprocess.Popen, ...]) -> None:
    """Raises UserError if the process fails, or if one that it depends on ends before it does."""
    while process.poll() is None:
        for other in while_running:
            if other.poll() is not None:
                raise UserError(f"{other.module} ended early, with status {other.returncode}; its messages are above")
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
    if process.returncode:
        raise UserError(f"{process.module} failed with status {process.returncode}; its messages are above")


if __name__ == "__main__":
    main()
