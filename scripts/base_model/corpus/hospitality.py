"""Chats between guests and the front desk of an invented house."""
from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from random import Random

from .frames import ask, dress, scruffy
from .grammar import Facts, cap, expand, pick, say, tidy
from .topics import AMENITY_CARDS, BROKEN, FACTS, LENT, MADE, NOTED, TOWN, WRITTEN

PERSONAS = (
    "You are the [front desk clerk|receptionist|concierge|assistant|night porter|host] of {name}[, {a:house} in {town}|]. "
    "[Answer|Reply to] guests [politely|kindly|briefly|in short sentences|in a warm tone|clearly].",
    "You [work|help guests] at {name}, a [small|friendly|quiet|busy|modern|family] {house} in {town}. [Be kind and brief.|Keep your answers short.|]",
    "You are {first}, the [receptionist|concierge|host] at {name} in {town}. [You are {mood} and {mood2}.|]",
    "You are the [digital |chat |]assistant of {name}. Help guests with [their stay|questions about the {house}]. [Only talk about the {house}.|]",
    "This is the guest chat of {name} in {town}. Answer in [one or two|short and clear|polite] sentences.",
)
FACTS["mood"] = ("friendly", "calm", "cheerful", "polite", "patient", "formal", "helpful", "funny", "warm", "quick", "gentle", "careful")
LEAD = ("Thank you for asking. ", "Good question. ", "Let me see. ", "I can tell you that. ")
TAIL = (" Is there anything else I can do for you?", " Enjoy your time with us!", " Please let me know if you need anything else.",
        " Have a lovely day.", " I hope that helps.", " Just ask if you need more help.", " See you soon.")

OFF_TOPIC = """
who should i vote for|what do you think about the president|which party is the best|tell me about the election|is the government doing a good job|what is your opinion on taxes
which medicine should i take for my heart|what pills help against depression|how many tablets can i take|do i have cancer|what is the right dose of this drug
write my homework for me|solve this equation for x|write an essay about the french revolution|what is the square root of 7|explain photosynthesis|help me with my maths homework
write a python program|fix the bug in my code|how do i sort a list in java|write some html for my website|how do i install linux
which shares should i buy|should i invest in gold|is bitcoin a good investment|how can i get rich|where should i put my savings
who will win the world cup|what is the meaning of life|tell me a secret|write a poem about war|what is the capital of mongolia|who invented the telephone
can i sue my neighbour|how do i get a divorce|how do i write a will|is this contract legal
how do i hack a phone|how do i open a locked car|how can i cheat in a test|tell me the name of the guest in room {room}|give me the phone number of another guest
do you love me|are you a real person|will you marry me|what did you dream last night|how do black holes work|tell me about dinosaurs
""".strip().replace("\n", "|")
REFUSALS = (
    "I am sorry, [but |]I can only help with [questions about {name}|your stay at {name}|things to do with the {house}]. [Is there anything you need for your stay?|]",
    "That is [not something I can help with|outside of what I know], I am afraid. [I am happy to answer questions about the {house}.|Can I help you with your {roomword} or your stay?]",
    "I am afraid I cannot [help with|answer] that. [But|Still,] I will gladly tell you about the {house}, [breakfast|the town|your {roomword}] or [the pool|parking|check-out].",
    "Sorry, I am only the [receptionist|assistant] of {name}. Please ask me about [your stay|the {house}|our {s:roomword}].",
)
UNKNOWN = ("I am sorry, I do not have that information. Please ask [at reception|the front desk|a member of staff].",
           "I am afraid I do not know that. [Please call us at {phone}.|The team at reception can tell you.]",
           "That is not in my notes, I am sorry. Please ask [our team|the front desk].")


def any_topic(rng: Random):
    """A topic, drawn so that the written ones come up most."""
    roll = rng.random()
    return pick(rng, WRITTEN if roll < 0.5 else MADE if roll < 0.72 else TOWN if roll < 0.82 else LENT if roll < 0.92 else BROKEN)


def available(topic, rng: Random, facts: Facts) -> bool:
    """Whether this house has the thing; settled once per document and thing."""
    if not topic.no:
        return True
    key = "has:" + topic.name
    if key not in facts:
        dict.__setitem__(facts, key, rng.random() < 0.72)
    return facts[key]


def question(topic, rng: Random, facts: Facts) -> str:
    return ask(pick(rng, topic.ask), rng, facts)


