"""Everyday chats: questions of every kind, small tasks, and talk about life."""
from __future__ import annotations

from random import Random

from .frames import lower_first, scruffy
from .grammar import Facts, article, cap, listing, pick, plural, say, tidy
from .hospitality import message
from .prose import DESCRIPTION, SLOTS, STORY
from .words import ANIMAL, CATEGORY, DAYS, JOB, KNOWN, MONTHS, ONES, OPPOSITE, USE
from .wordtasks import WORD_TASKS

COMMANDS = {"Name", "Tell", "Give", "List", "Explain", "Opposite", "Plural", "Write", "Say", "Please", "Repeat", "Copy", "Use", "Make", "Show", "Spell", "Past", "Capital"}
SYSTEM = """
You are a [helpful|friendly|kind|patient|cheerful|polite] [assistant|helper|teacher|neighbour|chat partner].
You are {first}, a {trait} {job}. [Answer in short sentences.|Answer briefly.|]
Answer [every question|all questions|the user] in [one or two short sentences|simple English|a friendly tone|clear words].
You [help people with everyday questions|answer questions about words|explain things to children]. Be [brief|clear|kind].
Keep your answers short[ and simple| and friendly|].
""".strip().splitlines()
MASS = {"soap", "glue", "thread", "scissors", "stairs"}


def _a(noun: str) -> str:
    return noun if noun in MASS else article(noun)


def uses(rng, f):
    thing, use = pick(rng, USE)
    some = _a(thing)
    be = "are" if thing in ("scissors", "stairs") else "is"
    roll = rng.random()
    if roll < 0.4:
        return f"[what {be} {some} for|what {be} {some} used for|what do [we|you|people] use {some} for|why do people have {some}]?", \
            f"[{some} {be} used to {use}.|You use {some} to {use}.|We use {some} to {use}.]"
    if roll < 0.7:
        return f"[what do i need to {use}|which thing is used to {use}|what can i use to {use}|what should i take if i want to {use}]?", \
            f"[You need {some} to {use}.|You can use {some} to {use}.|To {use}, you need {some}.]"
    other = pick(rng, USE)
    if other[1] == use:
        return None
    verb = "are" if be == "are" else "is"
    return f"{verb} {some} used to {use} or to {other[1]}?", f"{some} {be} used to {use}."


def jobs(rng, f):
    job, does = pick(rng, JOB)
    roll = rng.random()
    if roll < 0.4:
        return f"[what does {article(job)} do|what is {article(job)}|what is the job of {article(job)}|tell me what {article(job)} does]?", \
            f"[{article(job)} {does}.|{article(job)} is a person who {does}.]"
    if roll < 0.8:
        return f"[who {does}|what do you call a person who {does}|which job is it when someone {does}]?", f"{article(job)} {does}."
    return f"my {f['family']} is {article(job)}.", f"[How interesting!|That is a good job.|Nice!] {article(job)} {does}."


def animals(rng, f):
    name, young, sound, _home, food, legs, kind = pick(rng, ANIMAL)
    the = article(name)
    options = [
        (f"[what is {article('baby ' + name)} called|what do you call {article('young ' + name)}|what is the name for {article('young ' + name)}]?",
         f"[{article('young ' + name)} is called {article(young)}.|It is called {article(young)}.]"),
        (f"[what sound does {the} make|what noise does {the} make|what does {the} do when it makes a noise]?", f"{the} {sound}."),
        (f"[what does {the} eat|what do {plural(name)} eat|what food does {the} like]?", f"{the} [often |]eats {food}."),
        (f"[how many legs does {the} have|how many legs do {plural(name)} have]?", f"{the} has {legs} legs."),
        (f"[what kind of animal is {the}|is {the} a mammal or a bird|to which group does {the} belong]?" if kind in ("mammal", "bird") else
         f"what kind of animal is {the}?", f"{the} is {article(kind)}."),
        (f"[which animal {sound}|name an animal that {sound}]?", f"{the} {sound}."),
    ]
    return pick(rng, options)


