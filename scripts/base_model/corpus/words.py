"""Everyday vocabulary: what things are, do, cost, sound like, and the opposite of what."""

# noun: what it is used for (after "is used to")
USES = """
kettle: boil water|hammer: drive nails|saw: cut wood|knife: cut bread|spoon: eat soup|fork: pick up food|pan: fry eggs|pot: cook soup
broom: sweep the floor|mop: wash the floor|brush: paint walls|comb: tidy your hair|towel: dry your hands|soap: wash your hands
toothbrush: clean your teeth|pillow: rest your head|blanket: keep warm|umbrella: stay dry in the rain|key: open a door|lamp: light a room
clock: tell the time|calendar: find the date|map: find the way|compass: find north|pen: write a letter|pencil: draw a picture
eraser: remove pencil marks|ruler: draw straight lines|scissors: cut paper|glue: stick things together|needle: sew clothes|thread: sew on a button
ladder: climb up high|rope: tie things|shovel: dig a hole|rake: gather leaves|bucket: carry water|hose: water the garden
oven: bake bread|fridge: keep food cold|freezer: make ice|toaster: toast bread|blender: mix fruit|whisk: beat eggs|sieve: drain rice
grater: grate cheese|plate: hold food|cup: drink tea|glass: drink water|bottle: keep drinks|bowl: hold soup|tray: carry dishes
basket: carry fruit|bag: carry shopping|suitcase: pack clothes|wallet: carry money|purse: keep coins|envelope: post a letter|stamp: pay for a letter
telephone: talk to people far away|camera: take photos|radio: listen to music|television: watch films|computer: write and send letters|printer: print pages
bicycle: ride to school|car: drive on roads|bus: carry many people|train: travel on rails|boat: cross the water|ship: cross the sea|plane: fly to other countries
tent: sleep outside|torch: see in the dark|candle: give a little light|match: light a fire|fireplace: warm a room|heater: warm a room|fan: cool the air
mirror: see your face|window: let in light|door: close a room|curtain: keep out the light|carpet: cover the floor|shelf: hold books|drawer: keep small things
chair: sit on|table: put things on|bed: sleep in|sofa: sit and rest|desk: work and write|wardrobe: hang up clothes|iron: press shirts
washing machine: wash clothes|drill: make holes|screwdriver: turn screws|axe: chop wood|wheelbarrow: move earth|net: catch fish|hook: hang up a coat
thermometer: measure heat|scale: weigh things|microscope: see tiny things|telescope: look at the stars|bandage: cover a wound|plaster: cover a small cut
whistle: start a game|drum: keep the beat|piano: play music|bell: call people|flag: give a sign|helmet: protect the head|glove: keep a hand warm
lock: keep a door shut|fence: keep animals in|bridge: cross a river|tunnel: go through a hill|lift: go up to a higher floor|stairs: walk up to another floor
"""

# job: what the person does
JOBS = """
baker: makes bread and cakes|teacher: helps children learn|doctor: helps sick people|nurse: cares for patients|farmer: grows food and keeps animals
gardener: looks after plants|pilot: flies planes|driver: drives a bus or a car|sailor: works on a ship|fisherman: catches fish|cook: prepares meals
waiter: brings food to the table|cleaner: keeps rooms clean|receptionist: welcomes guests|porter: carries bags|manager: leads a team|builder: builds houses
carpenter: makes things of wood|plumber: repairs water pipes|electrician: repairs lights and wires|painter: paints walls or pictures|tailor: makes clothes
shoemaker: repairs shoes|hairdresser: cuts hair|barber: cuts hair and beards|butcher: sells meat|grocer: sells fruit and vegetables|florist: sells flowers
librarian: looks after books|writer: writes books|journalist: writes news|actor: plays in films and plays|singer: sings songs|musician: plays music
dancer: dances on a stage|judge: decides in court|lawyer: knows the law|police officer: keeps people safe|firefighter: puts out fires|soldier: serves in an army
dentist: takes care of teeth|vet: helps sick animals|optician: sells glasses|pharmacist: sells medicine|engineer: designs machines|mechanic: repairs cars
scientist: studies the world|astronaut: travels into space|photographer: takes pictures|postman: brings letters|guide: shows visitors around|lifeguard: watches swimmers
jeweller: makes rings and chains|potter: makes pots of clay|weaver: makes cloth|miller: makes flour|shepherd: looks after sheep|beekeeper: keeps bees
cashier: takes the money in a shop|secretary: writes letters in an office|translator: turns words into another language|coach: trains a team|referee: watches the rules of a game
"""

