"""What guests ask about food and drink. The format is that of topics_stay."""

TABLE = """
# breakfast hours
? time: breakfast
? q: [what time|when|from when|until when|till when] [is breakfast|is breakfast served|can we have breakfast|do you serve breakfast]
? q: when does breakfast [start|end|finish|begin]
? q: [how late|how early] can i [come down for|get|have] breakfast
? s: i would like to know when breakfast is
+ Breakfast is [served|] from {bstart} to {bend}[| every day].
+ You can have breakfast between {bstart} and {bend} {bplace}.
= Breakfast is served from {bstart} to {bend}.
> [and|] where is it? => Breakfast is served {bplace}.
> and how much is it? => Breakfast costs {mid} per person.

# breakfast price
? price: [breakfast|the breakfast|the breakfast buffet]
? q: how much is breakfast for [two|a child|one person]
? q: do we pay extra for breakfast
+ Breakfast costs {mid} per person.
- Breakfast is included in the price of your {roomword}, so you do not pay extra.
= Breakfast costs {mid} per person.
~ Breakfast is included in the price.

# breakfast place
? where: [breakfast|the breakfast room]
? q: where [do we have|can i get|do you serve|is] breakfast[| served]
? q: in which room is breakfast
+ Breakfast is served {bplace}.
+ Please come to the breakfast room. It is {bplace}.
= Breakfast is served {bplace}.

# breakfast food
? q: what [is there|do you have|can i eat|do you serve] for breakfast
? q: is breakfast a buffet
? q: what kind of breakfast do you have
? q: are there [eggs|pancakes|fresh fruit] at breakfast
+ There is a buffet with bread, [eggs|cheese|ham], fruit, yogurt, coffee and [tea|juice].
+ For breakfast we have fresh rolls, [eggs|pancakes|porridge], fruit and hot drinks.
= Breakfast is a buffet with bread, eggs, fruit and coffee.

# early breakfast
? can: [have breakfast early|get an early breakfast|have breakfast before {bstart}|get a breakfast box]
? s: [i leave|we have to leave] very early and will miss breakfast
? have: a breakfast box
+ If you leave early, we can make you a breakfast box. Please tell us the evening before.
= A breakfast box can be ordered the evening before.

# breakfast in bed
? can: have breakfast in [bed|my {roomword}|our {roomword}]
? you: bring breakfast to [my|our] {roomword}
+ Yes, we can bring breakfast to your {roomword} for {small} extra. Hang the card on your door at night.
- I am sorry, we serve breakfast only {bplace}.
= Breakfast in the {roomword} costs {small} extra.
~ Breakfast is not served in the {s:roomword}.

# vegetarian food
? have: [vegetarian food|vegetarian dishes|something vegetarian|a vegetarian menu]
? s: i am a vegetarian
? s: i do not eat meat
? q: what can a vegetarian eat here
+ Yes, we have {few} vegetarian dishes, such as [mushroom soup|vegetable curry|cheese pie|tomato pasta].
+ Of course. Our cook makes good vegetarian food, for example [bean stew|spinach pie|vegetable soup].
= There are {few} vegetarian dishes on the menu.

# vegan food
? have: [vegan food|vegan dishes|a vegan breakfast|something vegan|oat milk|soy milk]
? s: i am vegan
? q: can a vegan eat here
+ Yes, we have vegan dishes, such as [lentil soup|rice with vegetables|bean salad], and we have oat milk.
- I am sorry, we have only a few vegan things, such as salad, fruit and bread.
= Vegan dishes and oat milk are available.
~ There are only a few vegan things, such as salad and fruit.

# allergies
? s: i am allergic to [nuts|milk|eggs|fish|wheat]
? have: [gluten free bread|gluten free food|food without nuts|lactose free milk]
? s: i [cannot|must not] eat [gluten|nuts|milk|eggs]
? q: are there nuts in the [cake|bread|soup]
+ Thank you for telling us. Please speak to our cook, who will prepare something safe for you.
+ We have gluten free bread and lactose free milk. Please tell the waiter about your allergy.
= Please tell the staff about allergies. Gluten free bread is available.

# halal and kosher
? have: [halal|kosher] food
? s: i [do not eat pork|eat only halal food]
+ Yes, please tell us one day before, and our cook will prepare it for you.
- I am sorry, we do not have a special kitchen, but we have fish and vegetable dishes.
= Halal food can be ordered one day before.
~ There is no halal or kosher kitchen.

# room service
? have: room service
? time: room service
? can: order [food|dinner|a sandwich|something to eat] [to my {roomword}|in my {roomword}]
? you: bring [dinner|some food|a sandwich|a bottle of wine] to my {roomword}
? q: [how do i order|what is the number for] room service
? s: i am hungry but i do not want to leave my {roomword}
+ Room service is available from {open} to {close}. Please dial {ext}.
+ Yes, you can order food to your {roomword} until {close}. Dial {ext} on your phone.
- I am sorry, we have no room service, but you can eat in the restaurant.
= Room service runs from {open} to {close}, extension {ext}.
~ There is no room service.

# dinner
? time: dinner
? q: [what time|when] [is|do you serve] dinner
? can: [have|eat] dinner here
? q: until when can we eat in the evening
+ Dinner is served from {dstart} to {dend}.
+ You can have dinner here between {dstart} and {dend}. Please book a table.
= Dinner is from {dstart} to {dend}.

# lunch
? time: lunch
? can: [have|get|eat] lunch here
? have: lunch
? q: what is there for lunch
+ Lunch is served from {lstart} to {lend}. We have soup, salads and sandwiches.
- I am sorry, we do not serve lunch, but there is a cafe on {street}.
= Lunch is from {lstart} to {lend}.
~ There is no lunch.

# booking a table
? can: [book|reserve] a table[| for two| for {few}| for tonight| for {weekday}]
? ask for: a table for [two|{few}|tonight]
? q: do [i|we] need to [book|reserve] a table
? q: is there a free table tonight
+ Certainly. For what time, and for how many people would you like the table?
+ Yes, please book your table before {open}. How many people will come?
= Tables should be booked in advance.

# menu
? can: see the menu
? q: what is [on the menu|the dish of the day|today's special]
? q: what [do you recommend|should i eat|is good here]
? q: what kind of food does the restaurant [serve|have]
+ Today we have {dish}, {dish2} and {dessert}.
+ I recommend the {dish}. For dessert, try the {dessert}.
= The menu has {dish}, {dish2} and {dessert}.

# kids menu
? have: [a children's menu|a kids menu|food for children|a high chair]
? q: what can the children eat
+ Yes, we have a children's menu with [pasta|fish fingers|chicken] and a small ice cream for {mid}. High chairs are available.
= The children's menu costs {mid}.

# happy hour
? time: happy hour
? have: a happy hour
? q: are drinks cheaper [in the evening|at some time]
+ Happy hour is from {hstart} to {hend}. All drinks are {percent} percent off.
- I am sorry, we do not have a happy hour.
= Happy hour is from {hstart} to {hend}.
~ There is no happy hour.

# drinks
? q: what [drinks|beer|wine|cocktails] do you have
? ask for: a [glass of wine|beer|cocktail|glass of orange juice]
? price: [a beer|a glass of wine|a cocktail]
+ In the bar we have local beer, wine, juice and cocktails. A beer costs {small}.
= A beer costs {small}, a glass of wine {small2}.

# coffee and tea
? where: [the coffee|the coffee machine]
? q: where can i [get|find|have] [a coffee|coffee|a cup of tea|hot water for tea]
? ask for: [a coffee|a cup of tea|some coffee|some tea bags]
? have: [coffee in the {roomword}|a coffee machine|a kettle for tea]
? can: make [tea|coffee] in my {roomword}
+ Coffee and tea are [free in the lobby|available in the lobby all day]. There is a kettle in your {roomword} too.
+ You can get coffee and tea at the bar until {close}. A cup costs {small}.
= Coffee and tea are available in the lobby all day.

# minibar
? have: a minibar
? price: [the minibar|a drink from the minibar|the water in the minibar]
? problem: the minibar is [empty|not cold]
? you: fill the minibar
? q: how do i pay for the minibar
+ The minibar is filled every day. You pay for what you take, and a drink costs {small}.
- There is no minibar in the {roomword}, but there is a drinks machine {spot}.
= Drinks from the minibar cost {small}.
~ There is no minibar. A drinks machine is {spot}.

# drinking water
? can: drink the [tap water|water]
? q: is the tap water safe
? ask for: [a bottle of water|some water]
+ Yes, the tap water is safe to drink. We also put a free bottle in your {roomword}.
- Please do not drink the tap water. There is free bottled water in your {roomword}.
= The tap water is safe to drink.
~ The tap water should not be drunk. Bottled water is free.

# ice
? ask for: [ice|some ice]
? where: the ice machine
? have: an ice machine
+ The ice machine is {spot}. You can take as much as you like.
= The ice machine is {spot}.

# dress code
? have: a dress code
? q: what should i wear [to dinner|in the restaurant]
? can: wear [shorts|jeans] in the restaurant
+ There is no strict dress code, but please do not wear swimwear in the restaurant.
- For dinner we ask men to wear long trousers and a shirt.
= There is no strict dress code.
~ Long trousers are expected at dinner.

# picnic
? ask for: a packed lunch
? you: make us a [packed lunch|picnic]
? have: picnic baskets
+ Gladly. A packed lunch with a sandwich, fruit and water costs {mid}. Please order it the evening before.
= A packed lunch costs {mid}.

# half board
? have: [half board|full board|all inclusive]
? price: half board
? q: are meals included
+ Half board with breakfast and dinner costs {big} per person.
- No, we offer only breakfast, not half board.
= Half board costs {big} per person.
~ Only breakfast is offered.

# tipping
? q: [should i|do i have to|how much should i] [leave a tip|tip]
? q: is service included
+ A tip is not necessary, but it is always welcome. Many guests leave {percent2} percent.
= Service is included.
"""
