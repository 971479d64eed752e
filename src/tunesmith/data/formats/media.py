"""Pictures, sound and video: tunesmith trains on text, so a row that needs them is refused or warned of, never cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tunesmith.data.formats.values import Path, Values, Warn, holds_nothing
from tunesmith.data.quality.ledger import RowFault

WHAT = "(?:images?|imgs?|pictures?|photos?|videos?|audios?)"
# Of a key without its underscores, hyphens, spaces and capitals.
KEY = re.compile(
    rf"(?:input)?{WHAT}(?:paths?|urls?|files?|filenames?|names?|bytes|b64|base64|data|lists?|ids?)?|pixelvalues"
)
TAG = re.compile(
    r"<\|?(?:image|img|video|audio)(?:[_-]?\d+|_pad|_soft_token|_placeholder|_token)?\|?>|<\|vision_start\|>"
    r"|<start_of_image>|\[IMG\]",
    re.IGNORECASE,
)
HINTS = ("<image", "<|image", "<img", "<video", "<|video", "<audio", "<|audio", "<|vision", "<start_of", "[img]")
DATA = re.compile(r"data:(?:image|audio|video)/[\w.+-]+;base64,")
DO_WITHOUT = "If the text stands without it, take it out; else drop the row."


def is_media_key(key: str) -> bool:
    """Whether a key names pictures, sound or video, or where they are."""
    return KEY.fullmatch(re.sub(r"[\s_-]+", "", key).lower()) is not None


def media_key(values: Values, keys: Iterable[str]) -> str | None:
    """The first of `keys` under which `values` hold a picture, sound or video."""
    return next((key for key in keys if is_media_key(key) and not holds_nothing(values[key])), None)


def media_fault(where: str, path: Path) -> RowFault:
    """The fault of a row that needs more than text."""
    return RowFault("picture", f"{where}, and tunesmith trains on text alone.", DO_WITHOUT, path)


def check_media(texts: Sequence[str], talk: bool, row: Values, unread: Sequence[str], warn: Warn) -> None:
    """Refuse a conversation that has pictures beside it; tell `warn` of other rows, and of places in texts for some.

    Args:
        texts: what the row says.
        talk: whether it is a conversation.
        row: its keys and values.
        unread: the keys that its format did not read.
        warn: hears of what is kept all the same.

    Raises:
        RowFault: the conversation was had over a picture.
    """
    key = media_key(row, unread)
    if key is not None:
        fault = media_fault(f"the row has {key!r} beside its text", (key,))
        if talk:
            raise fault
        warn(RowFault("picture", fault.found, "It is kept as text. Drop it if the text needs it.", (key,)))
        return
    for text in texts:
        if "data:" in text and DATA.search(text):
            found = "a text holds a picture, sound or video as base64."
            warn(RowFault("picture", found, "It is trained on as text: take it out."))
            return
        if ("<" in text or "[" in text) and _has_hint(text) and (tag := TAG.search(text)):
            found = f"a text has {tag.group()!r}, as if a picture, sound or video stood there."
            warn(RowFault("picture", found, "It is read as text. Drop the row if something is missing from it."))
            return


def _has_hint(text: str) -> bool:
    lower = text.lower()
    return any(hint in lower for hint in HINTS)