def opposites(rng, f):
    one, two = pick(rng, OPPOSITE)
    if rng.random() < 0.5:
        one, two = two, one
    return f"[what is the opposite of {one}|tell me the opposite of {one}|opposite of {one}|give me a word that means the opposite of {one}|which word is the opposite of {one}]?", \
        f'[The opposite of {one} is {two}.|"{two}" is the opposite of "{one}".|It is {two}.]'


def plurals(rng, f):
    word = pick(rng, [n for n, _ in USE if n not in MASS] + [a[0] for a in ANIMAL] + ["child", "man", "woman", "tooth", "foot", "city", "baby", "box", "loaf", "wife"])
    return f"[what is the plural of {word}|plural of {word}|how do you say more than one {word}|one {word}, two what]?", \
        f"[The plural of {word} is {plural(word)}.|One {word}, two {plural(word)}.]"


def kinds(rng, f):
    group = pick(rng, list(CATEGORY))
    items = CATEGORY[group]
    item = pick(rng, items)
    roll = rng.random()
    if roll < 0.35:
        count = rng.randint(2, 4)
        chosen = rng.sample(items, count)
        what = plural(group) if group not in ("part of the body", "kind of weather", "piece of clothing", "piece of furniture") else \
            group.replace("part", "parts").replace("kind", "kinds").replace("piece", "pieces")
        return f"[name {ONES[count]} {what}|tell me {ONES[count]} {what}|give me {ONES[count]} {what}|list {ONES[count]} {what}|can you name {ONES[count]} {what}]", \
            f"[Here are {ONES[count]} {what}: |{cap(ONES[count])} {what} are ||]{listing(chosen)}."
    other = pick(rng, list(CATEGORY))
    wrong = pick(rng, CATEGORY[other])
    plain = item if group in ("colour", "sport", "drink", "metal", "spice", "kind of weather", "school subject") or item == "garlic" else article(item)
    if roll < 0.6 or other == group or any(wrong in CATEGORY[g] and item in CATEGORY[g] for g in CATEGORY):
        return f"[what is {plain}|what kind of thing is {plain}|is {plain} {article(group)}]?", f"{plain} is {article(group)}."
    if roll < 0.8:
        return f"which of these is {article(group)}, {item} or {wrong}?", f"{plain} is {article(group)}."
    rest = rng.sample(items, 3)
    words = rest + [wrong]
    rng.shuffle(words)
    if wrong in items:
        return None
    return f"which word does not fit: {listing(words)}?", f'The word "{wrong}" does not fit.'


def sums(rng, f):
    one, two = rng.randint(1, 12), rng.randint(1, 8)
    thing = pick(rng, CATEGORY["fruit"] + ["ticket", "book", "coin", "cup", "key", "towel", "egg"])
    roll = rng.random()
    if roll < 0.35:
        word = pick(rng, ("plus", "and", "+"))
        return f"[what is|how much is|what do you get from] {ONES[one]} {word.replace('+', 'plus')} {ONES[two]}?", f"{ONES[one]} plus {ONES[two]} is {ONES[one + two]}."
    if roll < 0.55:
        return f"[what is|how much is] {ONES[one + two]} minus {ONES[two]}?", f"{ONES[one + two]} minus {ONES[two]} is {ONES[one]}."
    noun = lambda n: thing if n == 1 else plural(thing)
    if roll < 0.8:
        return f"[i have|{{hero}} has] {ONES[one]} {noun(one)} and [gets|buys|finds] {ONES[two]} more. How many is that?".replace("[i have|{hero} has]", "{hero} has"), \
            f"{{hero}} [now has|has] {ONES[one + two]} {noun(one + two)}."
    return f"{{hero}} has {ONES[one + two]} {noun(one + two)} and gives away {ONES[two]}. How many are left?", \
        f"{cap(ONES[one])} {noun(one)} {'is' if one == 1 else 'are'} left."


def dates(rng, f):
    names, label = (DAYS, "day") if rng.random() < 0.6 else (MONTHS, "month")
    index = rng.randrange(len(names))
    now, after, before = names[index], names[(index + 1) % len(names)], names[index - 1]
    if rng.random() < 0.5:
        return f"[which|what] {label} comes after {now}?", f"{after} comes after {now}."
    if label == "day" and rng.random() < 0.5:
        return f"[today is {now}. What is tomorrow|if today is {now}, what day is tomorrow]?", f"If today is {now}, tomorrow is {after}."
    return f"[which|what] {label} comes before {now}?", f"{before} comes before {now}."


