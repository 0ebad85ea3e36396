"""The picture in docs/view.md: a recording of `perception view --save`, in headless Chromium.

perception view street:7,frames=12 --save out/street.rrd
python tools/screenshot_view.py out/street.rrd docs/view.jpg --seconds 50
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import cv2
from playwright.sync_api import sync_playwright

from perception_node.view.serve import Address, server

SOFTWARE_WEBGL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


@click.command()
@click.argument("rrd", type=click.Path(path_type=Path, exists=True))
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--seconds", default=60, help="Until the picture is taken: a processor draws slowly.")
@click.option("--port", default=9190)
def main(rrd: Path, picture: Path, seconds: int, port: int) -> None:
    """Write PICTURE of RRD, 1200x760."""
    with (
        server(Address(port=port), rrd) as served,
        sync_playwright() as driver,
        TemporaryDirectory() as part,
    ):
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=SOFTWARE_WEBGL)
        page = browser.new_page(viewport={"width": 1200, "height": 760})
        page.goto(served.url, timeout=120_000)
        page.wait_for_timeout(seconds * 1000)
        png = Path(part) / "page.png"
        page.screenshot(path=png, timeout=120_000)
        browser.close()
        cv2.imwrite(str(picture), cv2.imread(str(png)), (cv2.IMWRITE_JPEG_QUALITY, 80))


if __name__ == "__main__":
    main()
