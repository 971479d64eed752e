"""Everyday tasks about words and the world, made from the lexicon."""
from __future__ import annotations

from .grammar import article, pick
from .lexicon import COMPARISON, COUNTRY, DEFINITION, EXAMPLE, PAST_FORM, SYNONYM


def definitions(rng, f):
    word, means = pick(rng, DEFINITION)
    thing = word if word in ("luggage", "mist", "mercy", "laundry", "gossip", "dusk", "dawn", "fog") else article(word)
    if rng.random() < 0.75:
        return f"[what is {thing}|what does {word} mean|explain the word {word}|what is the meaning of {word}|i do not know the word {word}. What does it mean]?", \
            f"{thing} is {means}."
    return f"[what do you call|what is the word for|which word means] {means}?", f"[It is called {thing}.|That is {thing}.|The word is {word}.]"


def past_forms(rng, f):
    now, then = pick(rng, PAST_FORM)
    return f"[what is the past tense of {now}|past tense of {now}|what is the past of {now}|today i {now}, what about yesterday]?", \
        f'[The past tense of "{now}" is "{then}".|Today I {now}, yesterday I {then}.]'


def synonyms(rng, f):
    one, two = pick(rng, SYNONYM)
    if rng.random() < 0.5:
        one, two = two, one
    return f"[what is another word for {one}|give me another word for {one}|which word means the same as {one}|what means the same as {one}]?", \
        f'[Another word for "{one}" is "{two}".|"{two}" means the same as "{one}".]'


def countries(rng, f):
    name, city, language = pick(rng, COUNTRY)
    return pick(rng, [
        (f"[what is the capital of {name}|which city is the capital of {name}|capital of {name}]?", f"The capital of {name} is {city}."),
        (f"[where is {city}|in which country is {city}|in which country do i find {city}]?", f"{city} is in {name}."),
        (f"[what language do people speak in {name}|which language is spoken in {name}|what do they speak in {name}]?", f"People in {name} speak {language}."),
        (f"i am flying to {city} [on {{weekday}}|tomorrow|next week].", f"[Have a good flight!|How exciting!|Enjoy your trip.] {city} is the capital of {name}."),
    ])


def comparisons(rng, f):
    one, word, two = pick(rng, COMPARISON)
    first, second = article(one), article(two)
    said = f"{first} is {word} than {second}."
    return pick(rng, [
        (f"[which is {word}, {first} or {second}|what is {word}, {second} or {first}]?", said),
        (f"is {first} {word} than {second}?", f"Yes, {said}"),
        (f"is {second} {word} than {first}?", f"No, {said}"),
    ])


def examples(rng, f):
    word, line = pick(rng, EXAMPLE)
    return f"[use the word {word} in a sentence|give me a sentence with {word}|make a sentence with the word {word}|write a sentence with {word}|show me how to use the word {word}]", line


def spelling(rng, f):
    word = pick(rng, [w for w, _ in DEFINITION if w.isalpha() and len(w) < 9])
    roll = rng.random()
    if roll < 0.4:
        return f"[how do you spell {word}|spell the word {word}|can you spell {word}]?", f"{'-'.join(word.upper())}."
    if roll < 0.7:
        return f"[what is the first letter of {word}|with which letter does {word} begin]?", f'The word "{word}" begins with {word[0].upper()}.'
    return f"[what is the last letter of {word}|with which letter does {word} end]?", f'The word "{word}" ends with {word[-1].upper()}.'


WORD_TASKS = ((definitions, 18), (past_forms, 5), (synonyms, 6), (countries, 8), (comparisons, 6), (examples, 6), (spelling, 4))
