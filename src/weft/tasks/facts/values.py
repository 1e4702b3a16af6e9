"""What may be so of the people in fact sheets, list by list."""

from __future__ import annotations

_CITIES = """
Paris Lisbon Chicago Tokyo Madrid Boston Oslo Berlin Rome London Vienna Prague Dublin Seattle Denver
Dallas Miami Houston Detroit Atlanta Phoenix Toronto Montreal Vancouver Sydney Melbourne Athens Moscow
Warsaw Budapest Stockholm Helsinki Copenhagen Amsterdam Brussels Geneva Milan Venice Florence Naples
Barcelona Seville Mumbai Delhi Bangkok Singapore Beijing Shanghai Seoul Istanbul Jerusalem Baghdad
Nairobi Lagos Havana Lima Santiago Cambridge Oxford Manchester Liverpool Edinburgh Glasgow Hamburg Munich
Portland Baltimore Pittsburgh Cleveland
"""
_COUNTRIES = """
France Portugal Egypt Japan Spain Kenya Peru Brazil Canada Mexico Germany Italy Greece Turkey India China
Russia Poland Sweden Finland Denmark Ireland Scotland England Australia Argentina Chile Colombia Cuba
Jamaica Nigeria Ghana Ethiopia Morocco Algeria Israel Iran Iraq Pakistan Nepal Thailand Vietnam Indonesia
Korea Ukraine Hungary Austria Switzerland Belgium Iceland
"""
_JOBS = """
baker teacher nurse farmer carpenter lawyer tailor doctor painter writer singer dancer driver pilot
sailor soldier butcher fisherman gardener waiter cook chef banker clerk mechanic engineer architect
librarian journalist musician photographer dentist surgeon scientist chemist historian translator potter
blacksmith shepherd miner judge priest guard secretary salesman designer programmer plumber barber
"""
_LANGUAGES = """
French Portuguese Arabic Spanish Norwegian Swahili Greek German Italian Russian Polish Swedish Finnish
Danish Dutch Hebrew Turkish Persian Hindi Bengali Chinese Korean Thai Vietnamese Latin Irish Welsh
Hungarian Czech Ukrainian
"""
_SUBJECTS = """
biology history law music physics chemistry geology medicine mathematics philosophy economics psychology
sociology astronomy botany geography literature architecture engineering art theology linguistics
anthropology archaeology statistics genetics ecology poetry politics education journalism nutrition
ethics logic algebra geometry
"""
_ANIMALS = """
dog cat rabbit parrot snake turtle horse goat mouse rat pig sheep duck chicken goose fox wolf bear monkey
lizard frog spider hamster donkey cow pony owl hawk crow pigeon fish crab squirrel deer camel elephant
tiger lion penguin
"""
_FOODS = """
rice bread cheese soup pizza apples fish chocolate pasta salad potatoes beans carrots tomatoes onions
bananas oranges grapes cherries strawberries peaches pears nuts eggs butter honey yogurt chicken beef
pork sausage shrimp mushrooms spinach cabbage corn cake cookies pancakes noodles sushi tacos sandwiches
"""
_THINGS = """
books coins stamps clocks shoes hats lamps chairs tables candles flowers stones shells bottles boxes
knives spoons plates cups bowls rings toys dolls boats cars trains bicycles guitars drums bells keys maps
cards pictures paintings photographs mirrors carpets blankets pillows coats gloves scarves baskets ropes
nets tools hammers nails needles buttons pencils pens letters newspapers magazines records tickets masks
flags swords kites balloons feathers leaves seeds trees roses tulips spiders snakes birds butterflies
horses ghosts storms bridges towers rivers mountains engines machines computers phones radios cameras
glasses watches jewels pearls diamonds
"""
_LOOKS = """
wooden old red blue green white black golden silver small large broken paper glass plastic leather
ancient cheap yellow brown metal stone iron copper painted empty heavy tiny rare modern strange beautiful
round pink purple
"""
_OBJECT = """
book coin stamp clock shoe hat lamp chair table candle flower stone shell bottle box knife spoon plate
cup bowl ring toy doll boat car bicycle guitar drum bell key map card picture mirror carpet blanket
pillow coat glove scarf basket rope net hammer needle button pencil pen letter newspaper ticket mask flag
sword kite balloon feather phone radio camera watch pearl diamond wallet purse
"""

VALUES: dict[str, tuple[str, ...]] = {
    "cities": tuple(_CITIES.split()),
    "countries": tuple(_COUNTRIES.split()),
    "jobs": tuple(_JOBS.split()),
    "languages": tuple(_LANGUAGES.split()),
    "subjects": tuple(_SUBJECTS.split()),
    "animals": tuple(_ANIMALS.split()),
    "foods": tuple(_FOODS.split()),
    "things": tuple(_THINGS.split()),
    "looks": tuple(_LOOKS.split()),
    "object": tuple(_OBJECT.split()),
}
"""Values by the name of their list; every one is a word that a tokenizer of English knows."""
