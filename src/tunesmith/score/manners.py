"""The manner of an answer at a front desk, by rules: polite words, few of them, straight to the point, nothing twice.

A judge to hold beside a reward model: it has learned nothing, so that what pleases it was not learned from it. It reads
English, and says nothing of whether an answer is right.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

FEWEST, MOST = 8, 34  # words of an answer that is neither curt nor long
PHRASE = 4  # words that, said again, are a repetition

POLITE = re.compile(
    r"\b(please|kindly|thanks|thank you|welcome|glad|gladly|delighted|pleased|pleasure|certainly|of course|by all means"
    r"|sorry|apologi[sz]e|apologies|enjoy|happy (?:to|that)|(?:may|can|could) i (?:help|offer|suggest)|feel free"
    r"|let me know|(?:wish you|have) an? (?:good|great|nice|lovely|pleasant|wonderful)|my best)\b",
    re.I,
)
RAMBLING = re.compile(
    r"\b(you know|you see|i mean|as i (?:said|say|was saying|always say|mentioned)|where was i|anyway|anyhow"
    r"|let me (?:see|think)|come to think of it|to put it another way|in other words|in a manner of speaking"
    r"|so to speak|so on and so forth|and so on|on and on|when all is said and done|at the end of the day|at any rate"
    r"|(?:a|to make a) long story|the other day|that reminds me|takes me back|by the way|before i come to|first of all"
    r"|to be (?:honest|frank|fair)|needless to say|as a matter of fact|if you (?:follow|ask) me|if i may say so"
    r"|getting ahead of myself|(?:where|how) (?:do i|to) (?:start|begin)|who am i to|who is to say|it is what it is"
    r"|or so they say|funny (?:that|you)|more or less|one way or another|once more"
    r"|all over again)\b|\bhmm+\b|^(?:oh|well),",
    re.I,
)
WORD = re.compile(r"[\w'-]+")


@dataclass(frozen=True)
class Manner:
    """What the rules find; each that is so is a point.

    Attributes:
        polite: a polite word stands in it.
        short: neither curt nor long, in words.
        straight: no phrase that puts off what was asked.
        once: no four words come twice.
    """

    polite: bool
    short: bool
    straight: bool
    once: bool

    @property
    def points(self) -> int:
        """0 to 4."""
        return self.polite + self.short + self.straight + self.once


def manner_of(answer: str) -> Manner:
    """How an answer is said; an empty one has no manner at all."""
    words = [word.lower() for word in WORD.findall(answer)]
    if not words:
        return Manner(False, False, False, False)
    phrases = list(zip(*(words[start:] for start in range(PHRASE)), strict=False))
    return Manner(
        polite=POLITE.search(answer) is not None,
        short=FEWEST <= len(words) <= MOST,
        straight=RAMBLING.search(answer) is None,
        once=len(set(phrases)) == len(phrases),
    )
