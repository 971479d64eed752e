"""Question frames: many ways to ask for the same thing, and the small talk around them."""
from __future__ import annotations

import re
from random import Random

from .grammar import expand, pick, tidy
from .places import FIRST

# {x} is a noun phrase, a verb phrase or a clause, as the frame asks for.
FRAMES = {
    # x: indefinite noun phrase
    "have": "[do you have|is there|have you got|do you offer|does the {house} have|are you offering|do you happen to have] "
            "{x}[| here| in the {house}]?|[do you have|is there|have you got] {x}[| here]?|"
            "[i was wondering if|i would like to know if|can you tell me if|could you tell me whether] "
            "[you have|there is] {x}[| here].|i am looking for {x}.|{x}?|any chance of {x}?|"
            "[can i find|will i find] {x} [here|in the {house}]?",
    "plenty": "[do you have|are there|have you got|do you offer|does the {house} have] {x}[| here| in the {house}]?|"
              "[can you tell me if|i would like to know if] [you have|there are] {x}[| here].|{x}?|any {x} here?",
    # x: definite noun phrase, singular
    "when": "[what time|when] [does|will] {x} [open|start]?|when is {x} [open|available]?|{x} [hours|times|opening hours]?|"
            "what are the [hours|opening hours|times] [of|for] {x}?|[until when|how late|till what time] is {x} open?|"
            "what time does {x} [close|end]?|[can you tell me|do you know|could you tell me] when {x} [opens|closes|is open]?|"
            "is {x} open [now|at the moment|in the evening|in the morning|all day|every day|on {weekday}]?|"
            "i would like to know the [hours|opening times] of {x}.|[from when|at what time] can i use {x}?|"
            "between what times is {x} open?",
    # x: a meal, a service or an event
    "time": "[what time|when] is {x}?|[what time|when] does {x} [start|begin]?|{x} [times|time]?|until when is {x}?|when does {x} end?|"
            "[can you tell me|could you tell me|do you know|i would like to know|please tell me] when {x} is.|[from when|from what time] is {x}?|"
            "at what time is {x}?|how late is {x}?",
    "where": "where is {x}?|where can i find {x}?|where do i find {x}?|how do i get to {x}?|[which|what] floor is {x} on?|"
             "[can|could] you [tell me|show me|explain] where {x} is?|i [cannot|can't] find {x}.|i am looking for {x}.|"
             "[is|where's] {x} [far from here|near here|close to my {roomword}]?|how can i find {x}?|"
             "[please tell me|tell me] where {x} is.|[which way is|what is the way to] {x}?|location of {x}?|"
             "in which part of the {house} is {x}?",
    "price": "how much [is|does] {x} [|cost]?|what does {x} cost?|[is|isn't] {x} free?|do i [have|need] to pay for {x}?|"
             "is {x} included[| in the price| in the {roomword} rate]?|what is the price of {x}?|price of {x}?|"
             "how much do you charge for {x}?|is there a [charge|fee|cost] for {x}?|does {x} cost [anything|extra]?|"
             "[can|could] you tell me [how much {x} costs|the price of {x}]?|what do i pay for {x}?|cost of {x}?",
    # x: verb phrase with the guest as subject
    "can": "[can|could|may] i [|also ]{x}?|[can we|could we] {x}?|is it [possible|ok|okay|allowed] to {x}?|am i allowed to {x}?|"
           "i [would like to|want to|need to|'d like to] {x}.|[we would like to|we want to|we need to] {x}.|"
           "[would it be|is it] possible to {x}?|[i was wondering if i could|i wonder if i can] {x}.|"
           "how [can|do] i {x}?|what do i do if i want to {x}?|is there a way to {x}?|do you mind if i {x}?|"
           "[i hope|i am hoping] to {x}.|would it be a problem to {x}?|tell me how to {x}.",
    # x: verb phrase with the staff as subject
    "you": "[can|could|would|will] you [|please ]{x}[|, please| for me]?|[can|could] [someone|somebody] [|please ]{x}?|"
           "please {x}.|[i would like you to|i need you to|i want you to] {x}.|do you {x}?|would you mind if i asked you to {x}?|"
           "is it possible for you to {x}?|[could i ask you|may i ask you] to {x}?|[are you able to|is someone able to] {x}?",
    # x: item with article or "some"
    "need": "[can|could|may] i [have|get|borrow] {x}[|, please]?|i need {x}[|, please].|i would like {x}[|, please].|"
            "[do you have|have you got] {x} [for me|i could use|i could borrow]?|[can|could] you [bring|send|give] me {x}?|"
            "{x}, please.|we need {x} in our {roomword}.|[please send|please bring] {x} to [my {roomword}|{roomword} {room}].|"
            "is it possible to get {x}?|where can i get {x}?|i forgot my {bare}. [Can you help?|What can I do?]|"
            "there is no {bare} in my {roomword}.|could someone bring {x} up?|may i ask for {x}?",
    # x: anything a guest may want
    "ask for": "i need {x}[|, please].|[can|could|may] i [have|get] {x}[|, please]?|i would like {x}[|, please].|we need {x}.|"
               "i am looking for {x}.|[can|could] you [give|get] me {x}?|[where|how] can i get {x}?|{x}, please.|"
               "is it possible to get {x}?|i would like to ask for {x}.|do you have {x}?",
    # x: a full clause stating a problem
    "problem": "{x}.|{x}. [can you help|what can i do|could you send someone|please help|what should i do]?|"
               "i am afraid {x}.|i have a problem. {x}.|[sorry, but|excuse me,] {x}.|i think {x}.|"
               "it seems that {x}.|[help|oh no|oh dear], {x}!|{x} and i do not know what to do.|i am calling because {x}.",
    # x: a complete question without its mark
    "q": "{x}?|{x}?|{x}?|[can you help me|i have a question|one question|just a quick question|may i ask something]: {x}?|"
         "i have a question. {x}?|one more thing: {x}?",
    "s": "{x}.|{x}.|{x}[|, please].|[well,|so,] {x}.",
}

