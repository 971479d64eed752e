"""What this machine is, by the names that plans and cards record. No torch is imported here."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("tunesmith", "torch", "transformers", "peft", "tokenizers")
GPUS = Path("/proc/driver/nvidia/gpus")


def versions() -> dict[str, str]:
    """Of Python and of the libraries that results depend on."""
    return {"python": platform.python_version(), **{name: version_of(name) for name in LIBRARIES}}


def version_of(library: str) -> str:
    """Of a library; `none` where it is not installed, as tunesmith where it runs from its sources."""
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"


def processor() -> str:
    """The kind of processor, and how many there are."""
    return f"{platform.machine()}, {os.cpu_count()} cores"


def gpu(folder: Path = GPUS) -> str | None:
    """The first NVIDIA GPU as its driver names it, which takes no seconds of importing; None where there is none."""
    for path in sorted(folder.glob("*/information")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "Model" and value.strip():
                return value.strip()
    return None
