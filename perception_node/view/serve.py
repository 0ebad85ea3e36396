"""Serves a recording to a browser: rerun's server keeps what was logged and has the viewer's files.

The viewer asks other hosts for a font, and tells its makers how it is used. So its page goes through this process,
whose Content-Security-Policy has the browser refuse all that does not come from here: nothing leaves, with internet or
without.
"""

import gzip
import hashlib
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from urllib.parse import quote

from perception_node.errors import UserError
from perception_node.paths import cache_folder

_STARTS_WITHIN_S = 60.0
_FAST = 1
"""Level of compression; the best takes three times as long and saves another tenth."""
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Address:
    """Where a browser finds the view.

    Attributes:
        host: the address to listen on; 127.0.0.1 is for this machine alone. Nobody is asked for a password.
        port: of the page; the next one is that of the data.
        memory: how much is kept, e.g. "2GB"; what is older goes.
    """

    host: str = "127.0.0.1"
    port: int = 9090
    memory: str = "2GB"


@dataclass(frozen=True)
class Page:
    """A view that is served.

    Attributes:
        url: for a browser.
        data_url: for RecordingStream.connect_grpc.
    """

    url: str
    data_url: str
    _server: subprocess.Popen

    def check(self) -> None:
        """Raises UserError if rerun's server has ended."""
        if self._server.poll() is not None:
            raise UserError(f"rerun's server ended with status {self._server.returncode}; less --memory may help")

    def wait(self) -> None:
        """Until it ends, which it does not by itself. Raises UserError if it does."""
        self._server.wait()
        self.check()


@contextmanager
def server(address: Address, rrd: Path | None = None) -> Iterator[Page]:
    """Runs until the context is left.

    Args:
        address: where.
        rrd: a recording to show from the start.

    Raises:
        UserError: a port is taken, or rerun's server does not start.
    """
    host, port = address.host, address.port
    for number in (port, port + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, number))
            except OSError as error:
                raise UserError(f"{host}:{number}: {error.strerror or error}; take other ports with --port") from error
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        files_port = probe.getsockname()[1]
    command = [_program(), *([str(rrd)] if rrd else []), "--serve-web", "--bind", host, "--port", str(port + 1)]
    command += ["--web-viewer-port", str(files_port), "--server-memory-limit", address.memory]
    command += ["--cors-allow-origin", f"http://*:{port}"]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(_config_folder())}
    # In a session of its own: Ctrl-C is for us, who end it.
    child = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        reachable = _LOOPBACK if host in ("0.0.0.0", "") else host
        files = f"http://{reachable}:{files_port}"
        _wait_for(child, [(reachable, port + 1), (reachable, files_port)])
        Thread(target=child.stdout.read, daemon=True).start()  # or it would stand still when the pipe is full
        name = socket.gethostname() if host in ("0.0.0.0", "") else host
        page = f"/?url={quote(f'rerun+http://{name}:{port + 1}/proxy', safe='')}&hide_welcome_screen"
        with ThreadingHTTPServer((host, port), _handler(files, page, port + 1)) as pages:
            Thread(target=pages.serve_forever, daemon=True).start()
            try:
                yield Page(f"http://{name}:{port}{page}", f"rerun+http://{reachable}:{port + 1}/proxy", child)
            finally:
                pages.shutdown()
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _program() -> str:
    spec = find_spec("rerun_cli")
    program = Path(spec.origin).with_name("rerun") if spec and spec.origin else None
    if program is None or not program.is_file():
        raise UserError("rerun's server is not installed: pip install 'perception_node[view]', or make setup-view")
    return str(program)


def _config_folder() -> Path:
    """Where rerun's server finds that it is not to tell of its use."""
    folder = cache_folder() / "rerun_config"
    if not (folder / "rerun" / "analytics.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "XDG_CONFIG_HOME": str(folder)}
        subprocess.run([_program(), "analytics", "disable"], env=environment, capture_output=True, check=True)
    return folder


def _wait_for(child: subprocess.Popen, addresses: list[tuple[str, int]]) -> None:
    end = time.monotonic() + _STARTS_WITHIN_S
    for address in addresses:
        while True:
            try:
                socket.create_connection(address, timeout=1).close()
                break
            except OSError:
                if child.poll() is not None:
                    lines = child.stdout.read().strip().splitlines()
                    raise UserError(f"rerun's server ended: {lines[-1] if lines else child.returncode}") from None
                if time.monotonic() > end:
                    raise UserError(f"rerun's server does not answer after {_STARTS_WITHIN_S:.0f} s") from None
                time.sleep(0.1)


def _handler(files: str, page: str, data_port: int) -> type[BaseHTTPRequestHandler]:
    """Hands on the viewer's files, compressed (they are 43 MB, much for a radio link), and the page under its whole
    address."""
    here = "'self' 'unsafe-inline' 'wasm-unsafe-eval' data: blob:"
    policy = f"default-src {here}; connect-src 'self' http://*:{data_port} data: blob:"

    @cache
    def file(path: str) -> tuple[str, bytes, str]:
        with urllib.request.urlopen(f"{files}/{path}", timeout=30) as answer:
            body, kind = gzip.compress(answer.read(), _FAST), answer.headers.get("Content-Type", "")
        return kind, body, f'"{hashlib.sha256(body).hexdigest()[:16]}"'

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/":
                self._answer(302, Location=page)
                return
            try:
                kind, body, tag = file(self.path.partition("?")[0].lstrip("/"))
            except urllib.error.URLError:
                self.send_error(404)
                return
            headers = {"ETag": tag, "Cache-Control": "no-cache", "Content-Security-Policy": policy}
            if self.headers.get("If-None-Match") == tag:
                self._answer(304, **headers)
                return
            if "gzip" in self.headers.get("Accept-Encoding", ""):
                headers["Content-Encoding"] = "gzip"
            else:
                body = gzip.decompress(body)
            self._answer(200, body, **{"Content-Type": kind, "Content-Length": str(len(body))}, **headers)

        def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
            with suppress(ConnectionError):  # a browser may be closed at any time
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
