"""`perception VERB`: the pipeline without ROS."""

import contextlib
import functools
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from perception_node.calibration_input import BASE_FRAME, CalibrationInput, CalibrationOptions
from perception_node.device import open_device
from perception_node.engine import DEFAULT_PLAN, DEVICES, ENGINE_NAMES, PlanOptions
from perception_node.errors import UserError
from perception_node.fusion import FAMILIES
from perception_node.model import DEFAULT_MODEL, load_model, read_taxonomy
from perception_node.pipeline import Pipeline
from perception_node.sources import open_source
from perception_node.taxonomy import builtin_taxonomy


class _OneLineErrors(click.Group):
    """Shows what a user got wrong as one line and exits with 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (UserError, OSError) as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="perception_node")
def main() -> None:
    """Panoptic perception of street scenes, without ROS running.

    Every pixel gets exactly one (class, instance id); from that come the drivable area and the objects.

    \b
    perception segment drive.mp4 --out out/drive
    perception segment images/ --out out/images --truth labels/
    perception evaluate out/images/panoptic.json labels/ --report out/images/report.html
    perception replay recording/ --out out/replayed
    perception view street:7
    perception simulate --out out/street --seed 7
    perception import network.onnx --family semantic --taxonomy cityscapes --out engines/mine
    perception fuse outputs.npz --family center_offset --taxonomy cityscapes --size 1024x2048 --out frame.npz
    perception build engines/mine --precision fp16
    perception quantize engines/mine --footage drive.mp4
    perception calibrate ground road.mp4 --camera camera.yaml --points points.csv --out mounting.yaml
    perception inspect engines/mine
    perception bench engines/mine drive.mp4 --against openvino
    perception train training/camvid.yaml --data DATA --out out/training
    perception export out/training/best.pt --data DATA --out engines/mine

    The ROS 2 node is a command of its own: perception_node.
    """


MODEL_HELP = "Model folder (with model.yaml), or the name of one that comes with the package."
_DEVICE = click.option("--device", default="cpu", show_default=True, help=f"What computes: {', '.join(DEVICES)}.")
_THREADS = click.option("--threads", default=0, show_default=True, help="CPU threads; 0 takes all cores.")
_TOPIC = click.option("--topic", help="Image topic of a bag that has several.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, and nothing else, to stdout.")


def _computing(command):
    """Options that say what computes; the command gets them as `computing`, arguments of Pipeline."""

    @functools.wraps(command)
    def with_computing(device, threads, engine, precision, auto_build, allow_unverified, **others):
        plan = PlanOptions(precision, auto_build=auto_build, allow_unverified=allow_unverified)
        command(computing={"device": device, "threads": threads, "engine": engine, "plan": plan}, **others)

    precision = DEFAULT_PLAN.precision
    for option in (
        click.option("--allow-unverified", is_flag=True, help="Run a TensorRT plan that others could have written."),
        click.option("--auto-build", is_flag=True, help="Build the TensorRT plan if there is none for this GPU."),
        click.option("--precision", default=precision, show_default=True, help="Of the TensorRT plan."),
        _THREADS,
        click.option("--engine", default="auto", show_default=True, help=f"Runs it: {', '.join(ENGINE_NAMES)}."),
        _DEVICE,
    ):
        with_computing = option(with_computing)
    return with_computing


def _footage(command):
    """Options of the verbs that run a pipeline over footage."""
    model = click.option("--model", default=DEFAULT_MODEL, show_default=True, help=MODEL_HELP)
    for option in (_JSON, _TOPIC, _computing, model):
        command = option(command)
    return command


def _calibration(camera: str | None, mounting: str | None, base_frame: str, ground_z: float) -> CalibrationOptions:
    """Raises BadCalibration if one of the files cannot be used."""
    options = CalibrationOptions(camera or "", mounting_url=mounting or "", base_frame=base_frame, ground_z=ground_z)
    CalibrationInput(options).check_files()
    return options


@main.command()
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the results.")
@click.option(
    "--truth",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of labels to measure against: NAME.png, a class id per pixel.",
)
@_footage
def segment(
    input: Path,
    out: Path,
    truth: Path | None,
    model: str,
    computing: dict[str, Any],
    topic: str | None,
    as_json: bool,
) -> None:
    """Segment INPUT: an image, a folder of images, a video or a bag.

    \b
    Writes into the --out folder:
      panoptic.json, panoptic/  COCO panoptic format, segment id = R + 256 G + 65536 B
      class_ids/                a class id per pixel, 255 unlabelled
      overlay/                  the image with what was seen in it
      summary.json              frames, instances, milliseconds of each stage, measures
      truth.json, truth/        with --truth: the labels in COCO panoptic format

    With --truth it measures mIoU and panoptic quality. Labels have no instances: 8-connected components of thing
    classes are taken for them, those under 50 pixels as void.
    """
    from perception_node.segment import segment as run

    source = open_source(input, topic)
    _report(run(Pipeline(load_model(model), **computing), source, out, truth), out, as_json)


@main.command()
@click.argument("predicted", type=click.Path(path_type=Path))
@click.argument("truth", type=click.Path(path_type=Path), required=False)
@click.option("--taxonomy", help="Classes of label folders: cityscapes, camvid, coco, or a YAML file with `classes`.")
@click.option("--images", type=click.Path(path_type=Path), help="Folder with the images, to be shown in the report.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="HTML file to write.")
@click.option("--video", is_flag=True, help="Files are one sequence and their ids last: measure VPQ and STQ.")
@click.option("--partial", is_flag=True, help="Measure although some of the truth's images were not predicted.")
@click.option("--node", metavar="TOPIC", help="What is before /class_map, where a bag has the topics of several nodes.")
@click.option("--grid-distance", default=30.0, show_default=True, help="Cells of the drivable grid count so far, in m.")
@click.option("--workers", default=0, type=click.IntRange(0), help="Processes; 0 (default): as many as pay.")
@_JSON
def evaluate(
    predicted: Path,
    truth: Path | None,
    taxonomy: str | None,
    images: Path | None,
    report: Path | None,
    video: bool,
    partial: bool,
    node: str | None,
    grid_distance: float,
    workers: int,
    as_json: bool,
) -> None:
    """Measure PREDICTED against TRUTH: PQ, mIoU, boundaries, drivable area, and more.

    \b
    perception evaluate out/val/panoptic.json val/labels --report report.html
    perception evaluate panoptic_pred.json annotations/panoptic_val2017.json
    perception evaluate pred.json gtFine/val
    perception evaluate out/replayed drive_with_truth

    \b
    Each is
      NAME.json   COCO panoptic format, its pictures in NAME/; Cityscapes' panoptic JSON too
      a folder    NAME.png with a class id per pixel (CamVid), or of Cityscapes' *_gtFine_instanceIds.png
      a bag       with the node's topics, or with /truth/class_map, /truth/instance_map, ...; one may have both, then
                  TRUTH is left out. Frames are matched by their stamps.

    The rules are those of panopticapi, cityscapesScripts and deeplab2; docs/evaluation.md has them.
    """
    from perception_node.evaluate import evaluate as run
    from perception_node.evaluate.report import describe

    summary = run(
        predicted,
        truth,
        taxonomy=read_taxonomy(taxonomy) if taxonomy else None,
        images=images,
        video=video,
        allow_missing=partial,
        node=node,
        grid_distance_m=grid_distance,
        workers=workers,
        report=report,
    )
    click.echo(json.dumps(summary) if as_json else describe(summary))
    if report and not as_json:
        click.echo(f"-> {report}")


@main.command()
@click.argument("bags", metavar="BAG...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Bag to write, or folder of bags; old bags are replaced.")
@click.option("--overlay", is_flag=True, help="Write the overlay images too; they are as large as the input.")
@click.option("--tracking/--no-tracking", default=True, show_default=True, help="Ids that last from image to image.")
@click.option("--camera", help="The camera's ROS YAML. Default: the camera_info of the bag.")
@click.option("--mounting", help="The mounting's YAML. Default: /tf_static and /tf of the bag.")
@click.option("--base-frame", default=BASE_FRAME, show_default=True, help="TF frame: x ahead, y left, z up.")
@click.option("--ground-z", default=0.0, show_default=True, help="Of the ground in it, metres; -0.3: it is 0.3 above.")
@click.option("--golden", type=click.Path(path_type=Path, file_okay=False), help="Folder of results to compare with.")
@click.option("--update", is_flag=True, help="Make these results the golden ones.")
@click.option("--pictures", type=click.Path(path_type=Path, file_okay=False), help="Folder: frames that differ, drawn.")
@click.option("--checks", type=click.Path(path_type=Path, dir_okay=False), help="YAML with tolerances and budgets.")
@click.option("--tolerance", "tolerances", multiple=True, metavar="FIELD=NUMBER", help="E.g. score=0.01; repeatable.")
@click.option("--budget", "budgets", multiple=True, metavar="STAGE.p95=MS", help="E.g. network.p95=40; repeatable.")
@click.option("--strict", is_flag=True, help="What is odd about a bag fails it: gaps, stamps that go back, bad images.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(0), help="Bags at a time; 0: all cores.")
@click.option("--ray", metavar="ADDRESS", help="Replay on a Ray cluster: host:6379, auto, or local to start one here.")
@_footage
@click.pass_context
def replay(
    ctx: click.Context,
    bags: tuple[Path, ...],
    out: Path | None,
    overlay: bool,
    tracking: bool,
    camera: str | None,
    mounting: str | None,
    base_frame: str,
    ground_z: float,
    golden: Path | None,
    update: bool,
    pictures: Path | None,
    checks: Path | None,
    tolerances: tuple[str, ...],
    budgets: tuple[str, ...],
    strict: bool,
    workers: int,
    ray: str | None,
    model: str,
    computing: dict[str, Any],
    topic: str | None,
    as_json: bool,
) -> None:
    """Run the pipeline over every image of each BAG and write a bag of results, or check them.

    \b
    perception replay drive --out out/replayed
    perception replay drives/* --out out/replayed --workers 4
    perception replay drives/* --golden golden --update
    perception replay drives/* --golden golden --budget total.p95=80 --workers 4

    BAG is a rosbag2, mcap or sqlite3, or ROS 1's .bag (a video or a folder of images will do as well). The results are
    what the node would publish: /perception_node/class_map, instance_map, confidence, instances, tracks, drivable_area
    and label_info, with the headers of the images. An image that cannot be used is reported, counted and left out.

    With a calibration of the camera and its mounting there are the topics in metres too: drivable_grid, free_space,
    points, objects and markers.

    A bag that cannot be used does not keep the others from being replayed; in the end a table says which failed, and
    why, and the exit status is 1. docs/replay.md has golden results, tolerances, budgets, clusters, and the pytest
    fixture.
    """
    from perception_node.bag_tests.checks import Checks, parse_limit
    from perception_node.bag_tests.command import describe, describe_rates, replay_bags
    from perception_node.bag_tests.run import Job
    from perception_node.worker import EngineOptions

    asked = (Checks.from_yaml(checks) if checks else Checks()).updated(
        dict(parse_limit("--tolerance", text) for text in tolerances),
        dict(parse_limit("--budget", text) for text in budgets),
    )
    if out is None and golden is None and not asked.budgets:
        raise UserError("--out: expected: a bag to write, or something to check: --golden or --budget")
    if (update or pictures) and golden is None:
        raise UserError("--update and --pictures: expected: --golden FOLDER too")
    job = Job(
        Path(),
        "",
        EngineOptions(model, **computing),
        topic=topic,
        overlay=overlay,
        tracking=tracking,
        calibration=_calibration(camera, mounting, base_frame, ground_z),
        golden=golden,
        update=update,
        checks=asked,
        strict=strict,
        pictures=pictures,
    )
    results = replay_bags(bags, job, out, workers, ray)
    is_bare = len(results) == 1
    if is_bare and "frames" not in results[0] and not as_json:
        raise UserError(results[0]["problems"][0])
    if as_json:
        click.echo(json.dumps(results[0] if is_bare else {"bags": results}))
    else:
        if is_bare:
            _report(results[0], out, as_json)
            if results[0]["no_metres"]:
                metres, frames = results[0]["in_metres"], results[0]["frames"]
                click.echo(f"  in metres {metres} of {frames} frames: {results[0]['no_metres']}")
            click.echo("\n".join(describe_rates(results[0])))
        click.echo("\n".join(describe(results)))
    if not all(result["ok"] for result in results):
        ctx.exit(1)


@main.command()
@click.argument("inputs", nargs=-1, type=click.Path(path_type=Path))
@click.option("--model", help="Perceive the input with this model, also a bag that has a node's topics.")
@click.option("--node", metavar="TOPIC", help="What is before /class_map, where there are several nodes.")
@click.option("--camera", help="The camera's ROS YAML. Default: the camera_info.")
@click.option("--mounting", help="The mounting's YAML. Default: /tf_static and /tf.")
@click.option("--base-frame", default=BASE_FRAME, show_default=True, help="TF frame: x ahead, y left, z up.")
@click.option("--ground-z", default=0.0, show_default=True, help="Of the ground in it, metres; -0.3: it is 0.3 above.")
@click.option("--save", type=click.Path(path_type=Path, dir_okay=False), help="Write this .rrd file, serve nothing.")
@click.option("--host", default="127.0.0.1", show_default=True, help="To listen on; 0.0.0.0 shows it to anybody.")
@click.option("--port", default=9090, show_default=True, type=click.IntRange(1, 65534), help="And the one after it.")
@click.option("--memory", default="2GB", show_default=True, help="How much is kept; what is older goes.")
@click.option("--compressed", is_flag=True, help="Of images that there are both ways, those; over a network.")
@_TOPIC
@_computing
def view(
    inputs: tuple[Path, ...],
    model: str | None,
    node: str | None,
    camera: str | None,
    mounting: str | None,
    base_frame: str,
    ground_z: float,
    save: Path | None,
    host: str,
    port: int,
    memory: str,
    compressed: bool,
    topic: str | None,
    computing: dict[str, Any],
) -> None:
    """Show INPUTS in a browser: camera, classes, instances, drivable grid, objects, tracks, times.

    \b
    perception view street:7                     footage, perceived now
    perception view drive.mp4 --model engines/mine
    perception view out/bag                      a bag with the node's topics
    perception view drive out/replayed           a drive and what `replay` made of it
    perception view                              running nodes (needs ROS)
    perception view drive.mp4 --save drive.rrd   to a file, to be viewed later or sent to somebody

    Nothing of this needs internet, RViz or an account. docs/view.md says more.
    """
    try:
        from perception_node.view.command import Address, Selection, messages_of, serve, serve_file
        from perception_node.view.command import save as save_to
    except ModuleNotFoundError as error:
        if error.name not in ("rerun", "rerun_bindings", "pyarrow"):
            raise
        raise UserError(
            f"the viewer needs {error.name}: pip install 'perception_node[view]', or make setup-view"
        ) from error

    from perception_node.worker import EngineOptions

    address = Address(host, port, memory)
    if len(inputs) == 1 and inputs[0].suffix == ".rrd":
        serve_file(inputs[0], address)
        return
    calibration = _calibration(camera, mounting, base_frame, ground_z)
    engine = EngineOptions(model or DEFAULT_MODEL, **computing)
    messages = messages_of(inputs, Selection(topic, node, compressed), calibration, engine, anew=model is not None)
    if save is None:
        serve(messages, calibration, address)
    else:
        save_to(messages, calibration, save)


@main.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Bag to write; an old bag is replaced.")
@click.option("--seed", default=7, show_default=True, type=click.IntRange(0), help="Of all that is random.")
@click.option("--frames", default=300, show_default=True, type=click.IntRange(1), help="Length of the drive.")
@click.option("--fps", default=10.0, show_default=True, type=click.FloatRange(0, 1000, min_open=True))
@click.option("--size", default="480x360", show_default=True, metavar="WxH", help="Width and height of the images.")
@click.option("--weather", help="day, overcast, dusk or rain. Default: by the seed.")
@click.option("--camera", type=click.Path(path_type=Path, dir_okay=False), help="Calibration (ROS YAML); has a size.")
@click.option("--mounting", type=click.Path(path_type=Path, dir_okay=False), help="Height and angles (YAML).")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(0), help="Processes; 0: as many as cores.")
def simulate(
    out: Path,
    seed: int,
    frames: int,
    fps: float,
    size: str,
    weather: str | None,
    camera: Path | None,
    mounting: Path | None,
    workers: int,
) -> None:
    """Simulate a drive along a street and write a bag of it, with its exact truth.

    \b
    perception simulate --out out/street --seed 7 --frames 100 --weather rain

    The bag has the camera (/camera/image_raw, /camera/camera_info), its place (/tf_static, /tf) and the truth of every
    image: /truth/class_map, instance_map, depth, drivable_area, drivable_grid, instances, objects, odometry. The other
    verbs take a drive by its seed, without a bag: `perception segment street:7 --out out/seen`.
    """
    from perception_node.camera import Camera
    from perception_node.mounting import Mounting
    from perception_node.simulation.cache import drive_in_processes
    from perception_node.simulation.recording import parse_size, write_bag
    from perception_node.simulation.street import Street

    try:
        size_wh = parse_size(size)
    except ValueError as error:
        raise UserError(f"--size {size!r}: expected: WIDTHxHEIGHT in pixels, e.g. 480x360") from error
    arguments = {
        "seed": seed,
        "n_frames": frames,
        "fps": fps,
        "camera": Camera.from_yaml(camera) if camera else None,
        "mounting": Mounting.from_yaml(mounting) if mounting else None,
        "weather": weather,
        "size": size_wh,
    }
    street = Street(**arguments)
    write_bag(street, out, drive_in_processes(arguments, workers or len(os.sched_getaffinity(0))))
    click.echo(f"{frames} frames, {street.camera.width}x{street.camera.height}, {street.weather}, seed {seed} -> {out}")


@main.command()
@click.argument("outputs", metavar="IN.npz", type=click.Path(path_type=Path))
@click.option("--family", required=True, help=f"Kind of outputs: {', '.join(FAMILIES)}.")
@click.option("--taxonomy", required=True, help="The network's classes: cityscapes, camvid, coco.")
@click.option("--size", required=True, metavar="HxW", help="Height and width of the frame, which the outputs fill.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="npz file to write.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of the family; repeatable.")
@click.option("--runs", default=10, show_default=True, help="How often to fuse, after one run that is not timed.")
@_DEVICE
@_THREADS
@_JSON
def fuse(
    outputs: Path,
    family: str,
    taxonomy: str,
    size: str,
    out: Path,
    options: tuple[str, ...],
    runs: int,
    device: str,
    threads: int,
    as_json: bool,
) -> None:
    """Fuse a network's outputs, saved in IN.npz, for debugging and comparison.

    \b
    perception fuse outputs.npz --family center_offset --taxonomy cityscapes --size 1024x2048 --out frame.npz

    IN.npz holds, float32 or float16, with or without a batch axis of 1 (C classes, N instances, Q queries):

    \b
      center_offset        semantic (C, h, w), center (1, h, w), offset (2, h, w) as (dy, dx) in pixels of the frame,
                           foreground (1, h, w) if there is one
      mask_classification  class_logits (Q, C + 1), mask_logits (Q, h, w)
      instance_semantic    semantic (C, h, w), classes (N,), scores (N,) and masks (N, H, W), or masks28 (N, 28, 28)
                           and boxes (N, 4), xyxy in pixels of the frame
      prototype            boxes (N, 4), scores (N, C), coefficients (N, k), prototypes (k, h, w),
                           semantic (C, h, w) if there is one
      semantic             semantic (C, h, w)

    \b
    The --out file holds
      class_map            uint8 (H, W), 255 unlabelled
      instance_map         uint16 (H, W), 0 where there is no instance
      confidence           uint8 (H, W)
      segment_*            id, class, score, area, box (S, 4) xyxy, centroid (S, 2) xy of the S segments

    The milliseconds are those of fusion alone, from outputs on the device to the frame on the host, without file I/O.
    """
    from perception_node.fuse import fuse as run
    from perception_node.fuse import parse_size

    size_hw, classes = parse_size(size), builtin_taxonomy(taxonomy)
    summary = run(outputs, family, classes, size_hw, out, open_device(device, threads), runs, options)
    if as_json:
        click.echo(json.dumps(summary))
        return
    click.echo(f"{family} {size}: {summary['segments']} segments, {summary['instances']} instances -> {out}")
    times = "  ".join(f"{name} {summary[f'{name}_ms']:.2f} ms" for name in ("median", "min", "max"))
    click.echo(f"  {runs} runs on {device}: {times}")


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    required=True,
    help="Folder that the configuration's images and labels are below.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for checkpoints and log."
)
@click.option("--start", type=click.Path(path_type=Path), help="Checkpoint of another training to start from.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(0), help="Processes that load frames.")
@_JSON
def train(config: Path, data: Path, out: Path, start: Path | None, workers: int, as_json: bool) -> None:
    """Train a network as CONFIG says, a YAML file such as training/camvid.yaml.

    \b
    perception train training/camvid.yaml --data DATA --out out/training
    perception export out/training/best.pt --data DATA --out engines/mine
    torchrun --nproc-per-node 4 -m perception_node.cli train CONFIG --data DATA --out OUT      on four GPUs

    \b
    Writes into the --out folder:
      checkpoint.pt   after every epoch; started again, training goes on from it
      best.pt         the weights with the best panoptic quality on the validation frames
      log.csv, .png   losses, PQ and mIoU of each epoch

    What CONFIG may hold is in perception_node/training/config.schema.yaml. It takes torch, and a GPU if there is one.
    """
    with _training():
        from perception_node.training.config import load_config
        from perception_node.training.train import train as run
    try:
        best = run(load_config(config), data, out, workers, start)
    except KeyboardInterrupt:
        click.echo(f"stopped; the same command goes on after the last whole epoch in {out}", err=True)
        sys.exit(130)
    click.echo(json.dumps(best) if as_json else "  ".join(f"{name} {value}" for name, value in best.items()))


@main.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Model folder to make.")
@click.option(
    "--data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="As for train: calibrate the confidence on the validation frames there.",
)
@click.option("--dynamic-batch", is_flag=True, help="The network takes images of several cameras at once.")
@_JSON
def export(checkpoint: Path, out: Path, data: Path | None, dynamic_batch: bool, as_json: bool) -> None:
    """Make a model folder of CHECKPOINT, the best.pt or checkpoint.pt of a training.

    With --data the confidence is calibrated: one temperature, fitted on the validation frames, goes into the network's
    last weights. No pixel's class changes by it.
    """
    with _training():
        from perception_node.training.export import export as run
    summary = run(checkpoint, out, data, dynamic_batch)
    click.echo(json.dumps(summary) if as_json else "  ".join(f"{name} {value}" for name, value in summary.items()))


@contextlib.contextmanager
def _training():
    """Around imports of perception_node.training, which alone needs torch."""
    try:
        yield
    except ImportError as error:
        raise UserError(
            f"training needs a package that is not installed ({error}); pip install 'perception_node[train]'"
        ) from error


@main.command()
@click.argument("model")
@click.option("--precision", default="fp32", show_default=True, help="fp32, fp16 (mixed), or int8 (after quantize).")
@click.option(
    "--target", "targets", multiple=True, metavar="sm_87", help="GPU architecture; repeatable. Default: the GPU here."
)
@click.option("--runtime", default="auto", show_default=True, help="Library: tensorrt, tensorrt_rtx, or auto.")
@click.option(
    "--max-batch", type=click.IntRange(1), default=1, show_default=True, help="Images of cameras inferred at once."
)
@click.option(
    "--workspace", type=click.FloatRange(0, min_open=True), metavar="GIB", help="Most memory a layer may use."
)
@click.option(
    "--timing-cache",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of kernel timings, read and added to: the next build on this GPU is faster.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with an int8 calibration's result. Default: int8/ in the model's folder.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the plans. Default: plans/ in the model's.",
)
@click.option("--force", is_flag=True, help="Build although the plan is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the plans' sidecars as JSON, and nothing else, to stdout.")
def build(
    model: str,
    precision: str,
    targets: tuple[str, ...],
    runtime: str,
    max_batch: int,
    workspace: float | None,
    timing_cache: Path | None,
    calibration: Path | None,
    out: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Build TensorRT plans of MODEL, a model folder or the name of one that comes with the package.

    \b
    perception build engines/mine --precision fp16                   for the GPU here
    perception build engines/mine --target sm_86 --target sm_120     with tensorrt_rtx, on any machine

    A plan is for one network, precision, GPU and version of the library; it lies in the model's folder, plans/, with a
    sidecar (JSON) that says which. One that is there already is left alone. Nothing is written before a build is
    complete: Ctrl-C is safe.
    """
    from perception_node.engine.build import build as run

    def say(line: str) -> None:
        click.echo(line, err=True)

    try:
        plans = run(
            load_model(model),
            precision,
            targets,
            runtime,
            workspace,
            timing_cache,
            calibration,
            out,
            force,
            say,
            max_batch,
        )
    except KeyboardInterrupt:
        say("stopped; nothing was left half-written")
        sys.exit(130)
    if as_json:
        click.echo(json.dumps([{"path": str(p.path), "new": p.new, **p.sidecar.as_dict()} for p in plans]))
        return
    for plan in plans:
        seconds = f"built in {plan.sidecar.build_seconds:.1f} s" if plan.new else "was there already, and is in order"
        click.echo(f"{plan.path}: {seconds}, {plan.sidecar.plan_bytes / 2**20:.1f} MiB")
        differences = plan.sidecar.differences.items()
        shown = ", ".join(f"{name} {'-' if value is None else format(value, '.2g')}" for name, value in differences)
        click.echo(f"  its network on a random image, largest difference to the model's: {shown}")


@main.command()
@click.argument("model")
@click.option(
    "--footage", type=click.Path(path_type=Path), help="A bag, a video or a folder of images. Default: the recipe's."
)
@click.option(
    "--recipe",
    type=click.Path(path_type=Path, dir_okay=False),
    help="YAML file that says how. Default: calibration/int8/MODEL.yaml, if one came with the package.",
)
@click.option("--frames", type=click.IntRange(1, 10000), help="Measure the ranges on so many frames.")
@click.option("--seed", type=click.IntRange(0), help="Of the choice of frames.")
@click.option("--method", type=click.Choice(["minmax", "percentile", "entropy"]), help="How ranges are found.")
@click.option(
    "--truth",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of labels to measure fp32 and int8 against: NAME.png, a class id per pixel.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder to write. Default: int8/ in the model's."
)
@_TOPIC
@_JSON
def quantize(
    model: str,
    footage: Path | None,
    recipe: Path | None,
    frames: int | None,
    seed: int | None,
    method: str | None,
    truth: Path | None,
    out: Path | None,
    topic: str | None,
    as_json: bool,
) -> None:
    """Make an int8 network of MODEL (INT8 calibration), for `build --precision int8`.

    \b
    perception quantize engines/mine --footage recording/ --topic /front/image_raw
    perception quantize engines/mine --footage val/images --truth val/labels --method entropy
    perception build engines/mine --precision int8

    Frames that cover the footage's scenes are chosen from it, and others held out: on these int8 and fp32 are compared,
    layer by layer too. Options go before what the recipe says. Nothing is written before all is done: Ctrl-C is safe.
    No GPU is needed; layers that are not quantized are float16.
    """
    from perception_node.quantization import quantize as run
    from perception_node.quantization.recipe import load_recipe
    from perception_node.quantization.report import describe

    loaded = load_model(model)
    chosen = load_recipe(loaded, recipe, footage=footage, topic=topic, frames=frames, seed=seed, method=method)
    if chosen.footage is None:
        raise UserError("--footage: neither given nor in the recipe; name a bag, a video or a folder of images")

    def say(line: str) -> None:
        click.echo(line, err=True)

    if chosen.path:
        say(f"recipe: {chosen.path}")
    try:
        result = run(loaded, open_source(chosen.footage, chosen.topic), chosen, out, truth, say=say)
    except KeyboardInterrupt:
        say("stopped; nothing was written")
        sys.exit(130)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(describe(result))
    click.echo(f"-> {out or loaded.folder / 'int8'}")


@main.command()
@click.argument("model")
@click.option("--precision", required=True, help="fp16 (mixed), int8 (after quantize), or fp32.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Model folder to make.")
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder with an int8 calibration's result. Default: int8/ in the model's folder.",
)
@_JSON
def convert(model: str, precision: str, out: Path, calibration: Path | None, as_json: bool) -> None:
    """Make a model folder of MODEL's network in another precision, as ONNX.

    \b
    perception convert engines/mine --precision fp16 --out engines/mine_fp16
    perception quantize engines/mine --footage drive.mp4
    perception convert engines/mine --precision int8 --out engines/mine_int8

    It is the network that `build` builds from. On a GPU `build --precision` does all of it.
    """
    from perception_node.engine.convert import convert as run

    differences = run(load_model(model), precision, out, calibration, lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(json.dumps({"out": str(out), "differences": differences}))
        return
    shown = ", ".join(f"{name} {'-' if value is None else format(value, '.2g')}" for name, value in differences.items())
    click.echo(f"-> {out}; on a random image, largest difference to {model}: {shown}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@_JSON
def inspect(file: Path, as_json: bool) -> None:
    """Show what FILE is made of, and whether it would load here.

    FILE is an ONNX file, a model folder (or the name of a model that comes with the package), or a TensorRT plan
    (.plan, .engine) with its sidecar beside it. Of a network: inputs and outputs, operators, parameters, work in
    multiply-accumulates, memory, precisions; with --json every layer. It needs the onnx package.
    """
    from perception_node.inspection import describe, inspect_file

    found = inspect_file(file)
    click.echo(json.dumps(found) if as_json else describe(found))


@main.command()
@click.argument("model", default=DEFAULT_MODEL)
@click.argument("input", type=click.Path(path_type=Path), required=False)
@_computing
@click.option("--frames", default=100, show_default=True, help="How many are timed.")
@click.option("--warmup", default=5, show_default=True, help="How many are run before, and not timed.")
@click.option("--size", metavar="HxW", help="Of made-up frames; without it the model's input size.")
@click.option("--against", metavar="ENGINE", help="Run another engine on the same frames and compare.")
@click.option("--in-flight", default=2, show_default=True, type=click.IntRange(1, 2), help="The most frames at a time.")
@_TOPIC
@_JSON
def bench(
    model: str,
    input: Path | None,
    computing: dict[str, Any],
    frames: int,
    warmup: int,
    size: str | None,
    against: str | None,
    in_flight: int,
    topic: str | None,
    as_json: bool,
) -> None:
    """Measure MODEL on this machine: stage times, throughput, memory.

    
    perception bench camvid_lite0 drive.mp4
    perception bench engines/mine --size 1080x1920 --engine openvino --against onnxruntime

    Frames come from INPUT (an image, a folder of images, a video or a bag), the first few over and over; without it
    they are made up. A frame goes through all that the node does with it but DDS: preprocess, network, fusion,
    drivable, messages. Another engine takes turns with the first, frame by frame, so that other load on the machine
    falls on both; trust the ratios more than the times.
    """
    from perception_node.bench import bench as run
    from perception_node.bench import describe, take_frames
    from perception_node.fuse import parse_size

    loaded = load_model(model)
    if input and size:
        raise UserError(f"size {size!r}: only made-up frames have one; leave out --size or {input}")
    footage = take_frames(open_source(input, topic)) if input else None
    result = run(
        loaded,
        footage,
        **computing,
        frames=frames,
        warmup=warmup,
        size_hw=parse_size(size) if size else None,
        against=against,
        in_flight=in_flight,
    )
    click.echo(json.dumps(result) if as_json else describe(result))


@main.command("import")
@click.argument("network", metavar="NETWORK.onnx", type=click.Path(path_type=Path))
@click.option("--family", required=True, help=f"Kind of outputs: {', '.join(FAMILIES)}.")
@click.option(
    "--taxonomy",
    required=True,
    help="The classes it was trained with, in its order: cityscapes, camvid, coco, or a YAML file with `classes`.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Model folder to make.")
@click.option("--size", metavar="HxW", help="Height and width of the input, where the graph leaves them open.")
@click.option("--mean", metavar="M,M,M", help="Subtracted from each channel's 0..255 values.")
@click.option("--std", metavar="S,S,S", help="What each channel is then divided by, in 0..255 units.")
@click.option("--color", type=click.Choice(["rgb", "bgr"]), default="rgb", show_default=True, help="Channels' order.")
@click.option(
    "--resize",
    type=click.Choice(["letterbox", "stretch"]),
    default="letterbox",
    show_default=True,
    help="How images of another shape are fitted: keeping proportions, or not.",
)
@click.option("--tensor", "tensors", multiple=True, metavar="ROLE=NAME", help="Which output is which; repeatable.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Option of the family; repeatable.")
@click.option("--force", is_flag=True, help="Replace the --out folder if it is a model folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON, and nothing else, to stdout.")
def import_(
    network: Path,
    family: str,
    taxonomy: str,
    out: Path,
    size: str | None,
    mean: str | None,
    std: str | None,
    color: str,
    resize: str,
    tensors: tuple[str, ...],
    options: tuple[str, ...],
    force: bool,
    as_json: bool,
) -> None:
    """Make a model folder of an ONNX network that was made elsewhere.

    \b
    perception import yolo11n-seg.onnx --family prototype --taxonomy coco --out engines/yolo11n
    perception import pidnet.onnx --family semantic --taxonomy cityscapes --size 512x1024 --out engines/pidnet \\
        --mean 123.675,116.28,103.53 --std 58.395,57.12,57.375

    Which output is which is found from shapes, types and names; what was found is printed. The folder is there only
    when its network was loaded and a frame went through it. An argmax or softmax at the end is taken off, and weights
    in files beside NETWORK.onnx are taken in.

    \b
    ROLE is a tensor of the family:
      center_offset        semantic, center, offset, perhaps foreground
      mask_classification  class_logits, mask_logits
      instance_semantic    semantic, classes, scores, boxes and masks28, or masks
      prototype            boxes, scores, coefficients, prototypes, perhaps semantic; or Ultralytics' two outputs
      semantic             semantic
    """
    from perception_node.fuse import parse_size
    from perception_node.importing import Normalisation, import_network

    if (mean is None) != (std is None):
        raise UserError("mean and std: expected: both --mean and --std, or neither")
    imported = import_network(
        network,
        family,
        read_taxonomy(taxonomy),
        out,
        size_hw=parse_size(size) if size else None,
        normalisation=Normalisation(_triple("mean", mean), _triple("std", std)) if mean and std else None,
        color=color,
        resize=resize,
        tensors=dict(_pair("tensor", text) for text in tensors),
        options=options,
        force=force,
    )
    if as_json:
        summary = {"folder": str(out), "notes": dict(imported.notes), "stages_ms": dict(imported.milliseconds)}
        click.echo(json.dumps(summary))
        return
    for name, note in imported.notes.items():
        click.echo(f"  {name:<14}{note}")
    click.echo("  a frame       " + "  ".join(f"{stage} {ms:.2f} ms" for stage, ms in imported.milliseconds.items()))
    click.echo(f"{network.name} -> {out}")


@main.group()
def calibrate() -> None:
    """Find out where a camera is on the vehicle."""


@calibrate.command()
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--camera", type=click.Path(path_type=Path), help="ROS's camera YAML. Default: the camera_info of a bag.")
@click.option("--rectified", is_flag=True, help="The images are rectified.")
@click.option("--frame", default=0, show_default=True, type=click.IntRange(0), help="Which image was measured in.")
@click.option("--points", type=click.Path(path_type=Path), help="Points on the ground: CSV or YAML, see below.")
@click.option("--point", "single_points", multiple=True, metavar="U,V,X,Y", help="A point on the ground; repeatable.")
@click.option("--lines", type=click.Path(path_type=Path), help="Lines along the vehicle: CSV or YAML, see below.")
@click.option("--line", "single_lines", multiple=True, metavar="U,V,U,V", help="Two points or more of one; repeatable.")
@click.option("--lane-width", type=float, metavar="M", help="From each line to the next.")
@click.option("--height", type=float, metavar="M", help="Of the camera above the ground, if it is known.")
@click.option("--pitch", type=float, metavar="DEG", help="If it is known; positive: looks down.")
@click.option("--roll", type=float, metavar="DEG", help="If it is known; positive: leans to the right.")
@click.option("--yaw", type=float, metavar="DEG", help="If it is known; positive: looks to the left.")
@click.option("--x", type=float, metavar="M", help="How far the camera is ahead of the base frame, if it is known.")
@click.option("--y", type=float, metavar="M", help="How far it is to the left, if it is known.")
@click.option("--facing", default=0.0, metavar="DEG", help="With lines: roughly where it looks; 90: left, 180: back.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="YAML file to write; beside it a picture.")
@_TOPIC
@_JSON
def ground(
    input: Path,
    camera: Path | None,
    rectified: bool,
    frame: int,
    points: Path | None,
    single_points: tuple[str, ...],
    lines: Path | None,
    single_lines: tuple[str, ...],
    lane_width: float | None,
    facing: float,
    out: Path,
    topic: str | None,
    as_json: bool,
    **pose: float | None,
) -> None:
    """Find a camera's height, pitch, roll and yaw above the ground that INPUT shows.

    INPUT is an image, a folder of images, a video or a bag. What is measured in it is either

    \b
    points on the ground whose place is known, x metres ahead of the base frame and y to its left:
      perception calibrate ground car.jpg --camera camera.yaml --points points.csv --out mounting.yaml
      points.csv: a first line u,v,x,y, then a point a line; points.yaml: points: [[u, v, x, y], ...]
    or lines that are straight and along the vehicle:
      perception calibrate ground road.mp4 --camera camera.yaml --lane-width 3.5 --out mounting.yaml \\
          --line 120,531,402,330 --line 840,531,560,330
      lines.csv: a first line line,u,v, then a point a line; lines.yaml: lines: [[[u, v], [u, v], ...], ...]

    Points show height, pitch, roll, yaw, x and y; each that you give, with --x 1.2, need not be found. Lines show pitch
    and yaw; the height, if the lane width is given; the roll, if there are three lines or more, or else 0 is assumed.
    What cannot be found is said, and nothing is written.
    """
    from perception_node.ground_calibration.command import as_dict, calibrate_ground, describe
    from perception_node.ground_calibration.inputs import numbers_of, read_lines, read_points

    all_points = [read_points(points)] if points else []
    all_points += [numbers_of("point", text, "u,v,x,y", 4)[None] for text in single_points]
    all_lines = read_lines(lines) if lines else []
    all_lines += [numbers_of("line", text, "u,v,u,v", 4, more=True).reshape(-1, 2) for text in single_lines]
    known = {
        name: math.radians(value) if name in ("pitch", "roll", "yaw") else value
        for name, value in pose.items()
        if value is not None
    }
    result, picture = calibrate_ground(
        open_source(input, topic),
        frame,
        camera,
        rectified,
        np.concatenate(all_points) if all_points else None,
        all_lines,
        lane_width,
        known,
        math.radians(facing),
        out,
    )
    if as_json:
        click.echo(json.dumps(as_dict(result)))
        return
    click.echo("\n".join(describe(result)))
    click.echo(f"-> {out}, {picture}")


def _triple(name: str, text: str) -> tuple[float, float, float]:
    try:
        first, second, third = map(float, text.split(","))
    except ValueError:
        raise UserError(f"{name} {text!r}: expected: three numbers in 0..255 units, e.g. 123.7,116.3,103.5") from None
    return first, second, third


def _pair(option: str, text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{option} {text!r}: expected: ROLE=NAME, e.g. semantic=logits")
    return name, value


def _report(summary: dict[str, Any], out: Path | None, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary))
        return
    click.echo(f"{summary['frames']} frames, {summary['instances']} instances" + (f" -> {out}" if out else ""))
    for stage, times in summary["stages_ms"].items():
        click.echo(f"  {stage:<12}" + "  ".join(f"{name} {value:7.2f} ms" for name, value in times.items()))
    if metrics := summary.get("metrics"):
        from perception_node.evaluate.report import describe_measures

        click.echo("\n" + describe_measures(metrics))


if __name__ == "__main__":
    sys.exit(main())