def answer(topic, rng: Random, facts: Facts, asked: str = "") -> str:
    text = say(pick(rng, topic.yes if available(topic, rng, facts) else topic.no), rng, facts)
    if text.startswith("Yes, ") and _NOT_YES_NO.search(asked):
        text = cap(text[5:])
    roll = rng.random()
    if roll < 0.06 and text.split(" ")[0].rstrip(".,!") not in {"Yes", "No", "Of", "Certainly", "I", "Hello", "Welcome", "Goodbye", "Gladly", "Oh", "Thank", "How", "Congratulations", "Please", "Good", "Someone"}:
        text = pick(rng, LEAD) + text
    elif roll > 0.93 and not text.endswith("?") and "Please" not in text and topic.name not in ("greeting", "goodbye", "thanks"):
        text += pick(rng, TAIL)
    return text


_NOT_YES_NO = re.compile(r"(?i)\b(where|how|what|which|who|when|until)\b|\bi('d)? (need|want|am|hope|would)\b|\b(looking|tell me|we need|we want)\b")


def note_line(topic, rng: Random, facts: Facts) -> str:
    has = available(topic, rng, facts)
    return pick(rng, topic.note if has or not topic.not_note else topic.not_note)


def note(topic, rng: Random, facts: Facts) -> str:
    return say(note_line(topic, rng, facts), rng, facts)


_SLOT = re.compile(r"\{([^}]+)\}")
_COMMON = {"house", "roomword", "s:roomword", "name", "town"}


@cache
def slots(template: str) -> frozenset[str]:
    return frozenset(_SLOT.findall(template)) - _COMMON


def known_answer(topic, line: str, rng: Random, facts: Facts) -> str | None:
    """An answer that needs no other facts than the given note line."""
    told = slots(line)
    options = topic.yes if available(topic, rng, facts) else topic.no
    options = [text for text in options if told and slots(text) and slots(text) <= told]
    return say(pick(rng, options), rng, facts) if options else None


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def new_facts(rng: Random) -> Facts:
    return Facts(rng, FACTS)


def quick_chat(rng: Random) -> list[dict[str, str]]:
    """One to four questions, each answered from invented facts."""
    facts = new_facts(rng)
    chat = [message("system", say(pick(rng, PERSONAS), rng, facts))] if rng.random() < 0.24 else []
    turns = pick(rng, (1, 1, 1, 2, 2, 3, 4))
    for turn in range(turns):
        topic = any_topic(rng)
        asked = question(topic, rng, facts)
        chat.append(message("user", dress(asked, rng, facts)))
        chat.append(message("assistant", answer(topic, rng, facts, asked)))
        if topic.follow and available(topic, rng, facts) and rng.random() < 0.6:
            follow, reply = pick(rng, topic.follow)
            chat.append(message("user", scruffy(say(follow, rng, facts), rng)))
            chat.append(message("assistant", say(reply, rng, facts)))
    if rng.random() < 0.08:
        chat.append(message("user", pick(rng, ("Thank you!", "thanks", "Thanks a lot.", "Great, thank you.", "ok thanks", "Perfect."))))
        chat.append(message("assistant", say("[You are welcome.|My pleasure.|You are very welcome.|Gladly.] [Enjoy your stay!|"
                                             "Have a lovely day.|Please let me know if you need anything else.|]", rng, facts)))
    return chat


def noted_chat(rng: Random) -> list[dict[str, str]]:
    """The system message lists facts, and the answers repeat them."""
    facts = new_facts(rng)
    topics = rng.sample(NOTED, rng.randint(3, 9))
    lines = [note_line(topic, rng, facts) for topic in topics]
    notes = [say(line, rng, facts) for line in lines]
    style = rng.random()
    if style < 0.4:
        listed = "\n".join("- " + line for line in notes)
    else:
        listed = " ".join(notes)
    head = say(pick(rng, PERSONAS), rng, facts)
    intro = pick(rng, (" Facts:", " Here is what you know:", " Notes:", " About the house:", ""))
    chat = [message("system", head + intro + ("\n" if style < 0.4 else " ") + listed)]
    for turn in range(pick(rng, (1, 1, 2, 2, 3))):
        if rng.random() < 0.1:
            other = pick(rng, WRITTEN + TOWN)
            if other not in topics and other.note and other.name not in ("thanks", "greeting", "goodbye"):
                chat.append(message("user", dress(question(other, rng, facts), rng, facts)))
                chat.append(message("assistant", say(pick(rng, UNKNOWN), rng, facts)))
                continue
        which = rng.randrange(len(topics))
        chat.append(message("user", dress(question(topics[which], rng, facts), rng, facts)))
        reply = known_answer(topics[which], lines[which], rng, facts) if rng.random() < 0.6 else None
        chat.append(message("assistant", reply or notes[which] if rng.random() < 0.85 else pick(rng, LEAD) + notes[which]))
    return chat


CARDS = ("{n}: open {o} to {c}, {w}.", "{n}: {w}, {o} to {c}.", "The {l} is {w} and is open from {o} to {c}.",
         "{n} ({w}): from {o} to {c}.", "You can use the {l} from {o} to {c}. It is {w}.")


