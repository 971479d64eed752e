"""What `tunesmith serve` starts beside the app: a socket to listen on, and workers in processes of their own."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from types import FrameType

import typer
import uvicorn

from tunesmith.core.errors import ConfigError

WORKER = [sys.executable, "-c", "from tunesmith.cli.main import run; run()", "worker", "--with-parent"]
LOOK = 5.0  # seconds between two looks at whether they live


def bound(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 takes a free one.

    Raises:
        ConfigError: it is taken, or is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio lets small packets wait without it
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
    except OSError as error:
        made.close()
        reason = error.strerror or error
        raise ConfigError(
            f"--host {host} --port {port}: cannot listen there ({reason}). Take another --port."
        ) from None
    return made


class Draining(uvicorn.Server):
    """Lets who is being answered hear the end, and sends away who only watches."""

    def __init__(self, ending: threading.Event, config: uvicorn.Config) -> None:
        """`ending` is set as soon as a signal comes."""
        super().__init__(config)
        self._ending = ending

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal has come: to end then is no failure. A second Ctrl-C waits for nobody."""
        self._ending.set()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


@contextlib.contextmanager
def workers_beside(count: int, where: tuple[str, str]) -> Generator[None]:
    """Workers in processes of their own: started again when they die, ended when this process ends, however it does."""
    given = {**os.environ, "TUNESMITH_RECORDS": where[0], "TUNESMITH_BLOBS": where[1]}  # a list of processes shows none

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(WORKER, stdin=subprocess.PIPE, env=given)

    started, over = [start() for _ in range(count)], threading.Event()

    def watch() -> None:
        while not over.wait(LOOK):
            for number, process in enumerate(started):
                if process.poll() is not None:
                    typer.echo(f"a worker ended with code {process.returncode}; another is started", err=True)
                    started[number] = start()

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()
        for process in started:
            process.terminate()
        for process in started:
            process.wait()
