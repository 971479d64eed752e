"""What guests ask about arriving, paying, rules and belongings.

Each block starts with '# topic'. '?' is a question, '+' an answer, '-' an answer when
the house does not have it, '=' the fact as a house would note it ('~' when not), and
'>' a follow-up question with its answer after '=>'.
"""

TABLE = """
# check-in time
? time: check-in
? q: [what time|when|from when|how early] can [i|we] check in
? q: what time is [check-in|check in|the check-in]
? q: when will [my|our] {roomword} be ready
? q: when can [i|we] [get into|move into|have] [my|our|the] {roomword}
? s: i need to know your check-in time
+ Check-in [starts at|is from|begins at] {checkin}.
+ You can check in from {checkin}[| at reception| onwards].
+ Your {roomword} will be ready [at|from] {checkin}. You can leave your bags with us before that.
= Check-in is from {checkin}.
> [and|and when is] check-out? => Check-out is [until|by] {checkout}.
> can i come earlier? => If your {roomword} is ready, you may come in earlier. Please call us on the day.

# check-out time
? time: check-out
? q: [what time|when|by when|by what time|how late] [do i have to|must i|should i|do we need to] [check out|leave the {roomword}|leave]
? q: what time is [check-out|check out|checkout]
? q: until when can i [stay in|keep] [my|the] {roomword}
? s: i would like to know when i have to leave my {roomword}
+ Check-out is [until|by|at] {checkout}.
+ Please leave your {roomword} by {checkout} on the day you depart.
+ You can stay in your {roomword} until {checkout}. You may leave your bags with us after that.
= Check-out is by {checkout}.
> can i stay a bit longer? => You can ask for a late check-out. It costs {mid} and depends on how full we are.

# early check-in
? can: check in [early|earlier|before noon|in the morning]
? can: get [my|our] {roomword} [early|earlier|in the morning]
? have: early check-in
? q: we land very early, can we come [straight to our {roomword}|before check-in]
+ Early check-in is possible [from {early}|if a {roomword} is free]. It costs {mid}.
+ Yes, if your {roomword} is ready you can check in early [free of charge|at no extra cost]. Please tell us when you arrive.
- I am sorry, we cannot offer early check-in. You are welcome to leave your bags and wait in the lobby.
= Early check-in is possible for {mid} if a {roomword} is free.
~ Early check-in is not possible.

# late check-out
? can: [check out late|check out later|leave later|stay longer on the last day|keep the {roomword} until the afternoon]
? have: late check-out
? s: our flight is in the evening and we would like to keep the {roomword} longer
+ Late check-out until {late} [is possible for|costs] {mid}.
+ Yes, you can keep your {roomword} until {late} for {mid}. Please ask the day before.
- I am sorry, late check-out is not possible because we are full. We can store your luggage for free.
= Late check-out until {late} costs {mid}.
~ There is no late check-out.

# late arrival
? can: arrive [late|after midnight|late at night|very late]
? q: is [reception|the front desk] open [at night|24 hours|all night|late]
? q: what if [i|we] arrive [late|after midnight|in the middle of the night]
? q: how do we get in at night
? s: [my train is late and i|our flight is delayed and we] will arrive after midnight
+ The front desk is open day and night, so you can arrive at any time.
+ Late arrival is no problem. Reception is open 24 hours a day.
- Reception closes at {close}. If you come later, please call us and we will give you the code for the door.
- Reception closes at {close}. Your key will be in the box by the door, and the code is {n1000}.
= Reception is open 24 hours.
~ Reception closes at {close}.

# wifi password
? q: what is the [wifi|wi-fi|internet] [password|code|key]
? q: [what's|which is] the [password|code] for the [wifi|internet|wireless network]
? q: [how do i|how can i] [get on|connect to|log in to|use] the [wifi|internet|network]
? ask for: the wifi [password|code]
? q: can you give me the [wifi|internet] password
? s: i [cannot|can't] connect to the wifi
? q: which wifi network [should i|do i] use
+ The wifi network is {network} and the password is {password}.
+ Please choose the network {network}. The password is {password}.
+ The wifi password is {password}.
= Wifi network: {network}, password: {password}.
> is it free? => Yes, the wifi is free for all guests.

# wifi
? have: [wifi|wi-fi|internet|wireless internet|free wifi]
? price: the [wifi|internet]
? q: is there [wifi|internet] in the {s:roomword}
? q: does the wifi work in [the {s:roomword}|the lobby|the whole {house}]
+ Yes, we have [free|fast and free] wifi in [the whole {house}|all {s:roomword} and in the lobby].
+ Wifi is free for all guests. [The network is called {network}.|Ask at reception for the password.]
- We have wifi only in the lobby, and it is free there.
= Wifi is free in the whole {house}.
~ Wifi is available in the lobby only.

# internet trouble
? problem: the [wifi|internet] [is slow|is very slow|does not work|keeps stopping|is not working in my {roomword}]
? q: why is the [wifi|internet] so slow
+ I am sorry about the internet. Please turn your wifi off and on again. If that does not help, call us at extension {ext}.
+ I am sorry. I will restart the network now, and it should work again in {minutes} minutes.
= If the wifi is slow, call extension {ext}.

# room key
? problem: i [lost|cannot find|have lost] my [key|key card|room key|{roomword} key]
? problem: i [left|forgot] my key [in the {roomword}|inside] and i am locked out
? problem: my key card [does not work|is not working|stopped working]
? ask for: [a new key card|another key|a second key|a spare key]
? q: [what happens|what do i do] if i lose my key
+ No problem. Please come to reception with your ID and we will [make you a new key|give you a new key card].
+ Please bring some ID to the front desk. A new key costs {small}.
= A new key card costs {small}.

# wake-up call
? have: [a wake-up call|wake-up calls|a wake-up service]
? you: wake me [up|up tomorrow|at {open}|early tomorrow]
? ask for: a wake-up call [for|at] {open}
? can: [get|order|book] a wake-up call
? s: i have to get up early tomorrow and i have no alarm
+ Of course. [Tell us the time|What time would you like] and we will call your {roomword}.
+ Certainly, we will gladly call you in the morning. Please give us the time and your {roomword} number.
- I am sorry, we do not make wake-up calls. There is an alarm clock next to your bed.
= Wake-up calls are free. Dial {ext} to ask for one.
~ There are no wake-up calls, but every {roomword} has an alarm clock.

# pets
? can: bring [my dog|our dog|a dog|my cat|a small pet|my pet]
? q: are [pets|dogs|cats|animals] [allowed|welcome|ok]
? q: do you [accept|allow|take] [pets|dogs|cats|animals]
? q: is the {house} [pet friendly|dog friendly]
? s: i am travelling with [my dog|a small dog|my cat|two dogs]
+ Yes, [pets|dogs and cats|small pets] are welcome. The charge is {mid} per night.
+ [Pets|Dogs] are welcome at no extra cost, but please keep them on a lead in the {house}.
- I am sorry, pets are not allowed [in the {house}|here]. [Only guide dogs may stay with us.|]
= Pets are welcome for {mid} per night.
~ Pets are not allowed, except guide dogs.
> where can i walk him? => There is a [park|path|field] {minutes} minutes from here where dogs can run.

# smoking
? can: smoke [in the {roomword}|on the balcony|here|inside]
? q: where can i smoke
? q: is smoking allowed[| in the {s:roomword}| on the terrace]
? q: do you have [smoking {s:roomword}|a smoking area]
? q: is this a non-smoking {house}
+ Smoking is [not allowed indoors|allowed only outside]. There is a smoking area {outside}.
+ The whole {house} is non-smoking, but you may smoke {outside}.
= Smoking is allowed only {outside}.

# cancellation
? can: cancel [my booking|my reservation|our stay|the {roomword}]
? q: what is your cancellation [policy|rule]
? q: how late can i cancel
? q: what happens if i [cancel|have to cancel|cannot come]
? price: [cancelling|a cancellation]
? s: i need to cancel my [booking|reservation]
? q: do i get my money back if i cancel
+ You can cancel free of charge up to {hours} hours before [arrival|you arrive]. After that we charge [one night|the first night].
+ Cancellation is free until {days} days before your stay. Later you pay for one night.
= Free cancellation up to {hours} hours before arrival.

# changing a reservation
? can: [change|move|change the dates of] my [booking|reservation|stay]
? can: [stay one more night|add another night|book one more night|extend my stay]
? can: [leave a day early|shorten my stay]
? you: change my [booking|reservation] to [another day|{weekday}|next week]
? s: my plans have changed and i want to come on {weekday}
+ Certainly, we can change your booking if we have a free {roomword}. Please give me your [name|booking number] and the new dates.
+ Of course. Tell me your booking number and the new dates, and I will check for you.
= Bookings can be changed up to {hours} hours before arrival.

# making a reservation
? can: [book|reserve] a {roomword}[| for tonight| for two| for {few} nights| for the weekend]
? q: do you have [any|a] free {s:roomword} [tonight|on {weekday}|this weekend|in {month}]
? q: do you have any {s:roomword} left [for tonight|on {weekday}]
? ask for: a {roomword} for [two|tonight|{few} nights|one person]
? s: i want to make a [reservation|booking]
+ We would be happy to have you. Please tell me your name, the dates and the number of guests.
+ Certainly. For which nights would you like to book, and for how many people?
= You can book at reception, on our website or by calling {phone}.

# room price
? price: [a {roomword}|a double {roomword}|a single {roomword}|one night|a night|a {roomword} for two]
? q: what are your [rates|prices|room rates]
? q: how much do you charge [per night|for a double|for two people]
? q: how expensive [is a {roomword}|are your {s:roomword}]
+ A double {roomword} costs {rate} per night[|, including breakfast|, without breakfast].
+ Our {s:roomword} start at {rate} per night.
= A double {roomword} costs {rate} per night.

# deposit
? q: do [i|we] [have|need] to [pay|leave] a deposit
? q: how much is the deposit
? q: [is there|do you take|do you ask for] a deposit
? q: when do i get my deposit back
+ We ask for a deposit of {big} [at check-in|when you arrive]. You get it back when you leave.
- We do not ask for a deposit.
= A deposit of {big} is taken at check-in.
~ No deposit is needed.

# payment
? can: pay [by card|by credit card|in cash|with cash|with my phone|by debit card]
? q: [how can i pay|which cards do you take|what cards do you accept|how do we pay]
? q: do you [take|accept] [credit cards|cash|cards|mobile payments]
? q: when do [i|we] [have to|need to] pay
+ You can pay by card or in cash[| when you leave| at check-in].
+ We accept all major credit cards and cash. You pay when you [leave|arrive].
- We take cards only, no cash, I am afraid.
= We accept cash and all major cards.
~ We accept cards only, no cash.

# invoice
? ask for: [an invoice|a receipt|a bill|my bill|a copy of my bill]
? can: [get|have] [an invoice|a receipt|the bill] [for my company|by email|in the name of my company]
? you: [print|send me|email me] [the invoice|my invoice|a receipt|my bill]
? problem: there is a mistake on my [bill|invoice]
+ Of course. [We will print|I will prepare] your invoice at [the front desk|reception] when you check out.
+ Certainly. Please tell us the name and address for the invoice, and we will send it by email.
= Invoices are printed at check-out or sent by email.

# tourist tax
? have: a [tourist tax|city tax]
? price: the [tourist tax|city tax]
? q: are taxes included
+ The [city|tourist] tax is {small} per person and night. It is paid [on arrival|at check-out].
- All taxes are included in the price.
= The city tax is {small} per person per night.
~ All taxes are included.

# luggage
? can: [leave|store|keep] [my luggage|our bags|my suitcase|my bags] [here|after check-out|before check-in|with you|for a few hours]
? have: [luggage storage|a luggage room|a place for our bags]
? where: the [luggage room|luggage storage]
? price: luggage storage
? q: where can i [leave|put] my [bags|suitcases|luggage]
+ Yes, you can leave your bags [in our luggage room|with us|behind the desk]. It is free[| on the day you leave].
+ Of course, we will look after your luggage. [Our luggage room is {spot}.|It costs {small} per bag.]
= Guests can leave their luggage with us free of charge.

# porter
? you: [carry my bags up|help me with my luggage|bring my bags to my {roomword}|send someone for my bags]
? ask for: [help with my bags|a porter|a luggage trolley]
? problem: my suitcase is very heavy
+ Certainly. Someone will help you with your bags in {minutes} minutes.
- I am sorry, we have no porter, but you can use the luggage trolley by the door.
= A porter can carry bags to the {roomword}.
~ There is a luggage trolley by the door.

# lost and found
? problem: i [lost|have lost|cannot find|left] my [wallet|phone|jacket|glasses|scarf|umbrella|watch|ring|book|camera] [somewhere here|in the {house}|at breakfast|in the {roomword}]
? q: has anyone found [my|a] [wallet|phone|jacket|scarf|watch|camera|hat|ring|teddy bear]
? q: do you have a lost and found
? where: the lost and found
+ I am sorry to hear that. Please [tell me what it looks like|describe it], and I will check our lost and found box.
+ Lost things are kept at the front desk for {days} weeks. I will look for it right away.
= Lost things are kept at the front desk.

# safe
? have: [a safe|a safe in the {roomword}|a place for valuables]
? q: where can i [keep|leave|put] my [passport|money|jewellery|valuables]
? q: how do i use the safe
? can: leave my [passport|money|laptop|valuables] in a safe
+ There is a small safe in [every {roomword}|the wardrobe of your {roomword}]. You can choose your own code.
- There is no safe in the {roomword}, but you can leave your valuables in the safe at reception.
= There is a safe in every {roomword}.
~ There is a safe at reception.

# laundry
? have: [a laundry service|laundry|a washing machine|a laundry]
? can: [wash my clothes|do my laundry|have my clothes washed|get my shirts washed]
? you: wash [my clothes|my shirts|some shirts|these trousers]
? price: [the laundry|washing a shirt|the laundry service]
? q: where can i wash my clothes
? s: i have no clean clothes left
+ Yes. Put your clothes in the laundry bag before {open}, and you will have them back [the same evening|the next day]. A bag costs {mid}.
+ Our laundry service costs {mid} per bag and takes one day.
- We have no laundry service, but there is a laundry {minutes} minutes away on {street}.
= Laundry costs {mid} per bag and takes one day.
~ There is no laundry in the house. The nearest is on {street}.

# dry cleaning
? have: [dry cleaning|a dry cleaning service]
? can: have my [suit|dress|coat] [dry cleaned|cleaned]
? q: how long does dry cleaning take
? problem: there is a stain on my [suit|dress|best coat]
+ We send dry cleaning out every morning. A suit costs {mid} and is back in {few} days.
- I am sorry, we do not offer dry cleaning. There is a cleaner on {street}.
= Dry cleaning of a suit costs {mid}.
~ There is no dry cleaning.

# housekeeping
? you: [clean my {roomword}|make up my {roomword}|change the sheets|empty the bin|make the bed]
? q: when [is|will] my {roomword} [cleaned|be cleaned]
? q: [how often|what time] are the {s:roomword} cleaned
? problem: my {roomword} [is dirty|has not been cleaned|was not cleaned today]
+ Housekeeping cleans the {s:roomword} every day between {open} and 2 in the afternoon.
+ I am sorry if your {roomword} is not clean yet. I will send housekeeping right away.
= {Roomword}s are cleaned every day.

# do not disturb
? s: i do not want my {roomword} cleaned today
? q: how do i make sure that nobody [disturbs me|comes in]
? s: please do not [disturb me|clean my {roomword}]
? can: sleep late without being disturbed
+ Please hang the "Do not disturb" sign on your door. Nobody will come in.
+ No problem. Hang the sign on the door, and housekeeping will not come in today.
= Hang the sign on the door if you do not want to be disturbed.
"""
