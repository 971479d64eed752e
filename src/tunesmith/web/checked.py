"""What `check` found in files: looked at once for each content and base, in a process of its own, and kept.

A file that ends that process takes nothing else along. One is looked at at a time: the machine has other work.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from tunesmith.core.errors import TunesmithError
from tunesmith.core.files import make_folder, read_json, write_json
from tunesmith.store.stores import Stores

log = logging.getLogger("tunesmith.web")
COMMAND = [sys.executable, "-m", "tunesmith.web.look"]
SECONDS = 600.0  # that one look may take
WAITING = 100  # files that may wait for theirs
NAME = 100  # characters of a file's name on the disk


class Checks:
    """Looks, done and waiting; safe from any thread."""

    def __init__(self, stores: Stores, folder: Path) -> None:
        """Nothing is looked at yet.

        Args:
            stores: where the contents of files are.
            folder: for what was found; it can be made again.
        """
        self._stores, self._folder = stores, folder
        self._lock, self._wanted = threading.Lock(), dict[Path, tuple[str, str, str]]()
        self._busy = False

    def found(self, sha256: str, name: str, base: str) -> dict[str, Any] | None:
        """What was found; None while nobody has looked, which is then done soon.

        Args:
            sha256: of the file's content.
            name: of the file; its ending tells the format.
            base: whose tokenizer and template the rows must fit.
        """
        identity = hashlib.sha256(f"{name} {base}".encode()).hexdigest()[:16]
        place = self._folder / f"{sha256}-{identity}.json"
        if place.exists():
            return read_json(place)
        with self._lock:
            if len(self._wanted) < WAITING:
                self._wanted.setdefault(place, (sha256, name, base))
                if not self._busy:
                    self._busy = True
                    threading.Thread(target=self._work, name="checks", daemon=True).start()
        return None

    def _work(self) -> None:
        """Look at all that is wanted, the first first."""
        while True:
            with self._lock:
                if not self._wanted:
                    self._busy = False
                    return
                place, wanted = next(iter(self._wanted.items()))
            try:
                make_folder(self._folder, "what was found in files")
                write_json(place, self._look(*wanted))
            except (TunesmithError, OSError) as error:  # whoever asks next has it tried again
                log.warning("a file could not be looked at: %s", error)
            finally:
                with self._lock:
                    del self._wanted[place]

    def _look(self, sha256: str, name: str, base: str) -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="tunesmith-check-") as folder:
            file = Path(folder) / (name.replace("/", "_")[-NAME:].lstrip(".-") or "file")
            with file.open("wb") as stream:
                for piece in self._stores.blobs.read(sha256):
                    stream.write(piece)
            try:
                done = subprocess.run(
                    [*COMMAND, file.name, base],
                    cwd=folder,
                    capture_output=True,
                    text=True,
                    check=False,
                    timeout=SECONDS,
                )
            except subprocess.TimeoutExpired:
                return {"error": f"Looking at it took more than {SECONDS:.0f} s."}
        try:
            return json.loads(done.stdout.splitlines()[-1])
        except (IndexError, json.JSONDecodeError):
            return {"error": f"The process that looked at it ended with code {done.returncode}."}
