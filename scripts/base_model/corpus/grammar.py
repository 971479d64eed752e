"""A small template language: ``[a|b]`` picks one part, ``{slot}`` fills in a value.

Slots are looked up in a ``Facts`` object, which invents each value once per
document, so that a fact is the same wherever it is mentioned.
"""
from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from random import Random

_TOKEN = re.compile(r"[\[\]|]|\{[^}]*\}|[^\[\]|{}]+")
_SPACES = re.compile(r"  +")
_SENTENCE = re.compile(r"(^\"?|[.!?:] \"?|\n)([a-z])(?![a-z]*\.[a-z])")
_LONE_I = re.compile(r"(?<= )i(?=[ ,.?!'])")
_WRONG_A = re.compile(r"\b([Aa]) (?=[aeio][a-z]|honest|hour|u[mnpr][a-hj-z])(?!one\b|once|eu)")
_BEFORE_MARK = re.compile(r" +([.,!?;])")
_VOWEL_SOUND = re.compile(r"(?i)(?!uni|use|usu|euro|one\b|once)([aeiou]|hour|honest|8|11\b|18\b)")


@cache
def parse(text: str) -> tuple:
    """Turn template text into nested alternatives of literal and slot items."""
    tokens = _TOKEN.findall(text)
    position = 0

    def alternatives(depth: int) -> tuple:
        nonlocal position
        options, current = [], []
        while position < len(tokens):
            token = tokens[position]
            position += 1
            if token == "[":
                current.append(alternatives(depth + 1))
            elif token == "]" and depth:
                break
            elif token == "|":
                options.append(tuple(current))
                current = []
            elif token[0] == "{":
                current.append((token[1:-1],))
            else:
                current.append(token)
        options.append(tuple(current))
        return ("choice", tuple(options))

    return alternatives(0)[1]


def _walk(options, rand, facts, emit) -> None:
    count = len(options)
    sequence = options[int(rand() * count)] if count > 1 else options[0]
    for item in sequence:
        if type(item) is str:
            emit(item)
        elif len(item) == 1:
            emit(facts[item[0]])
        else:
            _walk(item[1], rand, facts, emit)


def expand(text: str, rng: Random, facts) -> str:
    """Fill a template without tidying the result."""
    out: list[str] = []
    _walk(parse(text), rng.random, facts, out.append)
    return "".join(out)


def tidy(text: str) -> str:
    """Single spaces, no space before a mark, a capital at each sentence start."""
    text = _SPACES.sub(" ", text).strip()
    text = _BEFORE_MARK.sub(r"\1", text)
    text = _WRONG_A.sub(r"\1n ", text)
    text = _SENTENCE.sub(lambda m: m[1] + m[2].upper() if m[1][:1] != ":" else m[0], text)
    return _LONE_I.sub("I", text) if " i" in text else text


def say(text: str, rng: Random, facts) -> str:
    """Fill a template and tidy the result."""
    return tidy(expand(text, rng, facts))


def cap(text: str) -> str:
    return text[:1].upper() + text[1:]


def article(noun: str) -> str:
    """The noun with 'a' or 'an' before it."""
    return ("an " if _VOWEL_SOUND.match(noun) else "a ") + noun


_IRREGULAR = {
    "man": "men", "woman": "women", "child": "children", "foot": "feet", "tooth": "teeth",
    "mouse": "mice", "goose": "geese", "sheep": "sheep", "fish": "fish", "deer": "deer",
    "knife": "knives", "wife": "wives", "leaf": "leaves", "wolf": "wolves", "shelf": "shelves",
    "loaf": "loaves", "half": "halves", "calf": "calves", "scarf": "scarves", "thief": "thieves",
    "person": "people", "ox": "oxen", "potato": "potatoes", "tomato": "tomatoes", "life": "lives",
    "hero": "heroes", "salmon": "salmon", "trout": "trout", "mango": "mangoes", "policeman": "policemen",
    "fisherman": "fishermen", "postman": "postmen", "snowman": "snowmen", "series": "series",
}


def plural(noun: str) -> str:
    head, _, last = noun.rpartition(" ")
    if last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif re.search(r"(s|x|z|ch|sh)$", last):
        last += "es"
    elif re.search(r"[^aeiou]y$", last):
        last = last[:-1] + "ies"
    else:
        last += "s"
    return f"{head} {last}".strip()


def pick(rng: Random, items):
    return items[int(rng.random() * len(items))]


def listing(items: list[str], word: str = "and") -> str:
    """Join items as in 'a, b and c'."""
    if len(items) < 2:
        return "".join(items)
    return ", ".join(items[:-1]) + f" {word} " + items[-1]


class Facts(dict):
    """Values for slots, invented on first use from a table of templates and functions.

    ``{dog2}`` is a second value of ``{dog}``; ``{Dog}`` has a capital letter;
    ``{dog#1}`` is one more value, kept apart by its tag;
    ``{a:dog}`` has an article before it and ``{s:dog}`` is the plural.
    """

    def __init__(self, rng: Random, tables: dict[str, str | tuple | Callable], **known: str):
        super().__init__(known)
        self.rng = rng
        self.tables = tables

    def __missing__(self, key: str) -> str:
        mode, _, name = key.rpartition(":")
        if mode:
            value = self[name]
            value = {"a": article, "A": lambda n: cap(article(n)), "s": plural,
                     "S": lambda n: cap(plural(n))}[mode](value)
        elif key[0].isupper():
            value = cap(self[key[0].lower() + key[1:]])
        else:
            plain = key.partition("#")[0]
            base = plain if plain in self.tables else plain.rstrip("0123456789")
            maker = self.tables[base]
            if callable(maker):
                value = maker(self.rng, self)
            elif isinstance(maker, str):
                value = expand(maker, self.rng, self)
            else:
                value = pick(self.rng, maker)
                if plain != base:
                    for _ in range(8):
                        if value != self.get(base) and value != self.get(base + "2"):
                            break
                        value = pick(self.rng, maker)
                if "{" in value or "[" in value:
                    value = expand(value, self.rng, self)
        self[key] = value
        return value
