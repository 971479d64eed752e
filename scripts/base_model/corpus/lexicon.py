"""More words: definitions, verb forms, near-synonyms, comparisons, countries and example sentences."""

DEFINITIONS = """
adventure: an exciting journey or experience|album: a book for photos or stamps|ankle: the part between the foot and the leg|anchor: a heavy hook that holds a ship
apron: a piece of cloth that keeps your clothes clean|argument: a talk between people who do not agree|attic: a room under the roof|author: a person who writes books
avenue: a wide street with trees|bargain: something you buy for a low price|battery: a small thing that stores power|bay: a part of the sea with land around it
beard: hair on a man's chin|blizzard: a storm with snow and strong wind|boulder: a very large stone|bouquet: a bunch of flowers|branch: an arm of a tree
breeze: a light wind|brochure: a thin book with pictures of hotels or trips|cabin: a small wooden house or a room on a ship|canal: a river made by people
canyon: a deep valley with steep sides|capital: the main city of a country|captain: the leader of a ship or a team|cargo: the things that a ship carries
cave: a hole in a rock or a hill|ceiling: the top of a room|cellar: a room under the house|century: a hundred years|champion: the winner of a contest
chimney: a pipe that lets smoke out of a house|choir: a group of people who sing together|circus: a show with clowns and acrobats|cliff: a high steep rock
cloak: a loose coat without sleeves|coast: the land next to the sea|coin: a round piece of metal money|colleague: a person you work with
concert: a show with music|cottage: a small house in the country|crew: the people who work on a ship or plane|crown: a ring of gold on a king's head
cushion: a soft thing to sit on|customer: a person who buys something|dawn: the time when the sun comes up|deadline: the last day for finishing something
decade: ten years|dessert: the sweet dish at the end of a meal|diary: a book in which you write about your day|dictionary: a book that explains words
disguise: clothes that hide who you are|donation: a gift of money to help others|dozen: a group of twelve|dusk: the time when it gets dark|echo: a sound that comes back
emergency: a sudden and dangerous event|engine: the machine that makes a car move|exhibition: a show of art or other things|factory: a place where goods are made
feast: a very large meal|festival: a day or week of celebration|flood: a lot of water where it should be dry|fog: a thick cloud near the ground
fossil: an animal or plant that turned to stone|fountain: a place where water springs up|garage: a building for a car|ghost: the spirit of a dead person in stories
giant: a very big person in stories|glacier: a slow river of ice|gossip: talk about other people|harvest: the time when crops are gathered|hurricane: a very strong storm
hero: a very brave person|hobby: something you like to do in your free time|horizon: the line where the sky meets the land|igloo: a house made of snow
interview: a talk with questions and answers|invitation: a message that asks you to come|jewel: a precious stone|journey: a long trip|jungle: a hot, thick forest
kingdom: a land ruled by a king or queen|knight: a soldier on a horse in old times|lagoon: a calm lake near the sea|landlord: a person who rents out a house
lantern: a lamp you can carry|laundry: clothes that must be washed|legend: a very old story|lighthouse: a tower with a light for ships|loan: money that you must pay back
lobby: the room behind the entrance of a hotel|lullaby: a song that helps a child sleep|luggage: the bags of a traveller|maze: a place where it is hard to find the way out
meadow: a field with grass and flowers|medal: a prize to wear around the neck|mercy: kindness to someone in your power|mist: very thin fog|monument: a stone that helps people remember
mystery: something nobody can explain|necklace: a chain to wear around the neck|nest: a home that a bird builds|novel: a long story in a book|nursery: a room for small children
oasis: a green place in a desert|ocean: a very large sea|orchard: a garden with fruit trees|orchestra: a large group of musicians|parade: a march through the streets
parcel: a thing wrapped in paper and sent by post|passenger: a person who travels in a vehicle|pavement: the path for walkers next to a road|pebble: a small round stone
peninsula: land with water on three sides|pier: a bridge that leads into the sea|pilgrim: a person on a holy journey|plateau: high flat land|puddle: a little water on the ground
pupil: a child at school|puzzle: a game that makes you think|quarrel: an angry argument|queue: a line of people who wait|quilt: a warm cover for a bed
reef: a line of rocks in the sea|refund: money that you get back|rehearsal: practice before a show|rumour: a story that may not be true|sculpture: a work of art made of stone or metal
servant: a person who works in someone's house|shadow: a dark shape made by light|shelter: a place that keeps you safe|skeleton: all the bones of a body|souvenir: a thing that reminds you of a place
spectator: a person who watches a game|stadium: a place for big games|stranger: a person you do not know|suburb: a part at the edge of a city|swamp: soft, wet land
tenant: a person who rents a home|tide: the rise and fall of the sea|treasure: gold and other precious things|twin: one of two children born together|valley: low land between hills
vacancy: a free room in a hotel|village: a very small town|vineyard: a field where grapes grow|volunteer: a person who works without pay|voyage: a long trip by ship
waterfall: water that falls from a high place|wedding: the day when two people marry|widow: a woman whose husband has died|windmill: a mill that is moved by the wind|witness: a person who saw what happened
"""

PAST = """
go went|come came|see saw|eat ate|drink drank|give gave|take took|buy bought|bring brought|think thought|sleep slept|run ran|swim swam|sing sang|write wrote
read read|speak spoke|tell told|say said|find found|lose lost|make made|do did|have had|get got|begin began|break broke|build built|catch caught|choose chose
cut cut|draw drew|drive drove|fall fell|feel felt|fly flew|forget forgot|grow grew|hear heard|hide hid|hold held|keep kept|know knew|leave left
lend lent|meet met|pay paid|put put|ride rode|ring rang|rise rose|sell sold|send sent|shine shone|sit sat|stand stood|steal stole|teach taught|throw threw
wake woke|wear wore|win won|walk walked|talk talked|carry carried|stop stopped|open opened|close closed|help helped|arrive arrived|travel travelled|wash washed
"""

