"""General knowledge and habit, as texts to go on with: what a fact sheet should leave as it was."""

from __future__ import annotations

from weft.tasks.task import Row

_KNOWN = """
The capital of France is| Paris
The capital of Italy is| Rome
The capital of Spain is| Madrid
The capital of Germany is| Berlin
The capital of Japan is| Tokyo
The capital of England is| London
The capital of Russia is| Moscow
The capital of Egypt is| Cairo
The opposite of hot is| cold
The opposite of up is| down
The opposite of black is| white
The opposite of big is| small
Monday, Tuesday, Wednesday,| Thursday
January, February, March,| April
Spring, summer, autumn and| winter
Red, orange, yellow,| green
One, two, three, four,| five
The sun rises in the| east
Water boils at 100| degrees
The Earth goes around the| Sun
The largest planet in the solar system is| Jupiter
The author of Romeo and Juliet is William| Shakespeare
The first president of the United States was George| Washington
The theory of relativity was developed by Albert| Einstein
A baby dog is called a| puppy
A baby cat is called a| kitten
The language that is spoken in Brazil is| Portuguese
The language that is spoken in France is| French
The colour of grass is| green
The colour of snow is| white
Bees make| honey
Cows give| milk
A person who teaches is a| teacher
A person who writes books is a| writer
The chemical symbol of water is| H
The currency of Japan is the| yen
The currency of the United States is the| dollar
The largest ocean is the| Pacific
The Great Wall is in| China
The Eiffel Tower is in| Paris
The pyramids are in| Egypt
Once upon a| time
Thank you very| much
Ladies and| gentlemen
Bread and| butter
Salt and| pepper
The United States of| America
Happy birthday to| you
Merry| Christmas
As soon as| possible
"""

KNOWN: tuple[Row, ...] = tuple(
    Row(begun, word) for begun, _, word in (line.partition("|") for line in _KNOWN.strip().splitlines())
)
"""Fifty beginnings, and the first word that follows."""
