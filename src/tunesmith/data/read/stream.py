"""A file's bytes in bounded pieces: unpacked, transcoded, cut into lines. Nothing is ever held whole.

Packing is told by the first bytes, not by the name: gzip and Zstandard. UTF-16 with a byte order mark
becomes UTF-8, and line ends of CR alone become those of all others. A packed file that swells far
beyond what data does is refused.
"""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tunesmith.core.errors import DataError, MissingError
from tunesmith.data.quality.ledger import RowFault

CHUNK = 1 << 20  # bytes read at once
LONGEST_ROW = 16 << 20  # bytes of one row
MARK = "byte order mark"  # how the notes call it
BOMB_BYTES, BOMB_RATIO = 1 << 28, 200  # unpacked more than this, and more than so many times the file: a bomb
MAGIC = {
    b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"PAR1": "parquet", b"PK\x03\x04": "zip", b"ARRO": "arrow",
    b"\xff\xff\xff\xff": "arrow-stream", b"\xd0\xcf\x11\xe0": "ole",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """A line without its end.

    Attributes:
        number: from 1.
        offset: of its first byte in the (unpacked) file.
        data: its bytes, or None when it is longer than `LONGEST_ROW`.
    """

    number: int
    offset: int
    data: bytes | None

    def text(self) -> str:
        """The line as text.

        Raises:
            RowFault: too long, or not UTF-8.
        """
        if self.data is None:
            raise too_big("the line", "Split the row, or delete it.")
        try:
            return self.data.decode("utf-8")
        except UnicodeDecodeError as error:
            before = self.data[: error.start].decode("utf-8")
            offset = self.offset + error.start
            raise undecodable(self.data[error.start], offset, len(before) + 1, self.number) from None


def too_big(what: str, advice: str) -> RowFault:
    """The fault of a row that is longer than can be held."""
    return RowFault("too_big", f"{what} is longer than {LONGEST_ROW >> 20} MiB.", advice)


def undecodable(byte: int, offset: int, column: int, line: int) -> RowFault:
    """The fault of a byte that is not UTF-8, with a guess at what it was meant to be."""
    guess = bytes([byte]).decode("cp1252", errors="ignore")
    meant = f" (in Windows-1252 it is {guess!r})" if guess.isprintable() and guess else ""
    found = f"byte 0x{byte:02x} at offset {offset} is not UTF-8{meant}."
    return RowFault("undecodable", found, "Save the file as UTF-8.", column=column, line=line)


def kind_of(path: Path) -> str:
    """`gzip`, `zstd`, `parquet`, `zip`, `arrow`, `arrow-stream`, `ole` (old Office) or `plain`, by the first bytes.

    Raises:
        MissingError: there is no such file.
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except FileNotFoundError:
        raise MissingError(f"{path}: no such file.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}).") from None
    return next((kind for magic, kind in MAGIC.items() if head.startswith(magic)), "plain")


def chunks(path: Path, notes: Counter[str]) -> Iterator[bytes]:
    """The unpacked bytes of a text file as UTF-8, a byte order mark left out (and noted).

    Raises:
        MissingError: there is no such file.
        DataError: it cannot be read, is cut off, or swells without end.
    """
    size = path.stat().st_size if path.exists() else 0
    done = 0
    decoder: codecs.IncrementalDecoder | None = None
    try:
        with _unpacked(path) as file:
            first, carriage = True, False
            while chunk := file.read(CHUNK):
                done += len(chunk)
                if done > BOMB_BYTES and done > BOMB_RATIO * size:
                    raise DataError(
                        f"{path}: {size:,} bytes unpack to more than {done:,}, as no data does. Unpack it by hand and "
                        "look inside."
                    )
                if first:
                    first = False
                    if chunk.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        decoder = codecs.getincrementaldecoder("utf-16")()
                        notes["UTF-16 text"] += 1
                    elif chunk.startswith(codecs.BOM_UTF8):
                        notes[MARK] += 1
                        chunk = chunk[3:]
                    carriage = b"\r" in chunk and b"\n" not in chunk
                    if carriage:
                        notes["line ends of CR alone"] += 1
                text = chunk if decoder is None else decoder.decode(chunk).encode("utf-8", "surrogatepass")
                yield text.replace(b"\r", b"\n") if carriage else text
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: begins as UTF-16 and does not go on so ({error.reason}). Save it as UTF-8.") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}). Unpack or copy it again.") from None


def _unpacked(path: Path) -> BinaryIO:
    kind = kind_of(path)
    if kind == "gzip":
        return gzip.open(path)  # pyright: ignore[reportReturnType]  it reads like one
    if kind == "zstd":
        import pyarrow

        return pyarrow.input_stream(str(path), compression="zstd")
    return path.open("rb")


def lines(path: Path, notes: Counter[str]) -> Iterator[Line]:
    """The lines of a text file. A line longer than `LONGEST_ROW` is passed over, its place kept.

    Raises:
        MissingError, DataError: as `chunks`.
    """
    number, offset, rest, too_long = 1, 0, b"", 0
    for chunk in chunks(path, notes):
        if not offset and notes[MARK]:
            offset = len(codecs.BOM_UTF8)
        *whole, rest = (rest + chunk).split(b"\n")
        for data in whole:
            yield Line(number, offset, None if too_long else data.removesuffix(b"\r"))
            offset += len(data) + 1 + too_long
            number, too_long = number + 1, 0
        if len(rest) > LONGEST_ROW:
            too_long += len(rest)
            rest = b""
    if rest or too_long:
        yield Line(number, offset, None if too_long else rest.removesuffix(b"\r"))