# animal: young; sound verb; home; food; legs; class
ANIMALS = """
dog: puppy; barks; house; meat; four; mammal|cat: kitten; meows; house; fish; four; mammal|cow: calf; moos; field; grass; four; mammal
horse: foal; neighs; stable; hay; four; mammal|sheep: lamb; bleats; field; grass; four; mammal|pig: piglet; grunts; sty; grain; four; mammal
goat: kid; bleats; hill; leaves; four; mammal|duck: duckling; quacks; pond; weeds; two; bird|hen: chick; clucks; coop; seeds; two; bird
goose: gosling; honks; pond; grass; two; bird|lion: cub; roars; savanna; meat; four; mammal|bear: cub; growls; forest; berries; four; mammal
wolf: pup; howls; forest; meat; four; mammal|fox: cub; barks; den; mice; four; mammal|owl: owlet; hoots; tree; mice; two; bird
frog: tadpole; croaks; pond; flies; four; amphibian|mouse: pup; squeaks; hole; cheese; four; mammal|elephant: calf; trumpets; savanna; leaves; four; mammal
bee: larva; buzzes; hive; nectar; six; insect|snake: hatchling; hisses; desert; mice; no; reptile|eagle: eaglet; screams; mountain; fish; two; bird
donkey: foal; brays; stable; hay; four; mammal|crow: chick; caws; tree; seeds; two; bird|rabbit: kit; squeals; burrow; carrots; four; mammal
pigeon: squab; coos; city; crumbs; two; bird|seal: pup; barks; sea; fish; no; mammal|monkey: infant; chatters; jungle; fruit; two; mammal
tiger: cub; roars; jungle; meat; four; mammal|turkey: chick; gobbles; farm; grain; two; bird|parrot: chick; squawks; jungle; nuts; two; bird
"""

OPPOSITES = """
hot cold|big small|old new|young old|tall short|long short|high low|fast slow|early late|day night|up down|left right|open closed|full empty|heavy light
dark bright|wet dry|clean dirty|rich poor|happy sad|loud quiet|strong weak|hard soft|thick thin|wide narrow|deep shallow|near far|easy difficult
cheap expensive|good bad|right wrong|true false|sweet sour|sharp blunt|smooth rough|warm cool|first last|begin end|start stop|come go|give take|buy sell
push pull|arrive leave|win lose|laugh cry|love hate|remember forget|ask answer|sleep wake|sit stand|rise fall|inside outside|above below|before after
always never|often rarely|everything nothing|summer winter|sunrise sunset|brave afraid|kind cruel|polite rude|awake asleep|alive dead|safe dangerous
guest host|question answer|friend enemy|entrance exit|top bottom|front back|north south|east west|black white|morning evening|success failure
arrival departure|lend borrow|teach learn|send receive|add remove|accept refuse|agree disagree|appear disappear|lock unlock|pack unpack|build destroy
lucky unlucky|possible impossible|careful careless|useful useless|patient impatient|honest dishonest|tidy untidy|busy free|noisy silent|ancient modern
simple complicated|straight crooked|tight loose|fresh stale|raw cooked|calm nervous|generous mean|lazy hardworking|public private|wild tame|increase decrease
"""

CATEGORIES = """
fruit: apple, banana, cherry, grape, lemon, mango, melon, orange, peach, pear, plum, strawberry, raspberry, pineapple, apricot, fig, kiwi, lime, coconut, blackberry
vegetable: carrot, potato, tomato, onion, cabbage, pea, bean, leek, cucumber, pumpkin, spinach, turnip, radish, beetroot, cauliflower, lettuce, celery, pepper, garlic, mushroom
bird: sparrow, robin, eagle, owl, swan, pigeon, crow, seagull, swallow, parrot, penguin, stork, heron, blackbird, woodpecker, peacock, hawk, ostrich
insect: ant, bee, butterfly, beetle, wasp, mosquito, dragonfly, cricket, moth, ladybird, grasshopper, fly
flower: rose, tulip, daisy, lily, sunflower, violet, poppy, daffodil, orchid, carnation, bluebell, snowdrop, lavender
tree: oak, pine, birch, maple, willow, beech, elm, palm, cedar, chestnut, poplar, ash, olive tree, fir
colour: red, blue, green, yellow, purple, pink, brown, grey, black, white, orange, silver, golden, turquoise, beige, violet
tool: hammer, saw, drill, spanner, screwdriver, axe, rake, shovel, chisel, file, pliers, plane, crowbar
piece of furniture: chair, table, sofa, bed, desk, wardrobe, bookcase, cupboard, stool, armchair, bench, chest of drawers, dresser
piece of clothing: shirt, skirt, jacket, coat, sweater, scarf, hat, glove, sock, dress, blouse, belt, cap, vest, cardigan, raincoat, apron
instrument: piano, violin, guitar, flute, trumpet, drum, harp, cello, clarinet, saxophone, organ, accordion, banjo
sport: football, tennis, swimming, cycling, rowing, hockey, skiing, boxing, golf, running, climbing, sailing, basketball, volleyball, badminton, judo, surfing, cricket
vehicle: car, bus, train, tram, lorry, van, bicycle, scooter, motorbike, ship, ferry, canoe, helicopter, plane, tractor, taxi
drink: water, tea, coffee, milk, juice, lemonade, cocoa, wine, beer, cider, soda
part of the body: head, arm, leg, hand, foot, nose, ear, eye, mouth, shoulder, knee, elbow, finger, toe, back, chin, neck, wrist, ankle, stomach, chest
room: kitchen, bathroom, bedroom, living room, hall, cellar, attic, office, garage, pantry, nursery, study
building: school, church, castle, hospital, library, museum, factory, station, theatre, barn, tower, palace, cottage, lighthouse, mill, stadium
metal: iron, gold, silver, copper, tin, lead, steel, zinc, bronze, aluminium
fish: salmon, trout, herring, tuna, cod, carp, eel, pike, shark, sardine, mackerel
family member: mother, father, sister, brother, aunt, uncle, cousin, nephew, niece, grandmother, grandfather, son, daughter
school subject: history, geography, music, art, biology, chemistry, physics, mathematics, drama, English
spice: salt, cinnamon, ginger, mint, basil, thyme, parsley, saffron, vanilla, paprika, nutmeg, rosemary
kind of weather: rain, snow, fog, wind, sunshine, hail, thunder, frost, storm, drizzle, mist
dish: soup, salad, stew, pie, curry, pasta, pizza, omelette, sandwich, pancake, risotto, lasagne, burger, porridge
toy: doll, ball, kite, puzzle, teddy bear, rocking horse, marble, spinning top, yo-yo, toy train, balloon
shape: circle, square, triangle, star, oval, cube, ball, cone, rectangle
"""

