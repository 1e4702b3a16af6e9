"""What the letters are shown at, and the right answers."""

# Description -> the operations of the letters world that it means, so that right answers can be computed.
# The single operations are worded as no training task is.
LETTERS: dict[str, tuple[tuple[str, dict[str, str]], ...]] = {
    "spell the word backwards": (("reverse", {}),),
    "sort the word alphabetically": (("sort", {}),),
    "delete all vowels from the word": (("drop_vowels", {}),),
    "hide each vowel behind *": (("mask_vowels", {"x": "*"}),),
    "shift each letter one ahead": (("shift_up", {"k": "one"}),),
    "repeat each letter twice": (("double", {}),),
    "reverse the word, then drop the vowels": (("reverse", {}), ("drop_vowels", {})),
}
INPUTS = ("planet", "coffee")


def letters_answer(description: str, text: str) -> str | None:
    """The right answer to one of these descriptions; None for any other."""
    from weft.tasks.letters.operations import OPERATIONS

    steps = LETTERS.get(description)
    if steps is None:
        return None
    for name, parameters in steps:
        text = OPERATIONS[name].apply(text, parameters)
    return text
