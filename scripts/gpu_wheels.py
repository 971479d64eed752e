"""Fetches the wheels that a GPU machine without network lacks, and unpacks them; `gpu_bundle.sh` packs what they leave.

    python scripts/gpu_wheels.py FOLDER     # FOLDER/main, FOLDER/pyarrow and FOLDER/unsloth, as on a path

The machine is taken to have CPython 3.12 on x86-64 Linux and the packages of PRESENT. What tunesmith and the peers of
its benchmarks need beyond those is fetched with what it needs in turn, in the versions of constraints.txt where they
are there; peers that need other versions get their own, in their own folder.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.utils import canonicalize_name as plain

ROOT = Path(__file__).resolve().parents[1]
PRESENT: dict[str, str | None] = dict.fromkeys(
    """absl-py anyio attrs certifi charset-normalizer click colorama contourpy cycler einops execnet filelock fonttools
    fsspec h11 hf-xet httpcore httpx hypothesis idna iniconfig jinja2 joblib kiwisolver lxml markdown-it-py markupsafe
    matplotlib mdurl mpmath msgpack networkx ninja packaging pandas pillow pip pluggy portalocker propcache protobuf
    psutil pygments pyparsing pytest pytest-timeout pytest-xdist python-dateutil pyyaml regex requests rich sacrebleu
    scikit-learn scipy sentencepiece setuptools shellingham six sortedcontainers sympy tabulate tensorboard
    threadpoolctl tiktoken torchvision tqdm typer urllib3 wheel xxhash peft""".split()  # noqa: SIM905 - as a list it takes five times the lines
)  # in versions that are new enough; and these, which are as they say
PRESENT |= {"torch": "2.11.0", "transformers": "5.17.0", "triton": "3.6.0", "accelerate": "1.15.0", "numpy": "2.5.2",
            "huggingface-hub": "1.33.0", "tokenizers": "0.23.2", "safetensors": "0.8.0"}  # fmt: skip
EXTRAS = ["optimizers", "quantize", "hub"]  # of tunesmith
PEERS = ["trl", "liger-kernel"]
UNSLOTH = ["unsloth==2026.10.9", "unsloth-zoo==2026.10.9"]
LEFT_OUT = {"xformers", "diffusers"}  # large, and not needed for a language model
PLATFORMS = ["manylinux_2_28_x86_64", "manylinux_2_24_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64"]
THERE = {"python_version": "3.12", "python_full_version": "3.12.3", "sys_platform": "linux", "extra": "",
         "platform_system": "Linux", "platform_machine": "x86_64", "os_name": "posix",
         "implementation_name": "cpython", "platform_python_implementation": "CPython"}  # fmt: skip


def pinned() -> dict[str, str]:
    """The versions of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {plain(name): number for name, number in pairs}


def own_needs() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]


def fetched(need: Requirement, version: str | None, cache: Path) -> Path:
    """The wheel of a package: that of a version, or the newest that serves; from the cache where it is there."""
    wanted = f"{need.name}=={version}" if version else f"{need.name}{need.specifier}"
    folder = cache / re.sub(r"[^\w.]+", "-", wanted)
    if not list(folder.glob("*.whl")):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        there = ["--only-binary=:all:", "--python-version=3.12", "--implementation=cp"]
        there += [f"--platform={name}" for name in PLATFORMS]
        done = subprocess.run([*pip, "download", "--no-deps", *there, "-d", str(folder), wanted], capture_output=True,
                              text=True, check=False)  # fmt: skip
        if done.returncode:  # there is a source alone, which is to make a wheel for any machine
            subprocess.run([*pip, "wheel", "--no-deps", "-w", str(folder), wanted], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def needs_of(wheel: Path) -> tuple[str, list[Requirement]]:
    """Its version, and what it needs on the machine."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [one for one in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", one)]
        head = Parser().parsestr(archive.read(name).decode())
    needs = [Requirement(line) for line in head.get_all("Requires-Dist", [])]
    return head["Version"], [need for need in needs if need.marker is None or need.marker.evaluate(THERE)]


def serves(version: str | None, need: Requirement) -> bool:
    """Whether a version that is there does. An unknown one does."""
    return version is None or need.specifier.contains(version, prereleases=True)


def collect(roots: list[str], there: dict[str, str | None], cache: Path) -> dict[str, Path]:
    """The wheels of packages and of all that they need beyond what is there; `there` gets their versions."""
    wheels: dict[str, Path] = {}
    left, pins = [Requirement(root) for root in roots], pinned()
    while left:
        need = left.pop(0)
        name = plain(need.name)
        if name in LEFT_OUT or (name in there and serves(there[name], need)):
            continue
        if name in wheels:
            raise SystemExit(f"{need} is needed, and {there[name]} was fetched before")
        pin = pins.get(name)
        wheels[name] = fetched(need, pin if pin and serves(pin, need) else None, cache)
        there[name], more = needs_of(wheels[name])
        left += more
    return wheels


def unpack(wheels: list[Path], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)


def main() -> None:
    cache, folder = ROOT / "build" / "gpu-wheels", Path(sys.argv[1])
    there: dict[str, str | None] = dict(PRESENT)
    wheels = collect([*own_needs(), *PEERS, "typing-extensions"], there, cache)
    arrow = wheels.pop("pyarrow")
    unpack(list(wheels.values()), folder / "main")
    unpack([arrow], folder / "pyarrow")
    unsloth = collect(UNSLOTH, there, cache)
    unpack(list(unsloth.values()), folder / "unsloth")
    for name, some in (("main", wheels), ("pyarrow", {"pyarrow": arrow}), ("unsloth", unsloth)):
        print(f"{name}: {', '.join(sorted('-'.join(wheel.name.split('-')[:2]) for wheel in some.values()))}")


if __name__ == "__main__":
    main()
