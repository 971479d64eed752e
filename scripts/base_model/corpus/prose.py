"""Plain text: descriptions, short stories, notices, letters and diary entries."""
from __future__ import annotations

from random import Random

from .grammar import Facts, pick, say
from .hospitality import new_facts, note
from .topics import FACTS, NOTED
from .words import ANIMAL, CATEGORY, JOB, USE

SLOTS = FACTS | {
    "hero": FACTS["first"], "friend": FACTS["first"],
    "job": [name for name, _ in JOB], "animal": [row[0] for row in ANIMAL], "tool": [name for name, _ in USE if name not in (
        "scissors", "stairs", "soap", "glue", "thread", "ship", "boat", "plane", "train", "bus", "car", "bridge", "tunnel", "lift",
        "oven", "fridge", "freezer", "fireplace", "window", "door", "bed", "sofa", "wardrobe", "desk", "piano", "fence", "washing machine")],
    "fruit": CATEGORY["fruit"], "vegetable": [v for v in CATEGORY["vegetable"] if v not in ("spinach", "garlic", "celery", "lettuce")],
    "colour": CATEGORY["colour"], "cloth": CATEGORY["piece of clothing"], "tree": CATEGORY["tree"], "flower": CATEGORY["flower"],
    "sport": CATEGORY["sport"], "instrument": CATEGORY["instrument"], "building": CATEGORY["building"],
    "vehicle": CATEGORY["vehicle"], "toy": CATEGORY["toy"], "bird": CATEGORY["bird"], "furniture": CATEGORY["piece of furniture"],
    "weather": ("sunny", "rainy", "windy", "cloudy", "foggy", "warm", "cold", "stormy", "hot", "grey", "bright", "snowy", "frosty", "mild"),
    "daytime": ("morning", "afternoon", "evening", "night"), "size": ("big", "small", "tiny", "huge", "little", "large", "tall"),
    "feeling": ("happy", "sad", "tired", "proud", "nervous", "excited", "angry", "lonely", "curious", "worried", "calm", "surprised",
                "bored", "hungry", "grateful", "embarrassed", "cheerful", "confused"),
    "trait": ("kind", "brave", "clever", "shy", "quiet", "funny", "patient", "busy", "honest", "lazy", "careful", "gentle", "old",
              "young", "friendly", "stubborn", "polite", "clumsy", "generous", "lonely"),
    "where_to": ("the market", "the beach", "the forest", "the station", "the library", "the park", "the river", "the museum", "school",
                 "the harbour", "the hills", "the bakery", "the garden", "the lake", "the farm", "the zoo", "the cinema", "town", "work"),
    "family": ("mother", "father", "sister", "brother", "grandmother", "grandfather", "aunt", "uncle", "cousin", "daughter", "son",
               "neighbour", "teacher", "friend"),
    "lost": ("key", "ring", "wallet", "hat", "ticket", "letter", "map", "phone", "scarf", "umbrella", "watch", "purse", "book", "glove",
             "passport", "bag", "coin", "photo", "notebook", "camera"),
    "hiding": ("under the bed", "behind the sofa", "in the garden", "in a drawer", "on the kitchen table", "in an old coat", "near the door",
               "under a newspaper", "in the car", "on the stairs", "in the fridge", "behind a bookcase", "at the bottom of the bag"),
    "goodend": ("Everyone laughed.", "It was a good day.", "They were happy.", "{hero} smiled all the way home.", "They became good friends.",
                "That night {hero} slept very well.", "{hero} never forgot that day.", "In the end all was well.", "They talked about it for years."),
    "doing": ("reading a book", "baking a cake", "painting the fence", "washing the dishes", "playing cards", "watering the plants",
              "writing a letter", "feeding the ducks", "fixing the roof", "cleaning the windows", "drinking tea", "listening to the radio",
              "folding the sheets", "looking for shells", "waiting for the bus", "picking apples", "building a tower", "cooking soup"),
    "chore": ("wash the dishes", "buy some bread", "water the flowers", "call the doctor", "clean the kitchen", "feed the {animal}",
              "post the letter", "sweep the floor", "pay the bill", "lock the door", "take out the rubbish", "iron the shirts",
              "fetch the milk", "return the library books", "pack the suitcase", "charge the phone"),
}