def card_chat(rng: Random) -> list[dict[str, str]]:
    """The system message has a card for each amenity; questions pick one fact from one card."""
    facts = new_facts(rng)
    cards = rng.sample(AMENITY_CARDS, rng.randint(2, 6))
    style = pick(rng, CARDS)
    rows = []
    for base, _, _ in cards:
        facts["has:" + base.name] = True
        label = base.name.removeprefix("breakfast ") if base.name == "breakfast terrace" else base.name
        key = base.name.replace(" ", "")
        rows.append(tidy(style.format(n=label.capitalize(), l=label, o=facts[key + "_o"], c=facts[key + "_c"], w=facts[key + "_w"])))
    chat = [message("system", say(pick(rng, PERSONAS), rng, facts) + "\n" + "\n".join(rows))]
    for _ in range(pick(rng, (1, 2, 2, 3))):
        topic = pick(rng, pick(rng, cards))
        asked = question(topic, rng, facts)
        chat.append(message("user", dress(asked, rng, facts)))
        chat.append(message("assistant", answer(topic, rng, facts, asked)))
    return chat


def refusal_chat(rng: Random) -> list[dict[str, str]]:
    """A question that has nothing to do with the house, kindly turned down."""
    facts = new_facts(rng)
    chat = [message("system", say(pick(rng, PERSONAS), rng, facts))]
    if rng.random() < 0.4:
        topic = any_topic(rng)
        chat += [message("user", dress(question(topic, rng, facts), rng, facts)), message("assistant", answer(topic, rng, facts))]
    text = say(OFF_TOPIC, rng, facts)
    text += "." if text.split(" ")[0] in ("Write", "Tell", "Solve", "Explain", "Help", "Fix", "Give") else "?"
    chat += [message("user", scruffy(text, rng)), message("assistant", say(pick(rng, REFUSALS), rng, facts))]
    return chat


DINING = ("address", "phone number", "payment", "tipping", "booking a table", "menu", "kids menu", "vegetarian food", "vegan food", "allergies",
          "halal and kosher", "happy hour", "drinks", "dress code", "dinner", "lunch", "parking", "wheelchair", "smoking", "pets", "manager",
          "lost and found", "name of house", "email", "drinking water", "greeting", "goodbye", "thanks", "voucher", "bus", "weddings", "languages")
_HOTEL_WORDS = re.compile(r"room|reception|desk|\bstay|night|check|guide dogs|breakfast")


def _for_dining(topic):
    keep = lambda lines: [line for line in lines if not _HOTEL_WORDS.search(line)]
    return replace(topic, ask=keep(topic.ask), yes=keep(topic.yes), no=keep(topic.no))


AT_TABLE = [topic for topic in map(_for_dining, (t for t in WRITTEN if t.name in DINING)) if topic.ask and topic.yes]
WAITERS = ("You are a [waiter|waitress|host] at {name} in {town}. [Be polite and brief.|Answer in short sentences.|]",
           "You answer questions for {name}, a [small|busy|friendly|family] restaurant in {town}.",
           "This is the chat of {name}, a restaurant in {town}. [Answer kindly.|Keep it short.|]")


def dining_chat(rng: Random) -> list[dict[str, str]]:
    """Guests ask a restaurant."""
    facts = Facts(rng, FACTS, kind="restaurant", house="restaurant")
    chat = [message("system", say(pick(rng, WAITERS), rng, facts))] if rng.random() < 0.6 else []
    for topic in rng.sample(AT_TABLE, pick(rng, (1, 1, 2, 3))):
        asked = question(topic, rng, facts)
        chat.append(message("user", scruffy(asked, rng)))
        chat.append(message("assistant", answer(topic, rng, facts, asked)))
    return chat


HANDED = ("Read this first.\n", "Here are some facts about a {house}.\n", "Use these notes to answer.\n", "Information:\n", "")


def handed_over(chat: list[dict[str, str]], rng: Random) -> list[dict[str, str]]:
    """The same chat with the facts given by the user instead of the system message."""
    facts = chat[0]["content"].split("\n", 1)[-1]
    first = message("user", expand(pick(rng, HANDED), rng, {"house": "hotel"}) + facts + "\n" + pick(rng, ("", "Question: ")) + chat[1]["content"])
    return [first] + chat[2:]


def hospitality(rng: Random) -> list[dict[str, str]]:
    roll = rng.random()
    if roll < 0.05:
        return dining_chat(rng)
    if roll < 0.64:
        return quick_chat(rng)
    if roll > 0.94:
        return refusal_chat(rng)
    chat = card_chat(rng) if roll < 0.76 else noted_chat(rng)
    return handed_over(chat, rng) if "\n" in chat[0]["content"] and rng.random() < 0.5 else chat