def known(rng, f):
    questions, reply = pick(rng, KNOWN)
    text = pick(rng, questions)
    for name in ("france", "italy", "spain", "germany", "japan", "norway"):
        text = text.replace(name, name.capitalize())
    return f"[|||can you tell me: |i have a question: |do you know: ]{text}?", reply


POLITE = """
give me water|Could I have some water, please?
open the window|Could you open the window, please?
i want coffee|I would like a cup of coffee, please.
be quiet|Could you please be a little quieter?
come here|Could you come here for a moment, please?
shut the door|Would you mind closing the door, please?
where is the toilet|Excuse me, could you tell me where the toilet is?
move|Excuse me, could I get past, please?
you are late|I think you are a little late. Is everything all right?
i do not like this soup|I am afraid this soup is not quite to my taste.
bring the bill|Could we have the bill, please?
wait|Could you wait a moment, please?
that is wrong|I am afraid there may be a small mistake.
no|I am afraid that is not possible, but thank you for asking.
help me|Could you help me, please?
speak louder|Could you speak a little louder, please?
this room is dirty|I am sorry, but the room does not seem to be clean.
turn off the music|Would you mind turning off the music?
go away|I would like to be alone for a while, please.
send me the letter|Could you please send me the letter?
i am busy|I am sorry, I do not have time right now.
call me|Could you please call me when you have time?
""".strip().splitlines()


def polite(rng, f):
    rude, kind = pick(rng, POLITE).split("|")
    return f"[say this politely|make this polite|how can i say this more politely|rewrite this in a kind tone]: {rude}", kind


def repeat(rng, f):
    line = say(pick(rng, STORY + DESCRIPTION), rng, Facts(rng, SLOTS)).split(". ")[0].rstrip(".") + "."
    if '"' in line or "?" in line:
        return None
    return f"[repeat this sentence|say this again|copy this sentence|please repeat|write this once more]: {line}", line


def recall(rng, f):
    color = pick(rng, CATEGORY["colour"])
    thing = f["lost"]
    who, other = f["hero"], f["friend"]
    place = f["hiding"]
    return pick(rng, [
        (f"{who} has {article(color)} {thing}. {other} has a new {f['cloth']}. [who has the {thing}|whose {thing} is it]?", f"{who} has the {thing}."),
        (f"the {thing} of {who} is {color}. What colour is the {thing}?", f"The {thing} is {color}."),
        (f"{who} put the {thing} {place}. Where is the {thing}?", f"The {thing} is {place}."),
        (f"{who} is {article(f['job'])} and lives in {f['town']}. [where does {who} live]?", f"{who} lives in {f['town']}."),
        (f"{who} is {article(f['job'])} and lives in {f['town']}. What is the job of {who}?", f"{who} is {article(f['job'])}."),
        (f"{who} went to {f['where_to']} on {f['weekday']}. When did {who} go to {f['where_to']}?", f"{who} went to {f['where_to']} on {f['weekday']}."),
        (f"{who} went to {f['where_to']} on {f['weekday']}. Where did {who} go?", f"{who} went to {f['where_to']}."),
        (f"my name is {who} and i like {f['sport']}. What is my name?", f"Your name is {who}."),
        (f"my name is {who} and i like {f['sport']}. What do i like?", f"You like {f['sport']}."),
        (f"{who} is older than {other}. Who is younger?", f"{other} is younger than {who}."),
        (f"{who} is taller than {other}. Who is taller?", f"{who} is taller than {other}."),
        (f"sum this up in one sentence: {who} lost a {thing}. {other} found it {place}.", f"{other} found the lost {thing} of {who} {place}."),
        (f"sum this up in one sentence: It was {f['weather']}. {who} stayed at home.", f"{who} stayed at home because it was {f['weather']}."),
        (f"sum this up: {who} went to {f['where_to']}. {other} came along.", f"{who} and {other} went to {f['where_to']} together."),
    ])


