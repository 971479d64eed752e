"""What guests ask about travel and the town. The format is that of topics_stay."""

TABLE = """
# parking
? have: [parking|a car park|a garage|free parking|parking spaces]
? where: the [car park|garage|parking]
? price: [parking|the car park|the garage]
? can: [park my car here|leave my car here|park in front of the {house}]
? q: where can i [park|leave my car|put my car]
? s: i am coming by car
? ask for: a parking space
+ We have [a car park|a garage] {outside2}. Parking costs {mid} per [day|night].
+ Yes, you can park {outside2}. It is free for our guests.
- I am sorry, we have no parking of our own. There is a public car park on {street}, {minutes} minutes away.
= Parking costs {mid} per night.
~ There is no parking at the house. A public car park is on {street}.

# electric car
? can: charge my [electric car|car|tesla] [here|at the {house}|overnight]
? have: [a charging station|a charger for electric cars|charging points]
? price: charging [my car|an electric car]
? q: where can i charge my [electric car|car]
+ Yes, there are {few} charging points in the car park. Charging costs {mid}.
- I am sorry, we cannot charge cars here. There is a charging station on {street}.
= There are {few} charging points for electric cars.
~ The nearest car charging station is on {street}.

# airport shuttle
? have: [an airport shuttle|a shuttle bus|a shuttle to the airport|a pick-up service]
? price: the [airport shuttle|shuttle]
? time: the [airport shuttle|shuttle bus]
? you: pick us up [at|from] the airport
? ask for: a transfer [to|from] the airport
? can: book [the shuttle|an airport transfer]
+ Our shuttle to the airport leaves every {few} hours from {open}. It costs {mid} per person.
+ Yes, the shuttle costs {mid} per person. Please book it one day before at reception.
- I am sorry, we have no shuttle, but I can call a taxi. It costs about {big}.
= The airport shuttle costs {mid} per person.
~ There is no airport shuttle.

# getting to the airport
? q: how [do i|can we] get to the airport
? q: how far is the airport
? q: how long does it take to the airport
? q: what is the best way to the airport
+ The airport is {km} km away. By taxi it takes about {minutes2} minutes.
+ Take bus {n100} to the airport. The ride takes about {minutes2} minutes.
= The airport is {km} km away.

# taxi
? you: [call|order|book|get] [me a taxi|a taxi|us a cab|a taxi for us]
? ask for: a [taxi|cab]
? price: a taxi to [the station|the airport|the town centre]
? can: get a taxi [here|at night|for {open}]
? where: the taxi stand
+ Of course, I will call a taxi for you. It will be here in {minutes} minutes.
+ Certainly. A taxi to the [station|centre|harbour] costs about {mid}. When do you need it?
= The front desk calls taxis. A ride to the centre costs {mid}.

# train
? where: the [train station|railway station|nearest station]
? q: how do [i|we] get to the [train station|station]
? q: how far is [it to |]the [train station|station]
? q: when [does the next train leave|do the trains go] to [the city|{town2}]
+ The train station is {minutes} minutes away on foot. Follow {street} to the end.
+ Take bus {n100} to the train station. It is {few} stops from here.
= The train station is {minutes} minutes away on foot.

# bus
? where: the [nearest |]bus stop
? q: which bus goes to the [centre|beach|station|old town]
? q: how often does the bus [run|go|leave]
? q: when is the last bus
? can: take a bus to the [centre|beach|old town]
+ Bus {n100} stops {outside2} and goes to the centre every {minutes2} minutes.
+ Take bus {n100}. The bus stop is {metres} metres from here, and the last bus leaves at {close}.
= Bus {n100} goes to the centre every {minutes2} minutes.

# ferry
? time: the ferry
? q: when does the [ferry|boat] [leave|go]
? where: the [ferry|harbour]
? price: [the ferry|a ferry ticket|a boat ticket]
? can: take a boat to the island
+ The ferry leaves from the harbour at {open} and comes back at {close}. A ticket costs {mid}.
= The ferry leaves at {open}, and a ticket costs {mid}.

# bikes
? can: [rent|hire|borrow] [a bike|bikes|bicycles|an electric bike]
? have: [bikes|bicycles|bikes to rent|a bike rental]
? price: [a bike|renting a bike]
? q: where can i [rent|get|leave|park] a bike
+ Yes, you can rent bikes [at the front desk|from us]. A bike costs {mid} per day.
+ Our guests can borrow bikes for free. Ask for the key at reception.
- I am sorry, we have no bikes, but there is a bike shop on {street}.
= Bikes cost {mid} per day.
~ There are no bikes here. The bike shop is on {street}.

# car rental
? can: [rent|hire] a [car|van|scooter]
? where: the nearest car rental
? price: a rental car
+ There is a car rental on {street}. A small car costs about {big} per day. I can book it for you.
= A car rental is on {street}.

# tours
? have: [guided tours|a city tour|boat trips|walking tours]
? can: book a [tour|guided tour|boat trip|city tour]
? q: [is there|when is] a city tour
? price: the [city tour|boat trip]
+ A guided tour starts every {weekday} at {open}. It costs {mid} and lasts {few} hours.
= A guided tour starts every {weekday} at {open}.

# tickets
? can: buy tickets [here|for the museum|for the concert|for the bus]
? you: [book|get] us tickets for the [theatre|concert|opera|match]
+ Yes, we sell tickets at the front desk. Tell me the day and how many you need.
- I am sorry, we do not sell tickets here. You can buy them at the office on {street}.
= Tickets are sold at the front desk.
~ Tickets are sold at the office on {street}.

# map
? ask for: a [map|city map|map of the town]
? have: [a map of the town|city maps]
? q: where can i get a map
+ Here is a free map of {town}. I have marked the {house} with a cross.
= Free maps are at the front desk.

# sights
? q: what [can we see|can we do|is there to see|is there to do|should i see] [here|in {town}|around here|in this town]
? q: what are the [best|most interesting] sights [here|in town]
? q: what do you recommend [for a rainy day|for one afternoon|with children|for tomorrow]
? s: we are bored and want to see something
+ I recommend the {sight} and the {sight2}. Both are near the {house}.
+ Many guests like the {sight}. It is {minutes} minutes away on foot.
= The {sight} is the most popular sight.

# nearby restaurant
? q: can you recommend a [good|nice|cheap] restaurant [nearby|near here|in town]
? where: a good restaurant [near here|in town]
? q: where can we eat [near here|in town|outside the {house}]
? q: are there any good restaurants [nearby|around here]
+ I recommend {first2}'s Kitchen on {street}. It is {minutes} minutes away and has very good [fish|pasta|soup|curry].
= A good restaurant nearby is {first2}'s Kitchen on {street}.

# town centre
? q: how far is [it to |]the [town centre|city centre|old town|centre]
? q: how do [we|i] get to the [centre|town centre|old town|city centre]
? can: walk to the [centre|old town|town centre]
+ The centre is {metres} metres away. You can walk there in {minutes} minutes.
+ Walk down {street} for {minutes} minutes, and you will be in the centre.
= The town centre is {minutes} minutes away on foot.

# running and hiking
? q: where can i go [running|jogging|hiking|for a walk]
? q: is there a [hiking trail|park|nice walk|running path] [nearby|near here]
+ There is a lovely path along the [river|lake|coast|forest]. It starts {outside2} and is {km} km long.
= A walking path starts {outside2}.

# weather
? q: what is the weather like [today|tomorrow|this week]
? q: will it [rain|be sunny|snow] [today|tomorrow]
? q: do i need [an umbrella|a coat|a jacket] today
+ It should be [sunny and warm|cloudy but dry|cool and windy|rainy] [today|this afternoon]. [You can borrow an umbrella at the desk.|]
= The weather report hangs in the lobby.

# shopping
? q: where can i [go shopping|buy clothes|buy presents|buy shoes]
? where: the nearest [shopping centre|market]
? q: are the shops open on [Sunday|{weekday}]
+ You can go shopping on {street}. The shops are open from {open} to {close}.
= The shops on {street} are open from {open} to {close}.

# market day
? time: the market
? q: [when|on which day] is market day
+ The market is on {street} every {weekday} morning.
= The market is on {street} every {weekday}.

# swimming in the lake
? can: swim in the [lake|sea|river]
? q: is it safe to swim [in the sea|in the lake|here]
? q: how warm is the water
+ Yes, you can swim at the small beach. Please stay near the shore, and watch the flags.
- I am sorry, swimming is not safe there. Please use the public pool on {street}.
= Swimming is allowed at the small beach.
~ Swimming in open water is not safe here.

# safety
? q: is it safe [here at night|to walk at night|around here]
? can: walk home at night
+ Yes, the area is quiet and safe. The streets are well lit at night.
= The area is quiet and safe.

# nightlife
? q: where can we [go out|dance|hear live music|have fun] [at night|in the evening|tonight]
? q: is there a [club|good bar|cinema] nearby
+ There is a nice place on {street} with live music every {weekday}.
= There is live music on {street} every {weekday}.
"""