STORIES = """
One {weather} {daytime}, {hero} lost a {lost}. {hero} looked [everywhere|in every room], but it was not there. Then {friend} came to help. Together they found the {lost} {hiding}. {goodend}
{hero} was {a:trait} {job} who lived in {town}. Every {daytime} {hero} went to {where_to}. One day there was {a:size} {animal} on the road. {hero} gave it some food and took it home. {goodend}
It was a {weather} {weekday}. {hero} wanted to go to {where_to}, but the {late_one} was late. So {hero} walked with {friend}, and they talked about {sport} and music. {goodend}
{friend} was {doing} when the telephone rang. It was {hero}. "Can you come [over|here]?" asked {hero}. "I have lost my {lost}." {friend} came at once, and they found it {hiding}.
{hero} had {a:animal} that liked {s:fruit}. One {daytime} it ran away. {hero} called and called. At last it came back with {a:flower} in its mouth. {goodend}
Last {weekday} {hero} and {friend} went to {where_to}. It was {weather}, so they took a warm [coat|sweater|jacket|scarf|blanket]. They ate bread and {s:fruit} and [sang songs|told stories|played a game]. In the evening they were tired but happy.
{hero} wanted to learn to play the {instrument}. At first it sounded awful. {hero} practised every {daytime} for a year. Now {hero} plays for the guests of a small hotel, and everyone claps.
There was once {a:trait} {job} with {a:size} {colour} {building2}. People came from far away to see it. "How did you build it?" asked {friend}. "Slowly," said the {job}, "one stone at a time."
{hero} woke up early because of a strange noise. It came from the [kitchen|attic|cellar|garden]. {hero} took {a:tool} and went to look. It was only {a:animal} that was hungry. {hero} laughed and gave it some {food}.
{hero} forgot to {chore}. "Do not worry," said {friend}. "I did it this morning." {hero} was very grateful and gave {friend} {a:fruit}.
{hero} and {friend} both wanted the last {fruit}. "You take it," said {hero}. "No, you take it," said {friend}. In the end they cut it in half and shared it.
It rained all {daytime} in {town}. {hero} stayed at home and was {doing}. At six the sun came out, and {hero} went out to see {a:bird} in the {tree}.
A guest came to the front desk of {name}. "I cannot find my {lost}," she said. The receptionist, {hero}, looked {hiding} and there it was. The guest was so happy that she [sent flowers|wrote a kind letter|came back every year].
{hero} saved money for {few} months to buy {a:colour} {vehicle}. On {weekday} the shop was closed. On the next day it was open again, and {hero} came home with {a:colour} {vehicle}. {goodend}
The {family} of {hero} was ill, so {hero} made a hot soup with {s:vegetable} and brought it to the bed. "This is the best soup in the world," said the {family}. {hero} was {feeling2}.
{hero} was afraid of the dark. {friend} gave {hero} a small lamp. "Now the dark is afraid of you," said {friend}. From then on {hero} slept well.
"{Weather2} days are the best," said {hero}. "Why?" asked {friend}. "Because then we can go to {where_to}," said {hero}. They put on their {s:cloth} and went.
On the train to {town}, {hero} sat next to {a:trait} {job}. They talked for {few} hours. When the train stopped, they did not want to say goodbye. They still write letters to each other.
"""

DESCRIPTIONS = """
{name} is a [friendly|quiet|cosy|modern|small|lovely|busy|charming] {house} in {town}. It has {nrooms} {s:roomword}, and most of them look onto the {sight}. In the evening guests sit {outside} and talk about their day.
{town} is a [small|quiet|lively|pretty|old] town [by the sea|on a river|in the hills|near a lake]. There is {a:sight} and a market every {weekday}. Many visitors come in {month}.
My room has {a:size} window and {a:colour} {furniture}. On the wall there is a picture of {a:animal}. I like to sit there {daytime2} and read.
The {building} in our town is very old. It has {a:colour} roof and {a:size} door. Every {weekday} people meet there and [sing|dance|eat together|play chess].
{hero} is {a:trait} {job}. {hero} gets up at [five|six|seven], drinks a cup of [tea|coffee] and goes to work by {vehicle}. In the evening {hero} likes [reading|{sport}|cooking|to sing].
The garden is full of {s:flower}. In spring {a:bird} builds its nest in the {tree}. In autumn the leaves turn [red|yellow|brown] and fall to the ground.
My {family} has {a:animal} called {friend}. It is {fur} and very {trait2}. It sleeps in the [kitchen|hall|barn|sun] and eats a lot.
The market opens at seven. You can buy {s:fruit}, {s:vegetable} and fresh bread. {hero} sells {s:flower} there. It smells wonderful.
Our {house} has a [cosy|bright|large] dining room. Breakfast is from {bstart} to {bend}. There are fresh rolls, {s:fruit} and {s:fruit2}, and the coffee is strong.
It is {weather} today in {town}. The wind blows from the [north|south|east|west]. In the {daytime} it may [rain|snow|clear up|get warmer]. Take {a:cloth} with you.
The {sight} of {town} was built in {year}. It is open from {open} to {close}, and a ticket costs {small}. Children pay half.
"""

