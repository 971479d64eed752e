"""Tags of words as stretches of words, and back: BIO, BILOU, BIOES, and tags that stand for themselves.

    BIO      B- begins a stretch, I- goes on, O is outside        (Ramshaw and Marcus, 1995)
    BILOU    and L- ends one of several words, U- is one of a single word    (Ratinov and Roth, 2009)
    BIOES    the same with E- and S-
    io       names without a prefix beside O: neighbours of one name are one stretch
    none     names without a prefix, and no O, such as parts of speech: there are no stretches

A stretch is read as seqeval reads it: it goes on over I- and L- (E-) of its own name, whatever began it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

OUTSIDE = "O"
SCHEMES = {"bio": "BI", "bilou": "BILU", "bioes": "BIES"}
PREFIXED = re.compile(r"([BIOLUES])[-_](.+)", re.S)
ALONE = ("B", "S", "U")  # prefixes of tags that always begin a stretch
ENDS = ("E", "L", "S", "U")


@dataclass(frozen=True)
class Stretch:
    """Words that belong together: a label, the first word, and the one behind the last."""

    label: str
    begin: int
    end: int


@dataclass(frozen=True)
class Scheme:
    """How a file's tags are to be read.

    Attributes:
        name: `bio`, `bilou`, `bioes`, `io` or `none`.
        mixed: what does not go together, in words; empty where all does.
    """

    name: str
    mixed: str = ""

    @property
    def has_stretches(self) -> bool:
        """Whether tags mark stretches of words."""
        return self.name != "none"


def scheme_of(names: Iterable[str]) -> Scheme:
    """How tags are to be read, by all their names."""
    names = list(names)
    inside = [name for name in names if name != OUTSIDE]
    with_prefix = [name for name in inside if PREFIXED.fullmatch(name)]
    prefixes = {name[0] for name in with_prefix}
    if inside and len(with_prefix) == len(inside):
        fitting = [scheme for scheme, letters in SCHEMES.items() if prefixes <= set(letters)]
        shown = ", ".join(f"{prefix}-" for prefix in sorted(prefixes))
        return Scheme(fitting[0]) if fitting else Scheme("bio", f"the prefixes {shown} are of no single scheme")
    if prefixes & {"B", "I"}:
        plain = next(name for name in inside if name not in with_prefix)
        return Scheme("bio", f"{plain!r} has no prefix, and {with_prefix[0]!r} has one")
    return Scheme("io" if OUTSIDE in names and inside else "none")


def parted(tag: str, scheme: str) -> tuple[str, str]:
    """A tag's prefix and name; of one without a prefix `I` and the tag itself; `O` and nothing outside."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    if scheme in SCHEMES and (found := PREFIXED.fullmatch(tag)):
        return found[1], found[2]
    return "I", tag


def stretches(tags: Sequence[str], scheme: str) -> list[Stretch]:
    """The stretches that tags mark, in order."""
    found: list[Stretch] = []
    before, name, begin = OUTSIDE, "", 0
    for place, tag in enumerate((*tags, OUTSIDE)):
        prefix, label = parted(tag, scheme)
        begins = prefix != OUTSIDE and (prefix in ALONE or before == OUTSIDE or before in ENDS or label != name)
        if before != OUTSIDE and (begins or prefix == OUTSIDE):
            found.append(Stretch(name, begin, place))
        if begins:
            begin = place
        before, name = prefix, label
    return found


def tags_of(length: int, found: Iterable[Stretch], scheme: str) -> list[str]:
    """The tags of so many words, of stretches that do not overlap."""
    tags = [OUTSIDE] * length
    last, single = {"bilou": ("L", "U"), "bioes": ("E", "S")}.get(scheme, ("I", "B"))
    for one in found:
        words = one.end - one.begin
        prefixes = [single] if words == 1 else ["B", *["I"] * (words - 2), last]
        tags[one.begin : one.end] = [f"{prefix}-{one.label}" for prefix in prefixes]
    return tags


def broken_at(tags: Sequence[str], scheme: str) -> int | None:
    """The first word whose tag does not follow from the one before it, or leaves that one open; None if all do."""
    before, name = OUTSIDE, ""
    closed = ("O", "E", "L", "S", "U") if scheme != "bio" else ("O", "B", "I")
    for place, tag in enumerate((*tags, OUTSIDE)):
        prefix, label = parted(tag, scheme)
        goes_on = prefix in ("I", "L", "E")
        if goes_on and (before in ("O", *(set(ENDS))) or label != name):
            return place
        if not goes_on and before not in closed:
            return max(place - 1, 0)
        before, name = prefix, label
    return None


def tag_names(names: Iterable[str]) -> list[str]:
    """All tags in the order of their ids: O first, then by label; a scheme's tags that no row has are among them."""
    names = list(names)
    scheme = scheme_of(names).name
    if scheme not in SCHEMES:
        whole = all(name.lstrip("-").isdecimal() for name in names)
        return sorted(names, key=int) if whole else sorted(names, key=lambda name: (name != OUTSIDE, name))
    labels = sorted({parted(name, scheme)[1] for name in names if name != OUTSIDE})
    return [OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in SCHEMES[scheme])]


def counts_of_labels(counts: Mapping[str, int]) -> dict[str, int]:
    """How many stretches of each label there are, by how often each tag comes: those that begin one are counted.

    Where none of a label's tags always begins one, as in older files, its words are.
    """
    scheme = scheme_of(counts).name
    begun: dict[str, int] = {}
    words: dict[str, int] = {}
    for tag, count in counts.items():
        if tag == OUTSIDE:
            continue
        prefix, label = parted(tag, scheme)
        words[label] = words.get(label, 0) + count
        begun[label] = begun.get(label, 0) + count * (prefix in ALONE)
    return {label: begun[label] or words[label] for label in words}


def labels_of(names: Iterable[str]) -> list[str]:
    """What tags name, without their prefixes and without O, by the alphabet."""
    names = list(names)
    scheme = scheme_of(names).name
    return sorted({parted(name, scheme)[1] for name in names if name != OUTSIDE})
