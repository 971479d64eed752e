"""What words of a prompt ask for, found by patterns: a format, a length, labels, politeness, a language.

English patterns, as most prompts are written; languages are told by their commonest words. Nothing here is learned, so
that the same prompt always gets the same findings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

NUMBERS = {"one": 1, "a single": 1, "single": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "ten": 10}
LENGTH = re.compile(
    rf"\b(\d+|{'|'.join(NUMBERS)})[ -](?:short |full |whole )?(word|sentence|line|paragraph|character)s?\b", re.I
)
ALONE = (
    r"\b(?:one|single|1)[- ]word\b|\b(?:label|class|category|name|json) (?:alone|only)\b|\bnothing else\b"
    r"|\bonly (?:with )?(?:the|one|a)? ?(?:label|class|word|category|name)\b"
)
FORMAT_OF_CLASSES = re.compile(
    rf"{ALONE}|\bone of\b|\bjson\b|\b(?:answer|respond|reply|return|output|write|print)\b[^.\n]*\b(?:label|class|"
    r"category|word|exactly|only|just|name)\b|^\s*\w[\w ]{0,30}:\s*\Z",
    re.I | re.M,
)
FORMAT_OF_CHATS = re.compile(
    r"\b(?:sentences?|words?|paragraphs?|characters?|lines?|short|shortly|brief|briefly|concise|list|bullets?|json|table|"
    r"markdown|steps?|format|plain text)\b",
    re.I,
)
CONTEXT = re.compile(
    r"\b(?:you are|you're|act as|as an? [a-z]+|your (?:task|job|role)|assistant|customers?|guests?|clients?|users?|"
    r"patients?|students?|written (?:by|to|in)|comes? from|sent (?:by|to)|reviews?|tickets?|tweets?|articles?|mails?|"
    r"e-?mails?|messages?|posts?|reports?|letters?|complaints?)\b",
    re.I,
)
EXPLAINED = r"\bexplain|\bexplanations?\b|\breason(?:s|ing)?\b|\bjustif|\bstep by step\b|\bwhy\b"
NEGATED = re.compile(
    r"\b(?:do not|don't|never|without|no)\b(?: \w+){0,3}? (?:explain\w*|explanations?|reason(?:s|ing)?|justif\w+)", re.I
)
CONTRADICTIONS = (
    ("the label or one word alone", ALONE, "an explanation", EXPLAINED),
    ("the label or one word alone", ALONE, "sentences", r"\b(?:sentences?|paragraphs?)\b"),
    ("JSON", r"\bjson\b", "plain words", r"\bplain text\b|\bprose\b|\b(?:one|single)[- ]word\b|\blabel alone\b"),
    ("a short answer", r"\b(?:short|brief|concise)(?:ly)?\b", "a long one",
     r"\b(?:detailed|in detail|thorough(?:ly)?|comprehensive(?:ly)?|exhaustive(?:ly)?|at length|long answers?)\b"),
)  # fmt: skip
LISTED = re.compile(
    r"\b(?:labels?|class(?:es)?|categor(?:y|ies)|one of|choose from|options?)\b[^:.\n{]{0,30}:\s*(?P<names>[^.\n]+)",
    re.I,
)
POLITE = re.compile(
    r"\b(?:please|kindly|could you|would you|can you|i would like you to|i'd like you to|let me know|tell me|thank you"
    r"(?: very much)?|thanks)\b,?\s*|\bwhat do you think\b",
    re.I,
)
SENTENCE = re.compile(r"[^.!?\n]*[.!?]+\s*|[^.!?\n]+\s*|\n")
COMMON = {  # words that are common in one language, and in few others
    "English": "the and is of to in you what are for with this that not",
    "German": "der die das und ist nicht ein eine mit für auf sie ich wir den dem",
    "French": "le la les et est des une pour dans vous que pas avec sur du",
    "Spanish": "el los las y es una para con que por del en no su",
    "Italian": "il gli che è una per con non della sono nel di",
    "Dutch": "de het een en van niet met voor zijn op dat is",
    "Portuguese": "o os uma e não para com que do da em são",
}
SPELT = {
    "English": "english|englisch|anglais", "German": "german|deutsch", "French": "french|français|französisch",
    "Spanish": "spanish|español", "Italian": "italian|italiano", "Dutch": "dutch|nederlands",
    "Portuguese": "portuguese|português",
}  # fmt: skip


@dataclass(frozen=True)
class Clash:
    """Two things that cannot both be done.

    Attributes:
        one, other: what is asked for.
        words: that ask for the other.
    """

    one: str
    other: str
    words: str


def clash_in(text: str) -> Clash | None:
    """What a text asks for that contradicts itself; None if nothing."""
    plain = NEGATED.sub(" ", text)
    for one, pattern, other, against in CONTRADICTIONS:
        first, second = re.search(pattern, plain, re.I), re.search(against, plain, re.I)
        if first and second and first.span() != second.span():
            return Clash(f"{one} ({first[0].strip()!r})", f"{other} ({second[0].strip()!r})", second[0])
    lengths: dict[str, re.Match[str]] = {}
    for found in LENGTH.finditer(plain):
        unit = found[2].lower()
        if unit in lengths and _number(lengths[unit][1]) != _number(found[1]):
            return Clash(repr(lengths[unit][0]), repr(found[0]), found[0])
        lengths.setdefault(unit, found)
    return None


def _number(word: str) -> int:
    return int(word) if word.isdecimal() else NUMBERS[word.lower()]


def without_sentence(text: str, words: str) -> str | None:
    """A text without the sentence that has some words; None where nothing but that would be left."""
    parts = [part for part in SENTENCE.findall(text) if words not in part]
    left = "".join(parts).rstrip()
    return left if left.strip() and left != text.rstrip() else None


def listed_labels(text: str) -> list[tuple[str, list[str]]]:
    """Lists of labels that a text writes out: the list as it stands, and the names in it."""
    found: list[tuple[str, list[str]]] = []
    for match in LISTED.finditer(text):
        names = [name.strip(" \t'\"`“”()[]") for name in re.split(r",|;|/|\bor\b|\band\b", match["names"])]
        if "{" not in match["names"] and len(names) > 1:
            found.append((match["names"], [name for name in names if name and len(name.split()) <= 5]))
    return found


def names_label(text: str, label: str) -> bool:
    """Whether a text has a label as words of its own."""
    return re.search(rf"(?<!\w){re.escape(label)}(?!\w)", text, re.I) is not None


def without_politeness(text: str) -> str:
    """A text without words that ask politely."""
    parts = SENTENCE.findall(text)
    for place, part in enumerate(parts):
        left = POLITE.sub("", part)
        if left != part:
            left = left.lstrip(" ,")
            parts[place] = "" if not re.search(r"\w", left) else left[:1].upper() + left[1:]
    return "".join(parts).strip()


def language_of(texts: Sequence[str]) -> str | None:
    """The language whose common words come most often, if it leads clearly; None for little text."""
    words = Counter(re.findall(r"[^\W\d_]+", " ".join(texts).lower()))
    counts = sorted(
        ((sum(words[one] for one in common.split()), name) for name, common in COMMON.items()), reverse=True
    )
    (most, name), (next_most, _) = counts[:2]
    return name if most >= 3 and most >= 1.5 * next_most else None


def language_named(text: str) -> tuple[str, str] | None:
    """The language that a text asks to answer in, and the word for it; None if it names none."""
    for name, words in SPELT.items():
        if found := re.search(rf"\b(?:in|auf|en) ({words})\b", text, re.I):
            return name, found[1]
    return None


def sentences(text: str) -> int:
    """How many sentences a text has, at least one."""
    return max(1, len(re.findall(r"[.!?]+(?:\s|$)", text)))