STEPS = """
make tea|make a cup of tea => First boil some water. Then put a tea bag in a cup and pour in the water. Wait three minutes and take out the bag.
boil an egg|cook an egg => Put the egg in boiling water. Wait six minutes. Then cool it with cold water.
make a sandwich => Take two slices of bread. Put butter, cheese and tomato on one. Then put the other slice on top.
wash my hands|clean my hands => Wet your hands, use some soap and rub them well. Then rinse and dry them.
plant a tree => Dig a hole and put the young tree in it. Fill the hole with earth. Then water the tree well.
write a letter => Start with a greeting. Then say what you want to tell. End with kind regards and your name.
pack a suitcase => Put heavy things at the bottom. Roll your clothes to save space. Put what you need first on top.
make the bed => Pull the sheet straight, shake the pillow and fold the blanket over the bed.
clean a window => Wash the glass with warm water and a little soap. Then dry it with a soft cloth.
cook rice => Wash the rice and put it in a pot with twice as much water. Cook it slowly until the water is gone.
bake a cake => Mix flour, sugar, butter and eggs. Put everything in a tin and bake it for about forty minutes.
fall asleep|sleep better => Make the room dark and quiet, put your phone away, and breathe slowly.
learn a language|learn English => Practise a little every day. Listen, speak and read, and do not be afraid of mistakes.
make friends|find friends => Smile, say hello and ask people about themselves. Good friends need time.
save money => Write down what you spend, and buy only what you really need.
cross the road|cross a street => Stop at the edge and look both ways. Walk when no car is coming.
make soup|cook soup => Cut some vegetables and cook them in water with a little salt. After half an hour the soup is ready.
iron a shirt => Start with the collar, then do the sleeves, and then the front and back. Hang it up at once.
tie my shoes|tie a shoe => Cross the laces, pull them tight, make two loops and tie them together.
make coffee => Put ground coffee in the filter, pour hot water over it, and wait until it has run through.
make pancakes => Mix flour, milk and eggs. Pour some into a hot pan and turn it when it is brown.
change a light bulb => Switch off the light and let the bulb cool. Turn it out and screw in a new one.
set the table|lay the table => Put a plate at each place, the fork on the left, the knife on the right, and a glass above.
keep a plant alive|look after a plant => Put it in a light place and water it when the earth is dry.
calm down|relax => Sit down, breathe in slowly and breathe out slowly. A short walk helps, too.
wash a sweater => Use cold water and a mild soap. Do not wring it. Lay it flat to dry.
""".strip().splitlines()


def steps(rng, f):
    tasks, reply = pick(rng, STEPS).split(" => ")
    task = pick(rng, tasks.split("|"))
    return f"[how do i {task}|how can i {task}|tell me how to {task}|what is the best way to {task}|i want to {task}. How do i do that|explain how to {task}]?", reply


