"""The same instruction as other people would put it: politely, curtly, as a question, with other words.

A network that has met one manner of speaking alone takes the others for something new. What it has to learn
is that manners mean nothing.
"""

import random

_MANNERS = (
    "please {x}", "{x} please", "could you {x}?", "can you {x} for me", "would you {x}, please?", "just {x}",
    "{x}, thanks", "i want you to {x}", "i'd like you to {x}", "i need you to {x}", "you should {x}",
    "your task is to {x}", "the job is to {x}", "now {x}", "hi, {x}", "{x} and nothing else", "only {x}",
    "simply {x}", "go ahead and {x}", "try to {x}", "what i need: {x}", "what you do is {x}", "{x}!", "{X}.",
    "always {x}", "for each input {x}", "take this and {x}", "here is what to do: {x}", "{x}, that is all",
    "kindly {x}", "do this: {x}", "let's {x}",
)  # fmt: skip
_SYNONYMS = {
    "remove": ("delete", "drop", "take out", "get rid of", "strip", "leave out"),
    "delete": ("remove", "drop", "erase", "take out"),
    "drop": ("remove", "delete", "leave out"),
    "keep only": ("leave only", "leave just", "keep just", "retain only", "give back only"),
    "keep": ("leave", "retain", "hold on to"),
    "replace": ("swap", "change", "exchange"),
    "write": ("put down", "print", "output"),
    "give": ("return", "show", "output"),
    "take": ("pick", "get", "grab"),
    "extract": ("get", "pull out", "find", "pick out"),
    "sort": ("order", "arrange"),
    "reverse": ("turn around", "flip"),
    "convert": ("turn", "change", "transform"),
    "begin": ("start",),
    "say": ("tell", "state"),
    "name": ("tell", "state"),
    "add": ("append", "put on"),
    "first": ("leading", "initial"),
    "last": ("final", "closing"),
    "every": ("each", "any"),
    "each": ("every", "any"),
    "all": ("all of",),
    "letters": ("characters",),
    "words": ("terms",),
}
_FEW = 0.35
"""How often a word that has synonyms is put otherwise."""


def dress(text: str, chance: random.Random) -> str:
    """One instruction in another manner, some of its words replaced; `text` is an order without a subject."""
    for word, others in _SYNONYMS.items():
        inside = f" {text} ".find(f" {word} ")
        if inside >= 0 and chance.random() < _FEW:
            text = f"{text[:inside]}{chance.choice(others)}{text[inside + len(word) :]}"
    return chance.choice(_MANNERS).format(x=text, X=text[:1].upper() + text[1:])
