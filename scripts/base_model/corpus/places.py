"""Invented houses: names, towns, people, and the facts a front desk knows."""
from __future__ import annotations

from random import Random

from .grammar import pick

FIRST = """Anna Ben Clara David Emma Felix Grace Henry Iris Jack Karen Leo Maria Nina Oscar Paula Quentin Rosa
Sam Tina Umar Vera Will Yara Zoe Adam Beth Carl Dora Ella Frank Gina Hugo Ivy James Kate Liam Mona Noah Olga
Peter Ruth Simon Tom Ursula Victor Wendy Alice Bruno Carmen Daniel Eva Fiona George Hannah Ian Julia Kofi Lucy
Mark Nadia Omar Priya Rita Steve Tara Uma Vincent Amir Bella Chloe Diego Elena Fred Greta Hassan Ines Joan Kenji
Laura Martin Nora Owen Pablo Rachel Sofia Theo Lin Yusuf Mei Aisha Boris Chen Dana Erik Freya Gavin Helen Isaac
Jasmine Kevin Lena Miguel Natalie Otto Petra Ravi Sara Tariq Viola Walter Zara Ahmed Bridget Colin Denise""".split()

LAST = """Adams Baker Carter Dixon Evans Foster Green Harris Irving Jones King Lopez Miller Nelson Owens Parker
Quinn Rossi Smith Turner Underwood Vance Walker Young Abbot Brown Clark Dunn Ellis Fisher Grant Hill Hunt James Khan
Lee Moore Novak Olsen Patel Reed Silva Taylor Weber Wood Bell Cook Davis Fox Garcia Hall Kelly Lamb Marsh Nash Page
Rose Shaw Stone Tate Wells White Berg Costa Diaz Ford Gray Hart Jensen Klein Lang Mason Okoro Price Ryan Sato Tanaka
Webb Ward Singh Murphy Mills Sharp Winter Summers Marino Dubois Larsen Keller Brooks Barnes Bishop Hughes""".split()

TOWN_HEAD = """Ash Oak Elm Wood Stone Green White Black Red Mill Bridge River Lake Sea Sand Clay North South East
West High Low Long Sun Moon Star Rose Lily Fern Hazel Maple Cedar Pine Birch Willow Thorn Fox Deer Hart Swan Hawk
Raven Eagle Wolf Bear King Queen Bishop Abbot Castle Kings Market Harbour Silver Gold Iron Copper Salt Honey Apple
Cherry Plum Berry Barley Corn Wheat Winter Summer Spring Autumn Storm Wind Rain Snow Frost Shell Pebble Coral""".split()
TOWN_TAIL = """ton ford ham field bridge wood well bury mouth haven port dale ley worth stead combe brook pool
gate side cliff shore bay hill mere wick land view""".split()
TOWNS = """Lisbon Oslo Dublin Bergen Vienna Prague Bristol Geneva Turin Malaga Nice Ghent Bruges Salzburg Galway York
Bath Brighton Oxford Cardiff Inverness Boston Seattle Denver Quebec Perth Hobart Dunedin Kyoto Hanoi Cork Porto
Seville Valencia Verona Naples Athens Split Riga Tallinn Helsinki Aarhus Malmo Zurich Lucerne Innsbruck""".split()

NAME_ADJECTIVE = """Grand Royal Old New Golden Silver Blue Green White Red Little Quiet Happy Sunny Central Park
Garden Harbour River Lake Mountain Forest Meadow Valley Ocean Coral Crystal Velvet Copper Ivory Amber Emerald Sapphire
Noble Regal Imperial Union Station Market Castle Bridge Mill Abbey Orchard Vineyard Windmill Lighthouse Anchor Compass
Northern Southern Eastern Western Hidden Misty Bright Gentle Friendly Merry Lucky Lazy Wandering Sleeping Dancing""".split()
NAME_NOUN = """Crown Palace Lion Swan Fox Stag Bear Eagle Owl Heron Robin Falcon Dolphin Whale Seal Otter Badger Hare
Rose Lily Tulip Daisy Ivy Oak Elm Maple Willow Pine Cedar Olive Lemon Orange Cherry Peach Star Moon Sun Cloud Wave
Tide Shore Bay Cove Cliff Rock Pebble Shell Pearl Anchor Lantern Candle Bell Clock Tower Gate Arch Terrace View Court
Manor Lodge Villa Retreat Haven Harbour House Corner Garden Meadow Orchard Mill Barn Cottage Bridge River Lake""".split()

