"""The server of the view, and its page in a browser, where there is one."""

import gzip
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest

pytest.importorskip("rerun", reason="rerun-sdk is not installed: make setup-view")

import cv2
from street import CAMVID, CAR, MAGENTA_BGR, ROAD, street_messages, times, write_mounting

from perception_node.bags import BagWriter, typestore
from perception_node.errors import UserError
from perception_node.messages import MessageFactory
from perception_node.view.command import _until_interrupted
from perception_node.view.entities import _PLOT_RGB
from perception_node.view.serve import Address, server
from perception_node.visualize import instance_color_bgr

SOFTWARE_WEBGL = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
PATIENCE_S = 300
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def free_address(memory: str = "100MB") -> Address:
    """With a port, and one after it, that nobody listens on."""
    while True:
        with socket.socket() as one, socket.socket() as next_one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                next_one.bind(("127.0.0.1", port + 1))
                return Address(port=port, memory=memory)
            except (OSError, OverflowError):
                continue


@pytest.fixture
def bag(tmp_path: Path) -> Path:
    """Of five frames, with the times that they took."""
    path, make, messages = tmp_path / "bag", MessageFactory.rosbags(typestore()), []
    for item in street_messages(5, make):
        messages.append(item)
        if item[0] == "/perception_node/free_space":  # a frame's last
            index = sum(topic == "/diagnostics" for topic, _, _ in messages)
            messages.append(times(index, make, network=20 + index % 2))
    with BagWriter(path) as writer:
        for index, (topic, type_, message) in enumerate(messages):
            writer.write(topic, type_, index, typestore().serialize_cdr(message, type_))
    return path


def start_view(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "perception_node.cli", "view", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_port_that_is_taken_is_said_with_the_remedy():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"127.0.0.1:{port}: .*--port"), server(Address(port=port)):
            pass


def test_what_rerun_does_not_take_is_said_in_its_words():
    with pytest.raises(UserError, match="much"), server(free_address(memory="much")):
        pass


def test_the_page_may_load_nothing_from_elsewhere():
    with server(free_address()) as page, urlopen(page.url) as answer:
        policy = answer.headers["Content-Security-Policy"]
        assert "re_viewer.js" in answer.read().decode()
    assert "default-src 'self'" in policy
    assert "https:" not in policy
    with pytest.raises(OSError, match="refused"):
        urlopen(page.url)


def test_the_viewers_files_are_sent_compressed_and_once():
    with server(free_address()) as page:
        url = page.url.partition("?")[0] + "re_viewer_bg.wasm"
        with urlopen(Request(url, headers={"Accept-Encoding": "gzip"})) as answer:
            packed, tag = answer.read(), answer.headers["ETag"]
            assert answer.headers["Content-Encoding"] == "gzip"
        with urlopen(url) as answer:
            whole = answer.read()
        assert whole == gzip.decompress(packed)
        assert whole[:4] == b"\0asm"
        assert len(packed) < len(whole) / 2
        with pytest.raises(HTTPError, match="304"):
            urlopen(Request(url, headers={"If-None-Match": tag}))
        with pytest.raises(HTTPError, match="404"):
            urlopen(page.url.partition("?")[0] + "nothing")


def test_a_server_that_is_killed_is_said():
    with server(free_address()) as page:
        page.check()
        os.kill(page._server.pid, signal.SIGKILL)
        with pytest.raises(UserError, match="rerun's server ended with status -9"):
            page.wait()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_when_all_was_shown_the_page_stays_until_it_is_interrupted(bag: Path, how):
    address = free_address()
    process = start_view(bag, "--port", address.port)
    said = iter(process.stdout.readline, "")
    assert f"open http://127.0.0.1:{address.port}/" in next(said)
    assert next(said) == "Ctrl-C ends\n"
    assert next(said) == "that was all; the page stays until Ctrl-C\n"
    assert urlopen(f"http://127.0.0.1:{address.port}/").status == 200
    process.send_signal(how)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "interrupted" in errors
    assert "Traceback" not in errors
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", address.port + 1))


def test_an_interrupt_that_gets_lost_where_it_came_is_not_forgotten():
    with _until_interrupted() as check:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        check()
        pytest.fail("it went on")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt install chromium")
