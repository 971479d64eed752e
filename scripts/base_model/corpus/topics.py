"""All front desk topics: the written ones, and those made from tables of amenities, items and faults."""
from __future__ import annotations

import re
from dataclasses import dataclass, field

from . import topics_food, topics_house, topics_out, topics_stay
from .places import ANY_HOUR, HOUSE, clock, number

FACTS = HOUSE | {
    "early": clock(9, 10, 11, 12), "late": clock(14, 15, 16, 18), "quiet": clock(21, 22, 22.5, 23),
    "bstart": clock(6, 6.5, 7, 7.5, 8), "bend": clock(9.5, 10, 10.5, 11, 11.5), "dstart": clock(17.5, 18, 18.5, 19),
    "dend": clock(21, 21.5, 22, 22.5, 23), "lstart": clock(11.5, 12, 12.5), "lend": clock(14, 14.5, 15),
    "hstart": clock(16, 17, 18), "hend": clock(18.5, 19, 19.5, 20), "anyhour": clock(*ANY_HOUR),
    "bplace": "[{spot}|{spot}|in the restaurant {spot}|in the dining hall]", "childage": number(4, 14), "adultage": number(16, 21),
    "n10": number(5, 12), "n100": number(8, 99), "n1000": number(1000, 9999), "percent2": ("5", "10"), "km": number(2, 38),
    "minutes2": ("10", "15", "20", "30", "40", "45", "60"), "outside": (
        "in front of the main door", "in the courtyard", "in the garden", "next to the car park", "on the terrace"),
    "outside2": ("behind the building", "in front of the house", "across the street", "next to the garden",
                 "around the corner", "on the other side of the road"),
    "view": ("south", "north", "east", "west", "garden", "sea", "lake", "mountain"), "town2": HOUSE["town"],
    "email": "[info|hello|stay|desk|booking]@{mailname}.example", "mailname": lambda rng, f: "".join(
        c for c in f["name"].lower().replace("the ", "") if c.isalpha()),
    "when": "[tomorrow|tonight|on {weekday}|at {anyhour}|next week]", "kin": "[husband|wife|sister|friend|mother|two children|dog|brother]",
    "dish": ("grilled salmon", "roast chicken", "beef stew", "mushroom risotto", "lamb curry", "vegetable soup", "fish pie",
             "tomato pasta", "baked trout", "duck with orange", "pea soup", "potato pancakes", "onion tart", "bean stew",
             "spinach lasagne", "chicken pie", "fried rice", "cheese dumplings", "pumpkin soup", "steak with chips"),
    "dessert": ("apple pie", "chocolate cake", "lemon tart", "vanilla ice cream", "plum cake", "rice pudding", "cheesecake",
                "fruit salad", "carrot cake", "pancakes with honey", "cherry pie", "caramel pudding"),
    "sight": ("castle", "old harbour", "cathedral", "town museum", "botanical garden", "lighthouse", "covered market",
              "art gallery", "zoo", "old town hall", "railway museum", "glass tower", "stone bridge", "royal park",
              "aquarium", "opera house", "city wall", "windmill", "toy museum", "waterfall"),
}

