"""What a real model is shown at: functions of daily work, and the right answers."""

from dataclasses import dataclass

from weft.tasks.functions.world import World


@dataclass(frozen=True)
class Function:
    """A function of the functions world, by its name there, and inputs for it."""

    name: str
    inputs: tuple[str, ...]


# Worded as no training function is. One place to change what the demo shows.
FUNCTIONS: dict[str, Function] = {
    "Could you put the surname first with a comma?": Function("name_swap", ("Anna Keller", "Omar Khan")),
    "Just write the simple past.": Function("verb_past", ("draw", "speak")),
    "Tell me the opposite.": Function("adjective_opposite", ("rich", "quiet")),
    "Let me have the domain.": Function("mail_domain", ("nora.price@acme.com", "leo@uni.edu")),
    "Would you mind to write the date with dots, day first?": Function(
        "date_dmy_2", ("2024-03-17", "1999-12-01")
    ),
    "hey, can you name the product for me": Function(
        "message_product", ("the camera came with a crack!", "my family is very happy with the jacket!")
    ),
    "Tell me the mood of the customer, happy or unhappy.": Function(
        "message_mood", ("hi, I love the new chair!", "why does the bike switch itself off?")
    ),
    "take the last name and after that write it in capitals": Function(
        "name_last+upper", ("Rosa Novak", "Peter Stone")
    ),
}


def function_answer(description: str, text: str) -> str | None:
    """The right answer to one of these descriptions; None for any other."""
    function = FUNCTIONS.get(description)
    return None if function is None else World().answer(function.name, text)
