"""One instruction in many manners."""

import random

from weft.tasks.manners import dress


def test_the_instruction_stays_whole_and_the_manners_differ() -> None:
    chance = random.Random(0)
    texts = {dress("shout it", chance) for _ in range(300)}
    assert len(texts) > 20
    assert all("shout it" in text.lower() for text in texts)
    assert any(text.endswith("?") for text in texts)
    assert any("please" in text for text in texts)


def test_words_are_replaced_whole_and_not_always() -> None:
    chance = random.Random(0)
    texts = [dress("remove the first removed word", chance) for _ in range(300)]
    assert any("delete the" in text for text in texts)
    assert any("emove the" in text for text in texts)
    assert all("removed word" in text for text in texts)


def test_the_same_chance_says_the_same() -> None:
    assert dress("sort it", random.Random(3)) == dress("sort it", random.Random(3))