SMALL_TALK = """
how are you|how are you today|how is it going => I am [fine|well|very well], thank you. How are you?
hello|hi|hey|hi there|good day => [Hello!|Hi!|Hello there!] [How can I help you?|Nice to meet you.|What can I do for you?]
good morning => Good morning! [I hope you slept well.|How can I help you today?]
good night|i am going to bed => Good night, and sleep well.
thank you|thanks|thanks a lot => [You are welcome.|My pleasure.|You are very welcome!]
goodbye|bye|see you later => Goodbye, and [have a nice day|take care|see you soon].
i am {feeling} today|i feel {feeling} => [I see|Thank you for telling me]. Would you like to tell me why you feel {feeling}?
i am bored|what can i do when i am bored => You could [read a book|go for a walk|call a friend|bake a cake|play {sport}|learn a song].
i am tired|i am so tired => Then you should rest for a while. [A short sleep helps.|A cup of tea may help.]
i am hungry|i need something to eat => You could [make a sandwich|cook some soup|eat {a:fruit}|have some bread and cheese].
i am thirsty => You should drink a glass of water.
i am cold|it is so cold => Put on {a:cloth2} and have a hot drink.
i am sad|i feel sad today => I am sorry to hear that. It may help to talk to a friend.
it is my birthday|today is my birthday => Happy birthday! I hope you have a wonderful day.
i passed my test|i got the job => Congratulations! That is great news.
i missed my {vehicle2} => I am sorry to hear that. Perhaps another one comes soon.
i lost my {lost}|i cannot find my {lost} => [Try to remember where you had it last.|Perhaps it is {hiding}.] I hope you find your {lost} soon.
i have {a:animal}|i have a new {animal} => How nice! What is the name of your {animal}?
i play the {instrument}|i am learning the {instrument} => That is great. The {instrument} is a beautiful instrument.
do you like {sport}|what do you think of {sport} => Yes, {sport} is [fun|good for the body|a fine sport].
what is your favourite colour => I like {colour} best.
what is your favourite fruit => My favourite fruit is the {fruit}.
do you like {s:fruit}|do you like {s:vegetable} => I cannot eat, but many people like them very much.
what is the weather like|how is the weather => I cannot look outside, but I hope it is {weather2} where you are.
who are you|what are you|are you a person => I am an assistant. I can answer short questions and help with words.
what can you do|how can you help me|what can i ask you => I can answer questions, explain words, and help you write short texts.
tell me a joke|make me laugh => Why did the [bicycle|tree|clock] stay at home? It was too tired.
tell me something about {s:animal}|say something about {s:animal} => Many people like {s:animal}. They are interesting animals.
should i take an umbrella or a hat|it is raining, what should i take => If it rains, you should take an umbrella.
which is better, tea or coffee|tea or coffee => Both are good. Tea is milder, and coffee is stronger.
should i go to {where_to} or stay at home => If it is {weather2}, go to {where_to}. If not, stay at home.
what should i cook tonight|what can i make for dinner => You could make {dish} with a salad.
what should i wear today => If it is cold, wear a warm coat. If it is warm, a light shirt is enough.
what should i give my {family} for a birthday|what is a good present for my {family} => [A good book|A bunch of {s:flower}|A warm scarf|A box of chocolates] would be a nice present for your {family}.
can i swim after lunch => Yes, but it is better to rest for a little while first.
i have a headache => I am sorry to hear that. Drink some water and rest. If it does not go away, see a doctor.
i am going to {town} tomorrow|i will travel to {town} => Have a good journey! I hope you enjoy {town}.
i do not understand|what do you mean => I am sorry. I will try to say it more simply. What would you like to know?
""".strip().splitlines()
SLOTS |= {"cloth2": ("warm coat", "sweater", "scarf", "thick jacket"), "vehicle2": ("bus", "train", "flight", "tram", "ferry"),
          "weather2": ("sunny", "warm", "bright", "mild")}


def small_talk(rng, f):
    questions, reply = pick(rng, SMALL_TALK).split(" => ")
    question = pick(rng, questions.split("|"))
    ask = question.split(" ")[0] in ("how", "what", "do", "who", "are", "should", "which", "can", "tea")
    return question + ("?" if ask else "."), reply


def story(rng, f):
    return "[tell me a story|tell me a short story|write a short story|can you tell me a story|i would like to hear a story]" \
        "[| about {hero}| about {hero}| with {hero} and {friend}].", pick(rng, [s for s in STORY if "{hero}" in s])


TASKS = ((uses, 12), (jobs, 9), (animals, 9), (opposites, 8), (plurals, 5), (kinds, 12), (sums, 8), (dates, 4), (known, 14),
         (polite, 4), (repeat, 5), (recall, 14), (steps, 8), (small_talk, 18), (story, 5))
_TASKS = [task for task, weight in TASKS + WORD_TASKS for _ in range(weight)]


def everyday(rng: Random) -> list[dict[str, str]]:
    """One to three everyday questions, each with its answer."""
    chat = [message("system", say(pick(rng, SYSTEM), rng, Facts(rng, SLOTS)))] if rng.random() < 0.33 else []
    for _ in range(pick(rng, (1, 1, 1, 1, 2, 2, 3))):
        made = None
        while made is None:
            facts = Facts(rng, SLOTS)
            made = pick(rng, _TASKS)(rng, facts)
        question, reply = (say(part, rng, facts) for part in made)
        if question.split(" ")[0] in COMMANDS and question[-1] == "?":
            question = question[:-1] + "."
        if rng.random() < 0.1:
            question = pick(rng, ("Hello! ", "Hi, ", "Please tell me, ", "Hi! ")) + lower_first(question)
            question = tidy(question)
        chat += [message("user", scruffy(question, rng)), message("assistant", reply)]
    return chat
