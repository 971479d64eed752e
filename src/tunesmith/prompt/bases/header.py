"""The beginning of a GGUF file: its settings, and where its tensors lie. What they mean is not known here.

Nothing that a file says of itself is believed: each count and each place is held against the file's length and against
a bound, so that reading takes little memory and time, whatever the file is.
"""

from __future__ import annotations

import mmap
import struct
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from tunesmith.core.errors import MissingError, ModelError
from tunesmith.prompt.whole import AGAIN, POINTER

MAGIC, VERSIONS = b"GGUF", (2, 3)
MOST_SETTINGS = 10_000
MOST_TENSORS = 100_000
MOST_VALUES = 4_000_000  # in all lists together; the largest vocabularies known make a third of that
LONGEST_TEXT = 16 << 20  # bytes of one text, a chat template among them
LONGEST_NAME = 1 << 10
MOST_AXES = 4
MOST_NUMBERS = 1 << 40  # in one tensor
ALIGNMENT = 32  # bytes, of the places of tensors, where the file does not say

TEXT, LIST = 8, 9
# How struct reads each kind of value that has a length of its own.
KINDS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True)
class Tensor:
    """Where one lies.

    Attributes:
        name: in llama.cpp's words.
        shape: the longest stride first, as torch has it.
        kind: how its numbers are written, such as Q4_K.
        begin: byte of the file.
        size: in bytes.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    begin: int
    size: int


@dataclass(frozen=True)
class Header:
    """What stands at the beginning of a file.

    Attributes:
        path: of the file.
        values: settings by name; of a list of texts, how many there are, if they were not asked for.
        tensors: in their order.
    """

    path: Path
    values: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def kinds(self) -> dict[str, int]:
        """How many tensors there are of each kind, the most frequent first."""
        return dict(Counter(tensor.kind for tensor in self.tensors).most_common())

    @property
    def numbers(self) -> int:
        """In all tensors together."""
        return sum(prod(tensor.shape) for tensor in self.tensors)


def read_header(path: Path, texts: tuple[str, ...] = ()) -> Header:
    """The beginning of the GGUF file `path`.

    Args:
        path: of the file.
        texts: lists of texts that are wanted themselves.

    Raises:
        MissingError: there is no such file, or it cannot be read.
        ModelError: it is no GGUF file, is cut short, or says what no file can be.
    """
    try:
        with path.open("rb") as file:
            first = file.read(24)
            _refuse_other_files(path, first, file.seek(0, 2))
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Reader(path, data, texts).header()
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file.") from None
    except OSError as error:
        raise MissingError(f"{path}: cannot be read ({error.strerror}).") from None


def _refuse_other_files(path: Path, first: bytes, size: int) -> None:
    if first.startswith(POINTER[:24]):
        raise ModelError(
            f"{path}: a Git LFS pointer of {size} bytes stands in the place of the file. Install git-lfs and run "
            "`git lfs pull` in that folder, or fetch the file with `tunesmith pull owner/repository/file.gguf`."
        )
    if first[:4] != MAGIC:
        what = "is empty" if not first else f"begins with {first[:4]!r}"
        raise ModelError(f"{path}: {what}, and a GGUF file begins with {MAGIC!r}. Name a .gguf file, or a folder.")
    if size < 24:
        raise ModelError(f"{path}: {size} bytes, which is less than the header of a GGUF file: cut short. {AGAIN}")
    version = int.from_bytes(first[4:8], "little")
    if version not in VERSIONS and int.from_bytes(first[4:8], "big") in (1, *VERSIONS):
        raise ModelError(
            f"{path}: written for big-endian machines, and read are files of little-endian ones. Fetch the usual file."
        )
    if version not in VERSIONS:
        raise ModelError(
            f"{path}: GGUF version {version}, and read are versions {' and '.join(map(str, VERSIONS))}. Fetch a newer "
            "file of the model, or convert it anew with llama.cpp."
        )


def refusal(path: Path, sentence: str) -> ModelError:
    """An error about a file; what a damaged one calls its parts may hold anything, and is shown on one line."""
    return ModelError(f"{path}: {''.join(one if one.isprintable() else '?' for one in sentence)}")


@dataclass
class _Reader:
    """Goes through a file once, from its 9th byte."""

    path: Path
    data: mmap.mmap
    texts: tuple[str, ...]
    place: int = 8
    values_left: int = MOST_VALUES
    settings: dict[str, Any] = field(default_factory=dict[str, Any])

    def header(self) -> Header:
        tensors, settings = self.number("Q"), self.number("Q")
        self.bound("tensors", tensors, MOST_TENSORS)
        self.bound("settings", settings, MOST_SETTINGS)
        for _ in range(settings):
            name = self.text(LONGEST_NAME)
            if name in self.settings:
                raise self.wrong(f"names {name} twice")
            self.settings[name] = self.value(self.number("I"), name)
        found = [self.tensor() for _ in range(tensors)]
        align = self.settings.get("general.alignment", ALIGNMENT)
        if type(align) is not int or not 0 < align <= 1 << 16 or align & (align - 1):
            raise self.wrong(f"has general.alignment = {align!r}, which is no power of two")
        return Header(self.path, self.settings, self.placed(found, -(-self.place // align) * align))

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape, number of its kind, and place among all tensors."""
        name, axes = self.text(LONGEST_NAME), self.number("I")
        if not 1 <= axes <= MOST_AXES:
            raise self.wrong(f"gives {name} {axes:,} axes, and a tensor has 1 to {MOST_AXES}")
        shape = tuple(self.number("Q") for _ in range(axes))[::-1]
        if not all(shape) or prod(shape) > MOST_NUMBERS:
            raise self.wrong(f"gives {name} the shape {shape}")
        return name, shape, self.number("I"), self.number("Q")

    def placed(self, found: list[tuple[str, tuple[int, ...], int, int]], begin: int) -> tuple[Tensor, ...]:
        """Tensors with their places in the file, none of them beyond its end or over another."""
        tensors = sorted(
            (self._place(name, shape, kind, begin + offset) for name, shape, kind, offset in found),
            key=lambda tensor: tensor.begin,
        )
        if twice := [name for name, times in Counter(tensor.name for tensor in tensors).items() if times > 1]:
            raise self.wrong(f"has two tensors called {twice[0]}")
        end = begin
        for tensor in tensors:
            if tensor.begin < end:
                raise self.wrong(f"has {tensor.name} lie over another tensor")
            end = tensor.begin + tensor.size
        if end > len(self.data):
            raise ModelError(
                f"{self.path}: cut short: it has {len(self.data):,} bytes, and its tensors need {end:,}. {AGAIN}"
            )
        return tuple(tensors)

    def _place(self, name: str, shape: tuple[int, ...], kind: int, begin: int) -> Tensor:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        try:
            known = GGMLQuantizationType(kind)
            numbers, size = GGML_QUANT_SIZES[known]
        except (ValueError, KeyError):
            raise refusal(
                self.path,
                f"{name} is of kind {kind}, which the installed gguf library does not know. Upgrade gguf if a newer "
                "one does, or fetch a file of the model in Q8_0 or F16.",
            ) from None
        if shape[-1] % numbers:
            raise self.wrong(f"gives {name} rows of {shape[-1]}, and {known.name} has blocks of {numbers}")
        return Tensor(name, shape, known.name, begin, prod(shape) // numbers * size)

    def value(self, kind: int, name: str) -> Any:
        """A setting."""
        if kind in KINDS:
            return self.number(KINDS[kind])
        if kind == TEXT:
            return self.text(LONGEST_TEXT)
        if kind != LIST:
            raise self.wrong(f"writes {name} as kind {kind}, which no setting is")
        inner, count = self.number("I"), self.number("Q")
        self.values_left -= count
        if self.values_left < 0:
            raise self.wrong(f"has {count:,} values in {name}, and all its lists may have {MOST_VALUES:,}")
        if inner == TEXT and name in self.texts:
            return [self.text(LONGEST_TEXT) for _ in range(count)]
        if inner == TEXT:
            for _ in range(count):
                self.skip(self.number("Q"))
            return count
        if inner not in KINDS:
            raise self.wrong(f"writes {name} as a list of kind {inner}")
        size = struct.calcsize(f"<{count}{KINDS[inner]}")
        self.skip(size)
        return list(struct.unpack_from(f"<{count}{KINDS[inner]}", self.data, self.place - size))

    def number(self, kind: str) -> Any:
        size = struct.calcsize(f"<{kind}")
        self.skip(size)
        return struct.unpack_from(f"<{kind}", self.data, self.place - size)[0]

    def text(self, longest: int) -> str:
        length = self.number("Q")
        if length > longest and length <= len(self.data) - self.place:
            raise self.wrong(f"has a text of {length:,} bytes, and {longest:,} are allowed")
        self.skip(length)
        try:
            return self.data[self.place - length : self.place].decode()
        except UnicodeDecodeError:
            raise self.wrong("has a text that is no UTF-8") from None

    def skip(self, size: int) -> None:
        if size > len(self.data) - self.place:
            raise ModelError(f"{self.path}: cut short in its header: it has {len(self.data):,} bytes. {AGAIN}")
        self.place += size

    def bound(self, what: str, count: int, most: int) -> None:
        if count > most:
            raise self.wrong(f"speaks of {count:,} {what}, and {most:,} are allowed")

    def wrong(self, finding: str) -> ModelError:
        return refusal(self.path, f"its header {finding}: the file is damaged. {AGAIN}")