# name; other nouns; article form; what guests do there; extra remark
AMENITIES = """
pool; the swimming pool, the pool; a pool, a swimming pool, an indoor pool; use the pool, go swimming, have a swim, swim; Towels are at the entrance.
gym; the gym, the fitness room; a gym, a fitness room, a fitness centre; use the gym, work out, lift weights, exercise; Please wear clean shoes.
sauna; the sauna, the steam room; a sauna, a steam room; use the sauna, go to the sauna; Please bring a towel.
spa; the spa, the wellness area; a spa, a wellness area; use the spa, visit the spa, book a spa treatment; Please book one day before.
hot tub; the hot tub, the whirlpool; a hot tub, a whirlpool; use the hot tub, sit in the hot tub; It is nice and warm all year.
massage room; the massage room; a massage room, a room for massages; book a massage, get a massage, have a back massage; A massage lasts one hour.
hairdresser; the hairdresser, the hair salon; a hairdresser, a hair salon; get a haircut, have my hair cut; Please make an appointment.
bar; the bar, the lobby bar; a bar; have a drink in the bar, sit in the bar; Our bar serves snacks, too.
rooftop bar; the rooftop bar; a rooftop bar; go up to the rooftop bar; The view is lovely.
restaurant; the restaurant; a restaurant; eat in the restaurant; Please book a table.
cafe; the cafe; a cafe, a coffee shop; have coffee in the cafe; The cakes are made here.
breakfast terrace; the terrace; a terrace; sit on the terrace, have coffee on the terrace; There is a heater for cool evenings.
garden; the garden; a garden; sit in the garden, walk in the garden; There are chairs under the trees.
library; the library, the reading room; a library, a reading room; read in the library, borrow a book; You may take a book to your room.
games room; the games room; a games room; play table tennis, play darts, play games; There is table tennis and darts.
kids club; the kids club; a kids club, a play room for children; leave the children in the kids club, bring my son to the kids club; It is for children from four to twelve.
playground; the playground; a playground, a place for children to play; let the children play outside; There are swings and a slide.
cinema room; the cinema room; a cinema, a cinema room; watch a film, see a film; There is a new film every night.
tennis court; the tennis court; a tennis court; play tennis; We lend rackets and balls.
golf course; the golf course; a golf course; play golf; Beginners can take lessons.
business centre; the business centre; a business centre, a computer for guests; use a computer, work in the business centre; There are two computers and a printer.
meeting room; the meeting room, the conference room; a meeting room, a conference room; hold a meeting, rent a meeting room, book the conference room; It has a screen and seats for twenty.
gift shop; the gift shop, the souvenir shop; a gift shop, a souvenir shop; buy souvenirs, buy postcards, buy a gift; You can pay by card.
small shop; the shop; a shop; buy snacks, buy milk and bread; It sells food and drinks.
ski room; the ski room; a ski room, a place for skis; leave my skis, store our skis; The key is at reception.
bike room; the bike room, the bicycle shed; a bike room, a bicycle shed, a place for bikes; store my bike, lock up my bike; It is locked at night.
shared kitchen; the shared kitchen, the guest kitchen; a shared kitchen, a kitchen for guests; cook my own food, cook a meal, use the kitchen; Please wash up after you cook.
laundry room; the laundry room; a laundry room, a washing machine; use the washing machine; Soap powder is sold at reception.
chapel; the chapel, the prayer room; a chapel, a prayer room, a quiet room to pray; pray, visit the chapel; Everyone is welcome.
lounge; the lounge, the lobby lounge; a lounge, a place to sit; sit in the lounge, relax in the lounge; There is a fireplace.
barbecue area; the barbecue area, the barbecue; a barbecue, a barbecue area; have a barbecue, grill some meat; Charcoal is sold in the shop.
private beach; the private beach, the hotel beach; a private beach; go to the beach, sunbathe; There are sunbeds for our guests.
reception; the reception, the front desk; a reception desk; speak to someone at reception; Someone will be happy to help you.
""".strip()

OUTDOOR = {"garden", "playground", "tennis court", "golf course", "barbecue area", "private beach", "breakfast terrace"}
UNPRICED = {"bar", "rooftop bar", "restaurant", "cafe", "gift shop", "small shop", "hairdresser", "chapel", "lounge", "garden", "breakfast terrace",
            "reception", "library", "playground"}