STREET = """Church Station Market Mill Park High Bridge Castle Garden Queen King Victoria Harbour Beach River Lake Hill
Forest School Abbey Chapel Orchard Rose Maple Cedar Oak Elm Willow Baker Potter Weaver Fisher Miller Tanner Silver
Golden North South East West Spring Summer Winter College Museum Theatre Palace Cannon Canal Tower Linden""".split()

# kind: (names, word for a bedroom, weight)
KINDS = {
    "hotel": ("The {na} {nn} Hotel|Hotel {nn}|The {na} {nn}|The {nn} Hotel|Hotel {na} {nn}|The {town} {nn} Hotel|"
              "The {last} Hotel|{na} {nn} Suites|The {na} Hotel", "room", 50),
    "inn": ("The {na} {nn} Inn|The {nn} Inn|The {nn} and {nn2} Inn|{last}'s Inn|The {na} {nn}", "room", 10),
    "guest house": ("{nn} Guest House|{na} {nn} Guest House|{last} Guest House|{first}'s Guest House", "room", 10),
    "hostel": ("The {na} {nn} Hostel|{town} Hostel|{nn} Backpackers|The {na} Hostel", "room", 7),
    "campsite": ("{na} {nn} Campsite|{nn} Camping|{town} Holiday Park|{na} {nn} Camp", "cabin", 5),
    "ship": ("{na} {nn}|Sea {nn}|Ocean {nn}|Queen {first}|Star of {town}", "cabin", 5),
    "resort": ("{na} {nn} Resort|The {nn} Resort|{town} Spa Resort|{na} {nn} Beach Resort", "room", 7),
    "restaurant": ("The {na} {nn} Restaurant|{first}'s Kitchen|Cafe {nn}|The {nn} Bistro|{last}'s Grill|Trattoria {first}|"
                   "The {na} {nn}|The {nn} Tavern", "table", 0),
    "lodge": ("{na} {nn} Lodge|{last} Lodge|{nn} Mountain Lodge|The {na} Lodge", "room", 6),
}
_KIND_LIST = [kind for kind, row in KINDS.items() for _ in range(row[2])]


def _town(rng: Random, f) -> str:
    roll = rng.random()
    if roll < 0.2:
        return pick(rng, TOWNS)
    name = pick(rng, TOWN_HEAD) + pick(rng, TOWN_TAIL)
    if roll > 0.9:
        name = pick(rng, ("Port ", "Upper ", "New ", "Little ", "Great ", "Saint ")) + pick(rng, TOWN_HEAD) + "ton"
    return name


def clock(*hours: float):
    """A time among the given hours, in the document's way of writing times."""
    def make(rng: Random, f) -> str:
        minutes = int(pick(rng, hours) * 60)
        hour, minute = divmod(minutes, 60)
        hour %= 24
        style = f["clock_style"]
        if style == "24":
            return f"{hour}:{minute:02d}" if hour > 9 else f"0{hour}:{minute:02d}"
        if minutes == 720:
            return "noon"
        if hour == 0 and minute == 0:
            return "midnight"
        half = "am" if hour < 12 else "pm"
        if style == "full" or minute:
            return f"{(hour - 1) % 12 + 1}:{minute:02d} {half}"
        return f"{(hour - 1) % 12 + 1} {half}"
    return make


def money(*amounts: float):
    """A price among the given amounts, in the document's currency."""
    def make(rng: Random, f) -> str:
        amount = pick(rng, amounts)
        digits = f"{amount:.2f}" if amount != int(amount) else str(int(amount))
        style = f["currency"]
        if style in "$":
            return "$" + digits
        return f"{digits} {style}"
    return make


def number(low: int, high: int, step: int = 1):
    return lambda rng, f: str(rng.randrange(low, high + 1, step))