_ARTICLE = re.compile(r"^(an?|the|some|more|another|extra|two|an extra|a pair of|some clean|new|clean|fresh) ")
GREETING = ("Hello", "Hi", "Good morning", "Good evening", "Good afternoon", "Hey", "Hello there", "Hi there", "Excuse me")
CLOSING = ("Thank you.", "Thanks.", "Thanks!", "Many thanks.", "Thank you very much.", "Thanks in advance.", "Cheers.")
ABOUT = ("I am in {roomword} {room}.", "We arrive {when}.", "We are staying {few} nights.", "I am arriving on {weekday}.",
         "I just checked in.", "We are a family of {few}.", "My name is {guest}.", "This is {person2} from {roomword} {room}.",
         "I have a booking for {date}.", "I am travelling with my {kin}.", "It is my first time here.")
CONTRACT = (("I am ", "I'm "), ("What is ", "What's "), ("Where is ", "Where's "), ("cannot", "can't"), ("do not", "don't"),
            ("I would ", "I'd "), ("does not", "doesn't"), ("is not", "isn't"), ("How much is", "How much's"))


def ask(template: str, rng: Random, facts) -> str:
    """Turn a question line, 'frame: phrase' or plain text, into one wording."""
    frame, colon, phrase = template.partition(": ")
    if colon and frame in FRAMES:
        facts["x"] = expand(phrase, rng, facts)
        if frame == "need":
            facts["bare"] = _ARTICLE.sub("", facts["x"])
        return tidy(expand(FRAMES[frame], rng, facts)).replace(" i ", " I ").replace(" i'", " I'")
    text = tidy(expand(template, rng, facts))
    if text[-1] not in ".?!":
        text += "?"
    return text


def dress(question: str, rng: Random, facts) -> str:
    """Add greetings, thanks, casing and punctuation as people type them."""
    roll = rng.random()
    if roll < 0.22:
        greeting = pick(rng, GREETING)
        question = greeting + (", " + lower_first(question) if rng.random() < 0.5 else "! " + question)
    elif roll < 0.28:
        question = tidy(expand(pick(rng, ABOUT), rng, facts)) + " " + question
    if rng.random() < 0.08:
        question += " " + pick(rng, CLOSING)
    elif question.endswith("?") and rng.random() < 0.06 and "please" not in question:
        question = question[:-1] + ", please?"
    return scruffy(question, rng)


_CAPITAL = frozenset(FIRST)


def lower_first(text: str) -> str:
    """Lower the first letter unless the word is always capital."""
    if text[:2] in ("I ", "I'") or text.split(" ", 1)[0] in _CAPITAL:
        return text
    return text[:1].lower() + text[1:]


def scruffy(text: str, rng: Random) -> str:
    """Sometimes type like someone in a hurry."""
    roll = rng.random()
    if roll < 0.14:
        text = text.lower()
    elif roll < 0.17:
        text = lower_first(text)
    elif roll < 0.18:
        text = text.upper()
    if rng.random() < 0.15:
        text = text.rstrip("?.!")
    if rng.random() < 0.08:
        for long, short in CONTRACT[:-1]:
            text = text.replace(long, short)
    return text