# with article; the plain noun; where it is found or what is done
ITEMS = """
extra towels, more towels, some clean towels, another towel, two bath towels
another pillow, an extra pillow, two more pillows, a softer pillow
an extra blanket, another blanket, a warm blanket
an iron, an iron and an ironing board, an ironing board
a hair dryer
an extra bed, a folding bed, another bed
a baby cot, a cot, a crib, a bed for a baby
a high chair, a child seat
a phone charger, a charging cable, a charger for a phone
a power adapter, an adapter, a travel plug
an umbrella
a toothbrush, some toothpaste, a toothbrush and toothpaste
a razor, some shaving foam
some soap, more soap, some shampoo, shower gel, more shampoo
toilet paper, more toilet paper, a roll of toilet paper
a bathrobe, two bathrobes
slippers, a pair of slippers
a kettle, an electric kettle
a fan, an electric fan
an electric heater, a small heater
a desk lamp, a reading lamp
a sewing kit, needle and thread, a needle
a corkscrew, a bottle opener
two glasses, some clean glasses, a wine glass
a plate and a knife, some plates, two spoons
a bucket of ice
more coat hangers, some hangers, clothes hangers
tissues, a box of tissues
a pen and paper, some paper, a pen, an envelope
a pack of cards, a board game, some toys
earplugs, a pair of earplugs
a mosquito net, insect spray
a comb, a hairbrush
clean sheets, fresh sheets, a new duvet
a beach towel, pool towels
a torch, a candle
batteries, new batteries for the remote control
a vase, a vase for flowers
a laundry bag, a plastic bag
a wheelchair, a walking stick
""".strip()

FAULTS = """
tap: drips, is leaking, does not turn off
shower: is broken, leaks, does not work, has no water
toilet: is blocked, does not flush, keeps running
sink: is blocked, does not drain
lamp: is broken, does not work, keeps flashing
light in the bathroom: does not work, is broken, keeps going off
window: does not close, does not open, is broken
door: does not lock, squeaks, is stuck, does not close properly
lock: is broken, is stuck
bed: is broken, squeaks, is too hard
chair: is broken, has a loose leg
curtain: is torn, fell down
blind: is stuck, does not go up
telephone: does not work, makes no sound
remote control: does not work, is missing
hair dryer: does not work, stopped working
kettle: does not work, leaks
fridge: does not work, makes a loud noise
mirror: is cracked, fell down
wardrobe: does not close, has no hangers
radiator: is cold, makes a strange noise
socket: does not work, is loose
alarm clock: rings at night, is wrong
balcony door: does not open, is stuck
smoke alarm: keeps beeping, went off
fan: does not work, is very loud
drawer: is stuck
bath: does not drain, is leaking
ceiling: is leaking, is dripping
carpet: is loose, is torn
""".strip()

NEARBY = """
pharmacy, chemist, drugstore; buy medicine, get some medicine, buy something for a headache
supermarket, grocery store, food shop; buy food, buy groceries, buy some water
cash machine, ATM; get cash, take out money, get some money
bank; open an account, talk to a bank
post office; send a parcel, post a letter
beach; lie on the beach, swim in the sea
museum; see a museum, look at old paintings
park; go for a walk in a park, sit in a park
bakery; buy fresh bread, buy a cake
hospital; visit someone in hospital
police station; report a theft, talk to the police
petrol station, gas station; buy petrol, fill up my car
dentist; see a dentist, have my tooth looked at
bookshop, book store; buy a book, buy a guidebook
church; go to church, attend a service
mosque; pray in a mosque
cinema, movie theatre; watch a film in town
theatre; see a play
hairdresser, barber; get my hair cut in town
swimming pool in town; swim lanes in a real pool
library; read old books in town
tourist office, visitor centre; get tourist information
shoe shop; buy new shoes, buy boots
clothes shop; buy a jacket, buy a warm coat
phone shop; buy a SIM card, get a SIM card
optician; have my glasses repaired
vet; take my dog to a vet
zoo; see the animals in a zoo
market; buy fresh fruit, buy fish
underground station, metro station; take the metro, ride the underground
harbour; see the boats, look at the ships
ice cream shop; buy an ice cream
toy shop; buy a toy for my son
flower shop; buy flowers
wine shop; buy a good bottle of wine
sports shop; buy a tent, buy running shoes
""".strip()