def _place_in_house(rng: Random, f) -> str:
    kind = f["kind"]
    if kind == "ship":
        return pick(rng, ("on deck {n}", "on the sun deck", "on deck {n}, next to the stairs",
                          "on the top deck", "at the front of deck {n}")).format(n=rng.randint(2, 12))
    if kind == "campsite":
        return pick(rng, ("next to the main gate", "behind the shop", "in the main building", "beside the lake path",
                          "near the entrance", "across from reception", "by the playground"))
    floor = pick(rng, ("first", "second", "third", "fourth", "fifth", "sixth", "top", "lower"))
    return pick(rng, ("on the ground floor", "on the {} floor", "on the {} floor", "on the {} floor", "in the basement",
                      "next to the lobby", "behind reception", "on the {} floor, to the left of the lift",
                      "on the {} floor, at the end of the hall", "in the garden wing", "across from the lift",
                      "on the ground floor, past the bar", "to the right of the main entrance")).format(floor)


def _password(rng: Random, f) -> str:
    word = pick(rng, TOWN_HEAD).lower()
    tail = pick(rng, TOWN_TAIL)
    return pick(rng, (f"{word}{rng.randint(10, 9999)}", f"{word}-{tail}", f"{word}{tail}{rng.randint(1, 99)}",
                      f"{word.capitalize()}{rng.randint(100, 2030)}", f"welcome{rng.randint(1, 999)}",
                      f"{word}-{pick(rng, TOWN_HEAD).lower()}-{rng.randint(10, 99)}"))


def _phone(rng: Random, f) -> str:
    return pick(rng, ("0{a} {b} {c}", "+{d} {a} {b} {c}", "{a}-{b}-{c}", "555 0{a}")).format(
        a=rng.randint(100, 999), b=rng.randint(100, 999), c=rng.randint(100, 9999), d=rng.randint(30, 99))


ANY_HOUR = tuple(h / 2 for h in range(12, 46))
HOUSE = {
    "first": FIRST, "last": LAST, "na": NAME_ADJECTIVE, "nn": NAME_NOUN, "town": _town,
    "kind": _KIND_LIST, "house": "{kind}",
    "name": lambda rng, f: _named(rng, f),
    "roomword": lambda rng, f: KINDS[f["kind"]][1],
    "clock_style": ("12", "12", "full", "24", "24"),
    "currency": ("euros", "euros", "$", "dollars", "pounds", "pounds"),
    "street": "{streetname} [Street|Street|Road|Lane|Avenue|Square]", "streetname": STREET,
    "address": "{n200} {street}, {town}", "n200": number(1, 240),
    "spot": _place_in_house, "password": _password, "phone": _phone,
    "open": clock(6, 6.5, 7, 7.5, 8, 9, 10, 11), "close": clock(17, 18, 19, 20, 20.5, 21, 21.5, 22, 22.5, 23, 24),
    "network": "{nn}[Guest|-Guest| Guest|Wifi|_Free|Net]",
    "room": number(101, 640), "room2": number(2, 64), "ext": number(0, 9),
    "small": money(1.5, 2, 3, 4, 5, 6, 2.5, 3.5, 4.5), "mid": money(*range(8, 31)), "big": money(*range(35, 121, 5)),
    "rate": money(*range(60, 321, 5)), "few": ("two", "three", "four", "five", "six"), "days": number(2, 14),
    "minutes": ("5", "10", "15", "20", "25", "30", "40", "45", "ten", "fifteen", "twenty", "five"),
    "metres": ("50", "80", "100", "150", "200", "250", "300", "400", "500", "600", "800"),
    "hours": ("12", "24", "48", "72"), "percent": ("10", "15", "20", "25", "30", "50"),
    "person": "{first} {last}", "guest": "[Mr|Mrs|Ms|Mr|Ms] {last2}", "year": number(1790, 2019),
    "weekday": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "month": "January February March April May June July August September October November December".split(),
    "date": "{month} {dayno}", "dayno": number(1, 28),
    "checkin": clock(13, 14, 14.5, 15, 15, 16, 17), "checkout": clock(9.5, 10, 10.5, 11, 11, 12),
    "nrooms": number(6, 240), "floors": ("two", "three", "four", "five", "six", "seven", "nine", "twelve"),
}


def _named(rng: Random, f) -> str:
    from .grammar import expand
    return expand(KINDS[f["kind"]][0], rng, f)
