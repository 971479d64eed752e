"""What is computed in bf16 in C++ of our own (`cpp/`), which g++ compiles here, once.

Where there is no g++, or the processor has other units for bf16 than AVX-512's, torch and its libraries do the same,
slower: oneDNN's product of few rows reads weights and computes in turn, and attention goes through memory.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from tunesmith.core.files import home

SOURCES = sorted(path for path in (Path(__file__).parent / "cpp").iterdir() if path.suffix in (".h", ".cpp"))
FLAGS = ("-O3", "-std=c++17", "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512bf16", "-fopenmp", "-shared", "-fPIC")
SECONDS = 60  # that compiling may take
POINTER, NUMBER, REAL, WORD = ctypes.c_void_p, ctypes.c_long, ctypes.c_float, ctypes.c_uint32
TAKES = {  # of each function; all return 0, or 1 where there is no memory
    "product": [*[POINTER] * 3, *[NUMBER] * 4],
    "attention": [*[POINTER] * 5, *[NUMBER] * 11, REAL, NUMBER],
    "step": [POINTER, POINTER, NUMBER],
    "dropout": [POINTER, POINTER, NUMBER, NUMBER, REAL, WORD, NUMBER],
    "shares": [*[POINTER] * 3, *[NUMBER] * 3],
    "weigh": [POINTER, POINTER, *[NUMBER] * 3],
    "rows_forward": [POINTER, POINTER, NUMBER],
    "rows_backward": [*[POINTER] * 5, NUMBER],
}


@cache
def library() -> ctypes.CDLL | None:
    """The functions, compiled if they were not yet; None where they cannot be, or would not be faster."""
    if not has_units():
        return None
    path = home() / "compiled" / f"tunesmith-{_digest()}.so"
    try:
        return _load(path)
    except (OSError, AttributeError):  # it is not there, or was made where libraries are others
        pass
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if compiler is None or "clang" in compiler:  # whose threads would not be those of torch
        return None
    try:
        compile_to(path, compiler)
        return _load(path)
    except (OSError, subprocess.SubprocessError, AttributeError):
        return None


def _digest() -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in SOURCES) + " ".join(FLAGS).encode()).hexdigest()[:16]


def version() -> str:
    """What results depend on beside the versions of libraries: the C++, or `none` where it is not used."""
    return "none" if library() is None else _digest()


def _load(path: Path) -> ctypes.CDLL:
    found = ctypes.CDLL(str(path))
    for name, takes in TAKES.items():
        function = getattr(found, name)
        function.argtypes, function.restype, function.errcheck = takes, NUMBER, _refuse
    return found


def _refuse(code: int, function: Any, arguments: Any) -> None:
    if code:
        raise MemoryError("there is no memory for what is between two products")


def compile_to(path: Path, compiler: str) -> None:
    """Compile the library; it appears whole or not at all.

    Raises:
        OSError: it cannot be written, or the compiler not be run.
        subprocess.SubprocessError: the compiler fails.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, *FLAGS, *(str(path) for path in SOURCES if path.suffix == ".cpp"), "-o", str(made)]
        subprocess.run(command, capture_output=True, check=True, timeout=SECONDS)
        made.replace(path)


def has_units() -> bool:
    """Whether the processor multiplies bf16 in AVX-512, and has no tiles (AMX), which oneDNN uses and this does not."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").partition("flags")[2]
    except OSError:
        return False
    found = set(flags.partition("\n")[0].split())
    return {"avx512f", "avx512bw", "avx512vl", "avx512_bf16"} <= found and "amx_bf16" not in found