@dataclass
class Topic:
    name: str
    ask: list[str] = field(default_factory=list)
    yes: list[str] = field(default_factory=list)
    no: list[str] = field(default_factory=list)
    note: list[str] = field(default_factory=list)
    not_note: list[str] = field(default_factory=list)
    follow: list[tuple[str, str]] = field(default_factory=list)


_SHARED = re.compile(r"\{(mid|small|small2|big|open|close|street|minutes|minutes2|metres|days|hours|percent|n100|few|km|weekday|spot)\}")


def _own_slots(text: str, tag: int | str) -> str:
    """Tag the loose slots, so that two topics of one house do not share a price or a street."""
    return _SHARED.sub(rf"{{\1#{tag}}}", text)


def _read(table: str) -> list[Topic]:
    topics: list[Topic] = []
    for line in table.strip().splitlines():
        if not line.strip():
            continue
        mark, text = line[0], line[2:].strip()
        if mark == "#":
            topics.append(Topic(text))
            continue
        text = _own_slots(text, len(topics))
        if mark == ">":
            question, answer = text.split(" => ")
            topics[-1].follow.append((question, answer))
        else:
            parts = {"?": "ask", "+": "yes", "-": "no", "=": "note", "~": "not_note"}
            getattr(topics[-1], parts[mark]).append(text)
    return topics


def _choice(items: str) -> str:
    return "[" + "|".join(item.strip() for item in items.split(",")) + "]"


def _amenity(row: str) -> list[Topic]:
    name, the, some, use, remark = (cell.strip() for cell in row.split(";"))
    key = name.replace(" ", "")
    for slot, maker in (("o", FACTS["open"]), ("c", FACTS["close"]), ("p", FACTS["mid"]), ("w", FACTS["outside2" if name in OUTDOOR else "spot"])):
        FACTS[f"{key}_{slot}"] = maker
    if name == "rooftop bar":
        FACTS[key + "_w"] = ("on the roof", "on the top floor", "on the roof terrace")
    the, some, use = _choice(the), _choice(some), _choice(use)
    plain = "the " + name if name != "breakfast terrace" else "the terrace"
    hours, spot, price = "from {%s_o} to {%s_c}" % (key, key), "{%s_w}" % key, "{%s_p}" % key
    unpriced = name in UNPRICED
    follow = [("[and|] when is it open?", f"{plain} is open {hours}."), ("[and|] where is it?", f"It is {spot}."),
              ("can i walk there?", "Yes, it is only a few steps.") if unpriced else
              ("is it open every day?", f"Yes, it is open {hours} every day."),
              ("what are the hours?", f"It is open {hours}."), ("how do i get there?", f"{plain} is {spot}.")]
    if name == "reception":
        return [Topic("reception hours", [f"when: {the}"], [f"{plain} is open {hours}."], [], [f"{plain} is open {hours}."]),
                Topic("reception place", [f"where: {the}"], [f"{plain} is {spot}."], [], [f"{plain} is {spot}."])]
    topics = [
        Topic(name, [f"have: {some}", f"can: {use}", f"have: {some}"],
              [f"Yes, [there is|we have] {some}. It is {spot}.", f"Yes, you can use {plain} {hours}. {remark}",
               f"Yes, {plain} is {spot} and is open {hours}.", f"Yes, certainly. {plain} is {spot}. {remark}"],
              [f"I am sorry, [we do not have {some}|there is no {name} here].", f"No, I am afraid we have no {name}."],
              [f"{plain} is {spot}.", f"{plain} is open {hours}."], [f"There is no {name}."], follow),
        Topic(name + " hours", [f"when: {the}"],
              [f"{plain} is open {hours}[| every day].", f"You can use {plain} {hours}.", f"It is open {hours}. {remark}",
               f"{plain} opens at {{{key}_o}} and closes at {{{key}_c}}."], [], [f"{plain} is open {hours}."], [], follow[1:3]),
        Topic(name + " place", [f"where: {the}", f"where: {the}", f"q: where can i {use}"],
              [f"{plain} is {spot}.", f"You will find {plain} {spot}.", f"{plain} is {spot}. {remark}"], [],
              [f"{plain} is {spot}."], [], follow[:1] + follow[2:3]),
        Topic(name + " price", [f"price: {the}"],
              [f"Using {plain} costs {price}.", f"It costs {price} per person."],
              [f"{plain} is free for our guests.", f"You do not have to pay. {plain} is free for all guests."],
              [f"Using {plain} costs {price}."], [f"{plain} is free for guests."], follow[:2]),
    ]
    return topics[:3] if name in UNPRICED else topics