NOTICES = """
Notice: The [lift|pool|sauna|gym|car park] is closed on {weekday} from {open} to {close}. We are sorry for the trouble. The team of {name}
Dear guests, please [keep the door closed|be quiet after {quiet}|do not feed the birds|leave your shoes at the door|switch off the lights]. Thank you for your help. {person}, manager
Lost: {a:colour} {lost}, near the {sight}, on {weekday} {daytime}. If you find it, please call {hero} on {phone}. Thank you!
Found: {a:colour} {lost} {outside}. You can pick it up at the front desk of {name}.
For sale: {a:size} {colour} {furniture}, almost new, {mid}. Call {person} on {phone} in the evening.
Come to the [concert|market|dance|party|play] in the {building} of {town} on {weekday}, {date}, at {close}. Tickets cost {small}. Children are free.
Help wanted: {name} is looking for {a:job}. You should be {trait} and {trait2}. Write to {email}.
Welcome to {name}! Breakfast is served {bplace} from {bstart} to {bend}. Check-out is by {checkout}. The wifi password is {password}. Have a lovely stay!
To do on {weekday}: {chore}, {chore2}, and {chore3}. Do not forget to call {friend}.
Shopping list: {s:fruit}, {s:vegetable}, {s:vegetable2}, bread, [milk|butter|cheese], [rice|pasta|flour] and [soap|candles|matches].
"""

LETTERS = r"""
Dear {hero},\nthank you for your letter. I am well and it is {weather} here in {town}. Yesterday I went to {where_to} with my {family}. We saw {a:animal} and ate {s:fruit}. When will you visit us?\n[Love|Best wishes|Yours],\n{friend}
Dear Sir or Madam,\nI would like to book a [single|double|family] room from {date} for {few} nights. Do you have parking? Please let me know the price.\nKind regards,\n{person}
Dear {guest},\nthank you for your booking. Your room is ready from {checkin}. Breakfast is from {bstart} to {bend}. We look forward to your visit.\nKind regards,\n{person}\n{name}
Dear {guest},\nI am sorry that your {roomword} was [cold|noisy|too small|not clean]. We will give you {percent} percent off your next stay. We hope to see you again.\nKind regards,\n{person}, manager of {name}
Hi {hero},\nI am at {name} in {town}. It is {weather} and the food is [great|good|very good]. Tomorrow we will visit the {sight}. See you on {weekday}!\n{friend}
Dear {family},\nI have arrived safely. My {roomword} is {size2} and has a view of the {sight}. The people are {trait}. I miss you all.\nLove,\n{hero}
{hero}, I have gone to {where_to}. There is soup on the stove. Please {chore} and {chore2}. Back at [six|seven|eight]. {friend}
Dear team of {name},\nwe had a wonderful stay. The {roomword} was clean and the {dish} was delicious. A special thank you to {friend} at the bar. We will come back in {month}.\n{person}
Dear diary,\ntoday was a {weather} day. In the morning I had to {chore}. After that I met {friend} at {where_to2}. We were both {feeling}. Good night.
Dear neighbour,\nwe will be away from {weekday} to {weekday2}. Could you please {chore} and look after our {animal}? We will bring you {a:fruit} cake.\nThank you,\n{hero}
"""
SLOTS |= {"late_one": ("bus", "train", "tram", "ferry", "boat", "taxi"), "fur": ("black", "white", "brown", "grey"), "food": ("milk", "bread", "cheese", "water", "fish", "soup", "rice", "cake"), "daytime2": ("in the morning", "in the evening", "at night", "after lunch"),
          "building2": ("house", "tower", "barn", "cottage", "boat", "bridge", "garden wall"), "size2": ("big", "small", "bright", "cosy", "quiet"),
          "building": tuple(b for b in CATEGORY["building"])}