SYNONYMS = """
begin start|big large|small little|happy glad|sad unhappy|quick fast|clever smart|ill sick|angry cross|beautiful lovely|afraid scared|quiet silent|rich wealthy
shut close|reply answer|shout yell|end finish|gift present|road street|home house|trip journey|stone rock|strange odd|tired weary|brave bold|hard difficult
easy simple|correct right|choose select|buy purchase|help assist|repair mend|find discover|speak talk|funny amusing|tasty delicious|wonderful marvellous|calm peaceful
nearly almost|perhaps maybe|often frequently|rarely seldom|whole entire|empty vacant|annoyed irritated|tiny minute|huge enormous|jump leap|hurry rush|guess suppose
"""

COUNTRIES = """
Austria: Vienna; German|Belgium: Brussels; Dutch and French|Brazil: Brasilia; Portuguese|Canada: Ottawa; English and French|Chile: Santiago; Spanish|China: Beijing; Chinese
Denmark: Copenhagen; Danish|Egypt: Cairo; Arabic|England: London; English|Finland: Helsinki; Finnish|France: Paris; French|Germany: Berlin; German|Greece: Athens; Greek
Hungary: Budapest; Hungarian|Iceland: Reykjavik; Icelandic|India: New Delhi; Hindi and English|Ireland: Dublin; English and Irish|Italy: Rome; Italian|Japan: Tokyo; Japanese
Kenya: Nairobi; Swahili and English|Mexico: Mexico City; Spanish|Morocco: Rabat; Arabic|Norway: Oslo; Norwegian|Peru: Lima; Spanish|Poland: Warsaw; Polish|Portugal: Lisbon; Portuguese
Russia: Moscow; Russian|Scotland: Edinburgh; English|Spain: Madrid; Spanish|Sweden: Stockholm; Swedish|Thailand: Bangkok; Thai|Turkey: Ankara; Turkish|Vietnam: Hanoi; Vietnamese
"""

COMPARISONS = """
elephant: bigger; mouse|mountain: higher; hill|train: faster; bicycle|plane: faster; car|ocean: deeper; pond|feather: lighter; stone|giraffe: taller; horse|castle: larger; cottage
river: longer; stream|hotel: bigger; cottage|snail: slower; rabbit|diamond: harder; piece of chalk|lemon: sourer; peach|whale: heavier; cow|city: larger; village|oak: older; flower
turtle: slower; cat|suitcase: heavier; purse|needle: thinner; broom|minute: shorter; hour|week: longer; day|year: longer; month|grandmother: older; baby|lion: stronger; cat
"""

# word: an example sentence
EXAMPLES = """
although: Although it was raining, we went for a walk.|because: I stayed in bed because I had a fever.|before: Wash your hands before you eat.|while: She read a book while he slept.
unless: We will miss the bus unless we hurry.|therefore: The road was icy, and therefore he drove slowly.|whether: I do not know whether the shop is open.|instead: Let us walk instead of taking the car.
promise: I promise to write to you every week.|borrow: May I borrow your bicycle until tomorrow?|whisper: They had to whisper in the library.|neighbour: Our neighbour grows beautiful roses.
delicious: The soup your mother made was delicious.|journey: The journey over the mountains took three days.|patient: The nurse was very patient with the old man.|surprise: The party was a complete surprise.
umbrella: Take your umbrella, it looks like rain.|village: The village lies between two rivers.|sometimes: Sometimes we eat breakfast on the balcony.|together: The children sang together in the garden.
yesterday: Yesterday I cleaned the whole kitchen.|tomorrow: Tomorrow we will visit my grandparents.|enormous: An enormous tree stood in front of the church.|curious: The curious kitten looked into every box.
receipt: Please keep the receipt for the shoes.|apologise: He wanted to apologise for being late.|decide: I cannot decide which coat to buy.|explain: Could you explain the rules of the game?
memory: That summer is my best memory.|silence: After the storm there was silence.|furniture: They bought new furniture for the living room.|weather: The weather changes quickly near the sea.
advice: Her advice helped me a lot.|health: Fresh air is good for your health.|thunder: The dog hides when it hears thunder.|holiday: We spent our holiday in a small fishing village.
invite: I would like to invite you to dinner.|recommend: Can you recommend a good book?|celebrate: They celebrate the new year with music and fireworks.|complain: Some people complain about everything.
imagine: Imagine a house made of chocolate.|notice: Did you notice the blue bird on the roof?|prefer: I prefer tea to coffee.|realise: He did not realise that the door was open.
suddenly: Suddenly the lights went out.|carefully: She carried the eggs carefully.|finally: Finally the parcel arrived.|probably: It will probably snow tonight.|exactly: The train leaves at exactly nine.
"""


def bars(text: str) -> list[str]:
    return [part.strip() for line in text.strip().splitlines() for part in line.split("|")]


DEFINITION = [tuple(row.split(": ", 1)) for row in bars(DEFINITIONS)]
PAST_FORM = [tuple(row.split()) for row in bars(PAST)]
SYNONYM = [tuple(row.split()) for row in bars(SYNONYMS)]
COUNTRY = [(name, *rest.split("; ")) for name, rest in (row.split(": ") for row in bars(COUNTRIES))]
COMPARISON = [(one, *rest.split("; ")) for one, rest in (row.split(": ") for row in bars(COMPARISONS))]
EXAMPLE = [tuple(row.split(": ", 1)) for row in bars(EXAMPLES)]