def _item(row: str) -> Topic:
    things = _choice(row)
    first = row.split(",")[0]
    return Topic(first, [f"need: {things}"],
                 ["Of course. We will bring {x} to your {roomword} [in {minutes} minutes|right away|at once].",
                  "Certainly, [I will send|we will bring] {x} to your {roomword} [now|in {minutes} minutes].",
                  "No problem. You can get {x} at the front desk. [It is free.|]",
                  "Yes, gladly. What is your {roomword} number, so that we can bring you {x}?"],
                 [], [f"Guests can ask reception for {first}."])


def _fault(row: str) -> Topic:
    thing, faults = row.split(": ")
    return Topic(thing + " fault", [f"problem: the {thing} [in my {{roomword}}|] {_choice(faults)}",
                                    f"problem: my {thing} {_choice(faults)}", f"you: repair the {thing}[| in my {{roomword}}]"],
                 [f"I am sorry about the {thing}. [I will send someone|Someone will come] to [repair|look at] it [right away|in {{minutes}} minutes].",
                  f"I am sorry. Our technician will look at the {thing} [this morning|at once|in {{minutes}} minutes]. What is your {{roomword}} number?",
                  f"Thank you for telling us. We will repair the {thing} [today|as soon as possible]."], [], [])


def _nearby(row: str) -> Topic:
    names, uses = row.split(";")
    first = names.split(",")[0].strip()
    key = "near" + first.replace(" ", "")
    FACTS[key] = _own_slots("[on {street}|on {street}, {metres} metres from here|{minutes} minutes away on foot, on {street}|next to the {sight}]", key)
    some = _choice(names)
    return Topic(first + " nearby", [
        f"where: the [nearest|closest|next] {some}", f"q: is there a {first} [nearby|near here|around here|close by]",
        f"q: where is the [nearest|closest] {some}", f"q: where can i {_choice(uses)}", f"s: i need to find a {first}", f"s: i need to {_choice(uses)}", f"q: do you know a {first} near the {{house}}"],
        [f"The nearest {first} is {{{key}}}.", f"There is a {first} {{{key}}}.",
         f"You will find a {first} {{{key}}}. [I can show you on the map.|]"], [], [f"The nearest {first} is {{{key}}}."],
        [], [("how far is it?", "It is about {metres#%s} metres from here." % key), ("is it open [on Sundays|now|in the evening]?", f"The {first} is open from {{open}} to {{close}}."),
             ("can i walk there?", "Yes, it is a walk of about {minutes} minutes.")])


WRITTEN = _read("\n".join(part.TABLE for part in (topics_stay, topics_house, topics_food, topics_out)))
MADE = [topic for row in AMENITIES.splitlines() for topic in _amenity(row)]
LENT = [_item(row) for row in ITEMS.splitlines()]
BROKEN = [_fault(row) for row in FAULTS.splitlines()]
TOWN = [_nearby(row) for row in NEARBY.splitlines()]
TOPICS = WRITTEN + MADE + LENT + BROKEN + TOWN
NOTED = [topic for topic in WRITTEN + MADE + TOWN[::2] + LENT[::5] if topic.note]
AMENITY_CARDS = [(MADE[i], MADE[i + 1], MADE[i + 2]) for i in range(len(MADE) - 2) if MADE[i + 1].name == MADE[i].name + ' hours']
