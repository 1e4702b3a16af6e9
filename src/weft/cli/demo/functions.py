"""What a real model is shown at: functions of daily work, and the right answers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Function:
    """A function of the functions world, by its name there, and inputs for it."""

    name: str
    inputs: tuple[str, ...]


# Worded as no training function is, and applied to texts of no train row. One place to change what is shown.
FUNCTIONS: dict[str, Function] = {
    "Let me have the mood of the customer, happy or unhappy.": Function(
        "message_mood", ("hi, I love the new chair!", "why does the bike switch itself off?")
    ),
    "Let me have the past tense.": Function("verb_past", ("draw", "build")),
    "What is the word as an adverb?": Function("adjective_adverb", ("narrow", "loud")),
    "Would you mind to write Dr. and the surname?": Function("name_formal_2", ("Nora Price", "Ben Stone")),
    "What follows the last slash.": Function(
        "url_page", ("https://www.foodie.fr/blog", "http://www.homebase.fr/help")
    ),
    "Could you extract the file type?": Function(
        "path_ext", ("/music/backup/budget.mp3", "/docs/music/letter.jpg")
    ),
    "Let me have the bare amount.": Function("price_number", ("$75.90", "$46.99")),
    "Whatever I type, take the area code.": Function("phone_area", ("764-853-8310", "875-762-7626")),
}


def function_answer(description: str, text: str) -> str | None:
    """The right answer to one of these descriptions; None for any other."""
    from weft.tasks.functions.world import World

    function = FUNCTIONS.get(description)
    return None if function is None else World().answer(function.name, text)