def _split_rows(text: str) -> list[str]:
    """Split at bars and line ends, but not at the bars inside brackets."""
    rows, depth, current = [], 0, ""
    for char in text.strip():
        depth += (char == "[") - (char == "]")
        if char in "|\n" and not depth:
            rows.append(current)
            current = ""
        else:
            current += char
    return rows + [current]


STORY, DESCRIPTION, NOTICE, LETTER = (text.strip().splitlines() for text in (STORIES, DESCRIPTIONS, NOTICES, LETTERS))


# Parts of a longer story: how it starts, what goes wrong, who helps, how it ends.
OPENINGS = """
{hero} worked as {a:job} in a small town called {town}.|Every {weekday} {hero} went to {where_to} with a bag full of {s:fruit}.|It was a {weather} {daytime} in {month}.
{hero} had just moved to {town} and did not know anybody.|The old {building} at the end of {street} had been empty for years.|When {hero} was a child, the family lived near {where_to}.
{hero} wanted to bake a cake for {friend}.|Nobody in {town} had ever seen {a:colour} {animal}.|The guests at {name} were having breakfast.|{hero} loved {sport} more than anything else.
"""
TROUBLES = """
One day the {lost} of {hero} was gone.|Suddenly {a:animal} ran across the street.|Then it began to rain, and there was no {tool} in the house.|But the {late_one} did not come.
Then somebody knocked at the door.|All at once the lights went out.|But there was no [flour|sugar|milk|money|time] left.|Then {hero} heard a strange sound from the {building}.
On the way {hero} fell and hurt [a knee|an elbow|a hand|an ankle].|But {hero} was too {feeling} to say a word.|A letter came, and it had no name on it.|Then {hero} took the wrong road and got lost.
"""
HELPS = """
{friend} saw this and asked, "Can I help you?"|"Do not worry," said {friend}. "We will find a way."|A {trait} {job2} came by and stopped.|So {hero} called {friend}, who came at once with {a:tool2}.
{hero} sat down on a bench and thought about it.|An old neighbour lent {hero} {a:tool2}.|Luckily {friend} was {doing} next door.|{hero} took a deep breath and went on.|A child pointed {hiding} and smiled.
"""
ENDS = """
After an hour everything was in order again.|In the evening they shared a pot of [tea|soup|stew] and laughed about it.|{hero} said thank you and gave {friend} {a:flower}.|Since then they have been best friends.
From that day on {hero} always carried {a:tool3}.|"That was close," said {hero}, and they both smiled.|And that is why there is a picture of {a:animal2} in the kitchen.|{hero} went home {feeling2} and slept like a stone.
The next morning the sun was shining.|It was the best {weekday} of the year.
"""
PARTS = [_split_rows(text) for text in (OPENINGS, TROUBLES, HELPS, ENDS)]


def long_story(rng: Random) -> str:
    """A story put together from four parts."""
    facts = Facts(rng, SLOTS)
    return " ".join(say(pick(rng, part), rng, facts) for part in PARTS)


def house_page(rng: Random) -> str:
    """A page about one house: its name and several facts."""
    facts = new_facts(rng)
    topics = rng.sample(NOTED, rng.randint(4, 9))
    head = say("[Welcome to {name} in {town}.|{name}, {town}.|About {name}:|{name} is {a:house} in {town}.]", rng, facts)
    return head + pick(rng, (" ", "\n")) + " ".join(note(topic, rng, facts) for topic in topics)


def prose(rng: Random) -> str:
    roll = rng.random()
    if roll < 0.12:
        return house_page(rng)
    if roll < 0.34:
        return long_story(rng)
    templates = STORY if roll < 0.54 else DESCRIPTION if roll < 0.7 else NOTICE if roll < 0.84 else LETTER
    facts = Facts(rng, SLOTS)
    return say(pick(rng, templates).replace("\\n", "\n"), rng, facts)
