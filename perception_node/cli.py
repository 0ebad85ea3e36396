"""`perception VERB`: the pipeline without ROS."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from perception_node.engine import DEVICES
from perception_node.errors import UserError
from perception_node.model import DEFAULT_MODEL, load_model
from perception_node.pipeline import Pipeline
from perception_node.sources import open_source


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
    perception replay recording/ --out out/replayed

    The ROS 2 node is a command of its own: perception_node.
    """


def _common(command):
    """Options that every verb has."""
    for option in reversed(
        [
            click.option(
                "--model",
                default=DEFAULT_MODEL,
                show_default=True,
                help="Model folder (with model.yaml), or the name of one that comes with the package.",
            ),
            click.option("--device", default="cpu", show_default=True, help=f"What computes: {', '.join(DEVICES)}."),
            click.option(
                "--threads", default=0, show_default=True, help="CPU threads of the network; 0 takes all cores."
            ),
            click.option("--topic", help="Image topic of a bag that has several."),
            click.option(
                "--json", "as_json", is_flag=True, help="Print the summary as JSON, and nothing else, to stdout."
            ),
        ]
    ):
        command = option(command)
    return command


@main.command()
@click.argument("input", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the results.")
@click.option(
    "--truth",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder of labels to measure against: NAME.png, a class id per pixel.",
)
@_common
def segment(
    input: Path, out: Path, truth: Path | None, model: str, device: str, threads: int, topic: str | None, as_json: bool
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
    _report(run(Pipeline(load_model(model), device, threads), source, out, truth), out, as_json)


@main.command()
@click.argument("bag", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Bag to write; an old bag is replaced.")
@click.option("--overlay", is_flag=True, help="Write the overlay images too; they are as large as the input.")
@_common
def replay(
    bag: Path, out: Path, overlay: bool, model: str, device: str, threads: int, topic: str | None, as_json: bool
) -> None:
    """Run the pipeline over every image of BAG and write a bag of results.

    BAG is a rosbag2, mcap or sqlite3 (a video or a folder of images will do as well). The results are what the node
    would publish: /perception_node/class_map, instance_map, confidence, instances, drivable_area and label_info, with
    the headers of the images. An image that cannot be used is reported, counted and left out.
    """
    from perception_node.replay import replay as run

    source = open_source(bag, topic)
    _report(run(Pipeline(load_model(model), device, threads), source, out, overlay), out, as_json)


def _report(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(summary))
        return
    click.echo(f"{summary['frames']} frames, {summary['instances']} instances -> {out}")
    for stage, times in summary["stages_ms"].items():
        click.echo(f"  {stage:<12}" + "  ".join(f"{name} {value:7.2f} ms" for name, value in times.items()))
    if metrics := summary.get("metrics"):
        percent = {name: value for name, value in metrics.items() if isinstance(value, float)}
        click.echo("  " + "  ".join(f"{name} {value:.4f}" for name, value in percent.items()))
        for name, values in metrics["classes"].items():
            shown = "  ".join(f"{k} {v:.4f}" if v is not None else f"{k}      -" for k, v in values.items())
            click.echo(f"    {name:<12}{shown}")


if __name__ == "__main__":
    sys.exit(main())