def test_a_browser_shows_camera_classes_tracks_grid_and_times_where_they_are(bag: Path, tmp_path: Path):
    """Slow where a processor draws: it waits for what it looks for, as long as that may take."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup-view")
    rrd, seen = tmp_path / "t.rrd", tmp_path / "seen.png"
    process = start_view(bag, "--save", rrd, "--mounting", write_mounting(tmp_path))
    _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    elsewhere = []
    with server(free_address(), rrd) as served, playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=SOFTWARE_WEBGL)
        page = browser.new_page(viewport={"width": 800, "height": 500})
        page.on("requestfinished", lambda request: elsewhere.append(request.url))
        page.goto(served.url, timeout=PATIENCE_S * 1000)
        end = time.monotonic() + PATIENCE_S
        while True:
            page.screenshot(path=seen, timeout=PATIENCE_S * 1000)
            wrong = wrong_in(cv2.imread(str(seen)))
            if not wrong or time.monotonic() > end:
                break
            page.wait_for_timeout(1000)
        browser.close()
    assert wrong == ""
    assert [url for url in elsewhere if "//127.0.0.1:" not in url and not url.startswith(("data:", "blob:"))] == []


def wrong_in(bgr: np.ndarray) -> str:
    """What of the last frame of street_messages(5) is not where it should be in a picture of the page."""
    magenta, white = MAGENTA_BGR[::-1], (255, 255, 255)
    colors = {
        "image": magenta,
        "road": mixed(CAMVID[ROAD].color, magenta, 0.5),
        "car": mixed(CAMVID[CAR].color, magenta, 0.5),
        "free cell": mixed((60, 200, 90), white, 0.7),
        "occupied cell": mixed((200, 70, 60), white, 0.7),
        "track": instance_color_bgr(7)[::-1],
        "times": _PLOT_RGB[0],
    }
    masks = {name: np.abs(bgr[..., ::-1].astype(float) - color).max(2) < 10 for name, color in colors.items()}
    if missing := [name for name, mask in masks.items() if mask.sum() < 30]:
        return f"no {', '.join(missing)}"
    boxes = {name: np.array(cv2.boundingRect(mask.view(np.uint8))) for name, mask in masks.items()}
    left, top, width, height = boxes["road"]
    scale = width / 64
    if abs(height - 24 * scale) > scale:
        return f"the road is {width}x{height} pixels; expected: the lower half of an image of 64x48"
    if not masks["image"][round(top - 12 * scale), round(left + 8 * scale)]:
        return "no image without a class above the road"
    expected = np.array([left + 24 * scale, top - 4 * scale, 16 * scale, 10 * scale])
    if np.abs(boxes["car"] - expected).max() > 2 * scale:  # its outline is drawn over its edge
        return f"the car is at {boxes['car']}; expected: {expected.round()}"
    # In the car, apart from its outline: the way that its middle came, and the arrow for the next half second.
    corner_x, corner_y = round(left + 26 * scale), round(top - 2 * scale)
    inside = masks["track"][corner_y : round(top + 4 * scale), corner_x : round(left + 39 * scale)]
    x, y, width, height = cv2.boundingRect(inside.view(np.uint8))
    begin, end = (corner_x + np.array([x, x + width]) - left) / scale
    middle = 24 + (corner_y + y + height / 2 - top) / scale
    if abs(begin - 28) > 1 or abs(end - 37) > 1 or abs(middle - 25) > 0.3:
        return f"the track goes from {begin:.1f} to {end:.1f} at {middle:.2f}; expected: from 28 to 37 at 25"
    (x, y, *_), (free_x, free_y, *_) = boxes["occupied cell"], boxes["free cell"]
    if abs(x - free_x) > 20 or free_y <= y:
        return "the free cell is not nearer than the occupied one"
    _, _, width, height = cv2.boundingRect(masks["times"][free_y:, round(left + 64 * scale) :].view(np.uint8))
    if width < 100 or height < 50:
        return f"no line of times up and down below the grid: {width}x{height} pixels"
    return ""


def mixed(color: tuple[int, int, int], under: tuple[int, int, int], opacity: float) -> np.ndarray:
    """One colour over another, as the viewer mixes them (sRGB): it is the light that is mixed."""
    above, below = ((np.array(each) / 255) ** 2.2 for each in (color, under))
    return 255 * (opacity * above + (1 - opacity) * below) ** (1 / 2.2)
