"""What guests ask about rooms, people, help and services. The format is that of topics_stay."""

TABLE = """
# noise
? problem: [my neighbours are|the {roomword} next door is|the people upstairs are] [too loud|very noisy|making a lot of noise]
? problem: [it is too loud|there is a lot of noise] and i cannot sleep
? q: are the {s:roomword} quiet
? q: when are the quiet hours
? ask for: a quiet {roomword}
+ I am sorry about the noise. I will [talk to them now|ask them to be quiet|call them right away].
+ Quiet hours are from {quiet} to 7 in the morning. If it is still loud, I will find you another {roomword}.
= Quiet hours start at {quiet}.

# air conditioning
? have: air conditioning
? q: [how do i turn on|how does|how do i use] the air conditioning [|work]
? problem: it is too hot in my {roomword}
? problem: the air conditioning [is not working|makes a strange noise]
? can: make the {roomword} cooler
+ Every {roomword} has air conditioning. Use the [panel by the door|remote control] to set the temperature.
+ I am sorry if you are too warm. Press the blue button on the panel by the door to cool the {roomword}. If it does not work, I will send someone.
- We have no air conditioning, but I can bring you a fan.
= All {s:roomword} have air conditioning.
~ There is no air conditioning, but fans are available.

# heating
? problem: it is [too cold|very cold|freezing] in my {roomword}
? problem: the heating [is not working|does not work]
? q: how do i turn [on|up] the heating
? can: make the {roomword} warmer
+ You can turn up the heating with the [dial on the wall|knob by the window]. We can bring you an extra blanket too.
+ I am sorry that you are cold. I will send someone to look at the heating, and I will bring you a blanket.
= The heating is turned up with the dial on the wall.

# hot water
? problem: there is no [hot|warm] water
? problem: the [shower|water] is cold
? q: why is there no hot water
+ I am sorry. Please let the water run for [two|three] minutes. If it stays cold, I will send someone to repair it.
+ I am sorry about that. Our technician will be with you in {minutes} minutes.
= Let the tap run for two minutes to get hot water.

# power cut
? problem: [there is no electricity in my {roomword}|the lights do not work|the power is out]
? q: why [is there no power|are the lights off]
+ Please put your key card in the slot by the door. It turns on the power.
+ I am sorry. I will check the fuse and send someone in {minutes} minutes.
= The key card in the slot by the door turns on the lights.

# bad room
? can: [change my {roomword}|get another {roomword}|move to another {roomword}|have a different {roomword}]
? problem: i do not like my {roomword}
? problem: my {roomword} [smells bad|smells of smoke|is too small|is too dark]
? s: i want a different {roomword}
+ I am sorry that you are not happy with your {roomword}. I will look for another one for you.
+ I am sorry about that. We can move you to {roomword} {room} [today|right away|in {minutes} minutes].
= Guests can ask the front desk to change {roomword}.

# insects
? problem: there is a [spider|mosquito|bug|mouse|big spider|wasp] in my {roomword}
? problem: there are [ants|flies|mosquitoes|insects] in my {roomword}
+ Oh, I am sorry about that. I will send someone to take care of it right away.
+ I am very sorry. We will clean the {roomword} at once, or move you to another one.
= Call extension {ext} if there are insects in the {roomword}.

# upgrade
? can: [upgrade my {roomword}|get a bigger {roomword}|have a better {roomword}]
? have: [a suite|bigger {s:roomword}|a larger {roomword}]
? price: [an upgrade|a suite]
+ An upgrade to a suite costs {big} per night. Shall I book it for you?
- I am sorry, all our bigger {s:roomword} are taken at the moment.
= An upgrade to a suite costs {big} per night.
~ There are no suites.

# view
? ask for: a {roomword} with [a view|a sea view|a nice view|a balcony|a view of the garden]
? plenty: {s:roomword} with [a view|a balcony|a sea view|a lake view]
? q: what [can i see|is the view] from [the window|my {roomword}]
? q: does my {roomword} have [a balcony|a nice view]
+ Yes, our {s:roomword} on the {view} side have a lovely view. They cost {mid} more per night.
+ From the {s:roomword} on the {view} side you can see the [old town|hills|water|garden|park].
- I am sorry, our {s:roomword} have no special view. They look onto a quiet yard.
= {S:roomword} on the {view} side have the best view.
~ The {s:roomword} look onto a quiet yard.

# family room
? have: a family {roomword}
? plenty: family {s:roomword}
? ask for: a {roomword} for {few} people
? q: [can|could] we all sleep in one {roomword}
? s: we are [two adults and two children|a family of five] and need one {roomword}
? q: do you have connecting {s:roomword}
+ Yes, we have family {s:roomword} with a double bed and {few} single beds. They cost {rate} per night.
- I am sorry, we have no family {s:roomword}, but we can give you two {s:roomword} next to each other.
= Family {s:roomword} for up to five people cost {rate} per night.
~ There are no family {s:roomword}.

# beds
? ask for: [two single beds|a double bed|a room with twin beds|a bigger bed]
? q: what kind of [bed|beds] does the {roomword} have
? q: are the beds [big|soft|hard]
? q: how [big|wide] is the bed
+ Your {roomword} can have one double bed or two single beds. Just tell us what you prefer.
+ All beds are wide and comfortable. We can put two single beds in your {roomword}.
= {S:roomword} have a double bed or two single beds.

# children
? q: do children [stay|sleep] for free
? price: [a child|children|a stay with a child]
? q: are [children|babies|kids] [allowed|welcome]
? can: bring [my children|a baby|our kids]
+ Children are [very|always] welcome. They stay free up to the age of {childage}.
+ Children under {childage} stay for free. Older children pay {mid} per night.
= Children under {childage} stay free.

# babysitting
? have: [a babysitter|babysitting|someone to watch the children]
? you: [watch my children|look after our baby this evening]
? ask for: a babysitter for [tonight|{weekday} evening]
+ We can find a babysitter for you. It costs {mid} per hour. Please ask one day before.
- I am sorry, we do not have a babysitting service.
= Babysitting costs {mid} per hour.
~ There is no babysitting.

# wheelchair
? q: is the {house} [wheelchair accessible|accessible|easy to use with a wheelchair|suitable for a wheelchair]
? q: can i get in with a wheelchair
? have: [a wheelchair ramp|wheelchair access|an accessible {roomword}|step-free access]
? s: my [mother|father|husband|wife|grandmother] uses a wheelchair
+ Yes, the {house} has a ramp at the entrance, and we have {few} accessible {s:roomword} [with wide doors|with a walk-in shower].
- I am sorry, there are a few steps at the entrance, but our staff will gladly help you.
= There is a ramp and {few} accessible {s:roomword}.
~ There are a few steps at the entrance.

# lift
? have: [a lift|an elevator]
? where: the [lift|elevator]
? problem: the lift [is not working|is stuck|is very slow]
? q: do i have to [climb|take] the stairs
+ Yes, there is a lift [next to reception|behind the front desk|to the left of the main door]. It goes to all floors.
- I am sorry, there is no lift. We can give you a {roomword} near the entrance and help with your bags.
= The lift is next to reception.
~ There is no lift.

# doctor
? ask for: a doctor
? problem: [i feel sick|i am ill|my son has a fever|my daughter is ill|my husband fell down the stairs|i have a bad headache]
? q: is there a doctor [nearby|near here|on call]
? you: call a doctor
? where: the nearest [doctor|hospital]
+ I am sorry to hear that. I will call a doctor for you [now|right away]. What is your {roomword} number?
+ Please stay calm. I can call a doctor at once. The nearest hospital is {minutes} minutes away on {street}.
= The nearest hospital is on {street}.

# first aid
? ask for: a [plaster|bandage|first aid kit]
? problem: i [cut my finger|hurt my knee|burned my hand]
? have: a first aid kit
+ I am sorry that you are hurt. We have a first aid kit at the front desk and will help you at once.
= There is a first aid kit at the front desk.

# emergency exit
? where: the [emergency exit|fire exit]
? q: what [do i do|should i do|happens] [if there is a fire|in an emergency|if the fire alarm rings]
? q: how do i get out [if there is a fire|in an emergency]
? problem: i can smell smoke
+ The emergency exits are at both ends of the [hall|corridor]. Please use the stairs and meet {outside}.
+ In an emergency, leave the building by the stairs, do not use the lift, and meet {outside}.
= The emergency exits are at both ends of the corridor.

# emergency number
? q: what [is the emergency number|number do i call in an emergency]
? q: who do i call [in an emergency|at night if something happens]
+ In an emergency, please dial {ext} from your {roomword}. Someone is there day and night.
= In an emergency dial {ext}.

# phone number
? q: what is [your|the {house}'s] [phone|telephone] number
? q: how can i [call|reach|phone] [you|the {house}|reception]
? ask for: the phone number of the {house}
? q: what number do i dial for reception
+ Our phone number is {phone}.
+ You can [call|reach] us at {phone}[|, or dial {ext} from your {roomword}].
= Phone: {phone}.

# address
? q: what is [your|the] [exact |]address[| of the {house}]
? q: where [are you|is the {house}|exactly are you located]
? q: what street are you on
? ask for: your address for [the taxi|a parcel|my map]
+ Our address is {address}.
+ {Name} is at {address}.
= Address: {address}.

# email
? q: what is your email[| address]
? can: [send you an email|write to you]
+ You can write to us at {email}.
= Email: {email}.

# manager
? can: [speak to|talk to|see] the manager
? q: who is [the manager|in charge|the boss] here
? s: i want to [speak to the manager|make a complaint|complain about my stay]
? q: what is the name of the manager
+ Our manager is {person}. [I will ask {first} to come and speak with you.|You can find {first} at the front desk.]
+ Our manager, {person}, will gladly talk to you. You can also write to {email}.
= The manager is {person}.

# owner and history
? q: how old is the {house}
? q: when was the {house} built
? q: what is the history of [the {house}|this building]
? q: who owns the {house}
+ The {house} was [built|opened] in {year}[|, and it has belonged to the {last} family ever since].
= The house was opened in {year} by the {last} family.

# number of rooms
? q: how many {s:roomword} [do you have|are there|does the {house} have]
? q: how [big|large] is the {house}
? q: how many floors are there
+ We have {nrooms} {s:roomword} on {floors} floors.
= The house has {nrooms} {s:roomword} on {floors} floors.

# stars
? q: how many stars do you have
? q: is this a [four|five|three] star {house}
+ We [have|are proud of our] {few} stars.
= The house has {few} stars.

# name of house
? q: what is [the name of this {house}|this {house} called|this place called]
? q: where am i
+ [You are at|This is|Welcome to] {name}[| in {town}].
= The house is called {name}.

# loyalty
? have: a [loyalty programme|membership card|bonus card]
? q: do [regular guests|members] get a discount
? can: collect points
? have: [a discount|a discount for students|a cheaper price for longer stays]
+ Members of our guest club get {percent} percent off. You can join for free at reception.
- I am sorry, we do not have a loyalty programme.
= Club members get {percent} percent off.
~ There is no loyalty programme.

# voucher
? can: buy a gift [card|voucher]
? have: gift [vouchers|cards]
? s: i would like to give my [parents|sister|friend] a stay here
+ Yes, you can buy gift vouchers at reception from {big}.
= Gift vouchers are sold at reception.

# newspaper
? have: [newspapers|a newspaper|the daily paper]
? ask for: a newspaper
? q: where can i [read|buy] a newspaper
+ Newspapers are [in the lobby|at reception|next to the breakfast room]. They are free for guests.
- We have no printed newspapers, but you can read them on the tablet in the lobby.
= Free newspapers are in the lobby.
~ There are no printed newspapers.

# printing
? can: [print something|print my boarding pass|print a ticket|make a copy|scan a document]
? you: [print this|print my tickets|copy this page]
? have: [a printer|a copy machine|a scanner]
+ Yes, we can print it for you at the front desk. [The first five pages are free.|It costs {small}.] Send the file to {email}.
= Guests can print at the front desk.

# post
? can: [send a letter|send a postcard|post a parcel|get a parcel sent here]
? q: do you sell stamps
? ask for: stamps
? q: has a [parcel|letter|package] come for me
+ You can leave your post at the front desk. We send it every day at {open}. A stamp costs {small}.
= Post is collected at the front desk.

# television
? q: how do i turn on the [tv|television]
? q: which channels do you have
? problem: the [tv|television] [does not work|has no sound|has no picture]
? have: a television in the {roomword}
+ Press the red button on the remote control. There are {n100} channels.
+ I am sorry. If the television does not work, I will send someone to look at it.
= Televisions have {n100} channels.

# languages
? q: [which|what] languages do you speak
? q: does anyone [here |]speak [French|German|Spanish|Italian|Japanese|Chinese|Arabic]
? q: do you speak [French|German|Spanish|Italian|Japanese|Chinese]
+ Our team speaks English, [French|German] and [Spanish|Italian|Polish].
= The team speaks English, French and Spanish.

# currency exchange
? can: [change money|exchange money|exchange dollars|change euros] [here|at the desk]
? have: a currency exchange
? where: the nearest [exchange office|place to change money]
+ Yes, you can change money at the front desk. There is a fee of {percent} cents per note.
- I am sorry, we do not change money. There is a bank on {street}, {minutes} minutes from here.
= Money can be changed at the front desk.
~ Money can be changed at the bank on {street}.

# groups
? can: book for a group[| of {n100} people]
? q: do you take groups
? q: do groups get a [discount|better price]
? s: we are a group of {n100}
+ We are happy to welcome groups. From {n10} {s:roomword} on you get {percent} percent off.
= Groups get {percent} percent off.

# weddings
? can: [celebrate my birthday here|have our wedding here|hold a party|hold our wedding]
? q: do you host [weddings|birthday parties|parties|events]
+ Yes, we love to host parties. Our hall has space for {n100} guests. Please talk to {person}.
- I am sorry, we have no space for parties.
= The hall has space for {n100} guests.
~ There are no parties or weddings here.

# special occasion
? s: it is my [wife's|husband's|mother's|friend's] birthday [tomorrow|on {weekday}|today]
? s: we are on our honeymoon
? you: put flowers in our {roomword}
? can: order [flowers|a birthday cake|a bottle of champagne] for the {roomword}
+ How lovely, congratulations! We can put flowers in the {roomword} for {mid}.
+ Congratulations! We would gladly prepare a cake or flowers. Please tell us the time.
= Flowers or a cake can be ordered for {mid}.

# visitors
? can: [have a visitor|bring a friend to my {roomword}|invite a friend]
? q: are visitors allowed
+ Visitors are welcome until {quiet}. Please tell the front desk their names.
- I am sorry, visitors are not allowed in the {s:roomword}. You can meet in the lobby.
= Visitors are welcome until {quiet}.
~ Visitors can be met in the lobby only.

# id
? q: [what do i need|which papers do i need|do i need my passport] to check in
? q: do you need [my passport|to see my ID]
+ Please bring your passport or ID card and the card you paid with.
= Guests need a passport or ID card to check in.

# age
? q: how old do i have to be to check in
? q: is there a minimum age
+ Guests must be at least {adultage} years old to check in without their parents.
= The minimum age is {adultage}.

# thanks
? s: thank you for [your help|everything|a lovely stay]
? s: [everything was|it was|our stay was] [great|wonderful|perfect|lovely]
? s: you have been very kind
+ Thank you for your kind words. We hope to see you again at {name}.
+ You are very welcome. Please let me know if you need anything else.
= We hope that every guest feels at home.

# greeting
? [hello|hi|good morning|good evening|hey there|good afternoon]!
? s: hello, is anyone there
? s: hi, we have just arrived
+ [Hello|Good day], and welcome to {name}! How can I help you?
+ Welcome to {name}. What can I do for you?
= Guests are greeted by name.

# goodbye
? s: goodbye
? s: we are leaving [now|today|tomorrow morning]
? s: bye, see you next year
+ Goodbye, and have a safe trip. We hope to see you again soon.
+ Thank you for staying at {name}. Have a good journey home.
= We wish every guest a safe trip home.
"""