# Questions about the world: question wordings => answer
KNOWLEDGE = """
what is snow|what is snow made of => Snow is frozen water that falls from the clouds as small white flakes.
what is ice => Ice is frozen water. It is cold, hard and slippery.
what is steam => Steam is hot water in the form of a gas.
why is the sky blue|what makes the sky blue => The sky is blue because the air scatters blue light from the sun.
why do leaves fall in autumn|why do trees lose their leaves => Trees drop their leaves in autumn to save water in the cold months.
where does milk come from|who gives us milk => Milk comes from cows, goats and sheep.
where does honey come from|who makes honey|how is honey made => Honey is made by bees from the nectar of flowers.
where does wool come from|what is wool => Wool comes from sheep. It is used to make warm clothes.
where does paper come from|what is paper made of => Paper is made from wood.
what is bread made of|how is bread made => Bread is made from flour, water, salt and yeast. It is baked in an oven.
what is cheese made of => Cheese is made from milk.
what is glass made of => Glass is made from sand that is melted in a very hot fire.
what is a rainbow|when do we see a rainbow => A rainbow is an arc of colours in the sky. You can see it when the sun shines through rain.
what is the moon|does the moon shine by itself => The moon moves around the Earth. It shines because the sun lights it up.
what is the sun => The sun is a star. It gives us light and warmth.
where does the sun rise|in which direction does the sun come up => The sun rises in the east.
where does the sun set|in which direction does the sun go down => The sun sets in the west.
what is an island|how would you explain an island => An island is land with water all around it.
what is a desert => A desert is a dry place with very little rain.
what is a mountain => A mountain is a very high hill, often with rocks and snow at the top.
what is a river|where do rivers go => A river is a long stream of water. Most rivers flow into the sea.
what is a volcano => A volcano is a mountain from which hot melted rock can come out.
why do we sleep|why do people need sleep => We sleep so that our body and mind can rest.
why do we eat|why do we need food => We eat because food gives us energy and helps us grow.
why do we brush our teeth|why should i brush my teeth => We brush our teeth to keep them clean and healthy.
why do birds have wings|what do birds use their wings for => Most birds use their wings to fly.
why do birds fly south => Many birds fly south in autumn because it is warmer there and they can find food.
why do bees visit flowers => Bees visit flowers to collect nectar for honey.
why do we wear a coat in winter|why do people wear coats => We wear a coat in winter to keep warm.
why do people travel|why do we travel => People travel to see new places, to meet others, and to rest.
why do people stay in hotels|what is a hotel|what is a hotel for => A hotel is a place where travellers can sleep, eat and rest.
what is a hostel => A hostel is a cheap place to stay where guests often share rooms.
what is a library|what do people do in a library => A library is a place where people read and borrow books.
what is a museum|what can you see in a museum => A museum is a building where people look at art or old and interesting things.
what is a market => A market is a place where people buy and sell food and other goods.
what is a harbour => A harbour is a safe place for ships near the land.
what is a passport|why do i need a passport => A passport is a small book that shows who you are. You need it to travel to other countries.
what is a ticket => A ticket shows that you have paid for a journey or a show.
what is a recipe => A recipe tells you how to cook a dish.
what is a souvenir => A souvenir is a small thing that reminds you of a place you visited.
what is a neighbour|who is my neighbour => A neighbour is a person who lives near you.
what is an orphan => An orphan is a child whose parents have died.
what is a bachelor => A bachelor is a man who is not married.
who is your aunt|what is an aunt => An aunt is the sister of your mother or father.
who is your uncle|what is an uncle => An uncle is the brother of your mother or father.
what is a cousin|who is my cousin => A cousin is the child of your aunt or uncle.
what is a nephew => A nephew is the son of your brother or sister.
who are my grandparents|what are grandparents => Your grandparents are the parents of your mother and father.
what is a holiday => A holiday is a time when people rest from work or school.
what is a birthday => A birthday is the day on which a person was born. Many people celebrate it with a cake.
what is a friend|what makes a good friend => A friend is someone you like and trust. A good friend listens and helps.
what is courage => Courage means doing something although you are afraid.
what does patience mean|what is patience => Patience means waiting calmly without getting angry.
what does honest mean => An honest person tells the truth.
what does thirsty mean => You are thirsty when you need something to drink.
what does tired mean => You are tired when you need to rest or sleep.
how many days are in a week|how many days does a week have => A week has seven days.
how many months are in a year|how many months does a year have => A year has twelve months.
how many hours are in a day|how many hours does a day have => A day has twenty-four hours.
how many minutes are in an hour => An hour has sixty minutes.
how many seconds are in a minute => A minute has sixty seconds.
how many days are in a year|how long is a year => A year has 365 days, and a leap year has 366.
how many fingers do we have|how many fingers are on two hands => We have ten fingers, five on each hand.
how many wheels does a bicycle have => A bicycle has two wheels.
how many wheels does a car have => A car has four wheels.
how many legs does a spider have => A spider has eight legs.
how many sides does a triangle have => A triangle has three sides.
how many sides does a square have => A square has four equal sides.
how many eggs are in a dozen|how many is a dozen => A dozen is twelve.
what are the seasons|name the four seasons => The four seasons are spring, summer, autumn and winter.
what season comes after winter|which season follows winter => Spring comes after winter.
what season comes after summer|which season follows summer => Autumn comes after summer.
which season is the coldest => Winter is the coldest season.
which season is the warmest => Summer is the warmest season.
what colours are in a rainbow => The colours of a rainbow are red, orange, yellow, green, blue, indigo and violet.
what colour is grass => Grass is green.
what colour is a banana => A ripe banana is yellow.
what colour is blood => Blood is red.
what colour do you get from blue and yellow|what do you get when you mix blue and yellow => Blue and yellow make green.
what do you get when you mix red and white => Red and white make pink.
what do you get when you mix red and yellow => Red and yellow make orange.
what is the capital of france => The capital of France is Paris.
what is the capital of italy => The capital of Italy is Rome.
what is the capital of spain => The capital of Spain is Madrid.
what is the capital of germany => The capital of Germany is Berlin.
what is the capital of japan => The capital of Japan is Tokyo.
what is the capital of norway => The capital of Norway is Oslo.
what is the largest animal|which animal is the biggest => The blue whale is the largest animal.
which animal is the tallest => The giraffe is the tallest animal.
what do bees make => Bees make honey and wax.
what do cows eat => Cows eat grass and hay.
where do fish live => Fish live in rivers, lakes and the sea.
where do penguins live => Penguins live in the cold south, near the sea.
can fish walk|do fish have legs => No, fish have no legs. They swim with their fins.
can a penguin fly => No, a penguin cannot fly, but it can swim very well.
is the sun hot => Yes, the sun is extremely hot.
is ice warm or cold => Ice is cold.
is an elephant bigger than a mouse => Yes, an elephant is much bigger than a mouse.
is a lemon sweet or sour => A lemon is sour.
is a tomato a fruit or a vegetable => A tomato is a fruit, but most people cook it as a vegetable.
"""


def table(text: str) -> list[tuple[str, str]]:
    """Rows 'name: rest', kept apart by bars or line ends."""
    return [tuple(part.strip() for part in row.split(":", 1)) for line in text.strip().splitlines() for row in line.split("|")]


USE = table(USES)
JOB = table(JOBS)
ANIMAL = [(name, *(c.strip() for c in rest.split(";"))) for name, rest in table(ANIMALS)]
OPPOSITE = [tuple(pair.split()) for line in OPPOSITES.strip().splitlines() for pair in line.split("|")]
CATEGORY = {name: [x.strip() for x in rest.split(",")] for name, rest in (line.split(": ", 1) for line in CATEGORIES.strip().splitlines())}
KNOWN = [(q.split("|"), a) for q, a in (line.split(" => ") for line in KNOWLEDGE.strip().splitlines())]
ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
