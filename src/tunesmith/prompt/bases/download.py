"""A large file fetched over HTTP: gone on with where it broke off, told as it comes, and only taken whole.

What came before stays beside the target as `NAME.part`. The SHA-256 is known beforehand, so it does not matter where
the file came from, nor whether its pieces are of one answer.
"""

from __future__ import annotations

import ssl
import time
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from tunesmith.core import events
from tunesmith.core.errors import MissingError, TunesmithError
from tunesmith.core.events import Report, silent
from tunesmith.core.files import full_disk, make_folder, sha256_of

TRIES = 4  # in a row that bring nothing new
PAUSE = 1.0  # seconds before another
MEGABYTE = 1_000_000
TIMEOUT = 30.0  # seconds without a byte


def download(url: str, target: Path, sha256: str, report: Report = silent, pause: float = PAUSE) -> Path:
    """Fetch `url` to `target`; what is there already is only looked at.

    Args:
        url: http, https or file.
        target: the path of the file; of one that lies here already (file:), its own path is returned.
        sha256: that it must have.
        report: hears how far it is, in MB.
        pause: seconds before another try.

    Raises:
        MissingError: it cannot be reached; what came so far is kept.
        TunesmithError: what came is another file, or the disk is full.
    """
    make_folder(target.parent, target.name)
    if target.exists() and sha256_of(target) == sha256:
        return target
    here = urlsplit(url).scheme == "file"
    part = Path(unquote(urlsplit(url).path)) if here else target.with_name(f"{target.name}.part")
    if not here:
        _fetch(url, part, report, pause)
    if (found := sha256_of(part)) != sha256:
        if not here:
            part.unlink()
        raise TunesmithError(
            f"{target.name}: what was fetched has the SHA-256 {found[:12]}..., and {sha256[:12]}... was expected: "
            "damaged on its way, or changed where it lies. It is not used. Try again."
        )
    return part if here else part.replace(target)


def _fetch(url: str, part: Path, report: Report, pause: float) -> None:
    """Have all of it in `part`, in as many tries as bring something new."""
    left = TRIES
    while True:
        before = _size(part)
        try:
            _fetch_rest(url, part, report)
            return
        except httpx.HTTPError as error:
            left = TRIES if _size(part) > before else left - 1
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else 0
            if not left or 400 <= status < 500:
                reason = f"it answers {status}" if status else (str(error) or type(error).__name__)
                raise MissingError(
                    f"{part.name.removesuffix('.part')}: cannot be fetched ({reason}). {_size(part) / 1e6:,.1f} MB are "
                    "here and are gone on with: try again when the network is there."
                ) from None
            time.sleep(pause)


def _fetch_rest(url: str, part: Path, report: Report) -> None:
    here = _size(part)
    headers = {"Range": f"bytes={here}-", "Accept-Encoding": "identity"} if here else {"Accept-Encoding": "identity"}
    with httpx.stream("GET", url, headers=headers, timeout=TIMEOUT, follow_redirects=True, verify=_trust()) as answer:
        if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:  # it is all here
            return
        answer.raise_for_status()
        resumed = answer.status_code == httpx.codes.PARTIAL_CONTENT
        here = here if resumed else 0
        whole = here + int(answer.headers.get("Content-Length") or 0)
        told = -1
        try:
            with part.open("ab" if resumed else "wb") as file:
                for piece in answer.iter_raw():
                    file.write(piece)
                    here += len(piece)
                    if (done := min(here, whole - 1) // MEGABYTE) > told:
                        report(events.Pulse("MB fetched", told := done, -(-whole // MEGABYTE)))
        except OSError as error:
            raise full_disk(part, whole - here, error) from None
    if here < whole:
        raise httpx.RemoteProtocolError(f"it broke off after {here:,} of {whole:,} bytes")
    report(events.Pulse("MB fetched", -(-whole // MEGABYTE), -(-whole // MEGABYTE)))


def _trust() -> ssl.SSLContext:
    """Who vouches for servers: the system's authorities too, among which a company's own is."""
    trust = httpx.create_ssl_context()
    trust.load_default_certs()
    return trust


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
