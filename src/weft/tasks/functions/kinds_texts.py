"""Kinds on lists, numbers, single words, messages, orders and any text.

Phrases are parted by `|`; the last of each list is never trained on.
"""

import json
import random

from weft.tasks.functions.inputs import ADJECTIVES, CITIES, COLORS, DRINKS, GROUPS, PLURALS, TOPICS, VERBS
from weft.tasks.functions.kind import Kind, Parameters, each, kind

_COUNT = {"one": 1, "two": 2, "three": 3, "five": 5, "ten": 10}
_PLACES = {"second": 1, "third": 2, "first": 0}
_VOWELS = "aeiou"


def _w(text: str) -> list[str]:
    return text.split(", ")


def _n(text: str) -> list[int]:
    return [int(item) for item in text.split(", ")]


def _join(items: list[int]) -> str | None:
    return ", ".join(map(str, items)) if items else None


def _pair(text: str) -> tuple[int, int]:
    left, right = text.split(" and ")
    return int(left), int(right)


def _third_person(verb: str, _: Parameters) -> str:
    if verb.endswith(("s", "sh", "ch", "x", "o")):
        return verb + "es"
    return verb[:-1] + "ies" if verb.endswith("y") and verb[-2] not in _VOWELS else verb + "s"


def _adverb(word: str, _: Parameters) -> str | None:
    if word in (
        "fast",
        "hard",
        "old",
        "young",
        "early",
        "late",
        "long",
        "low",
        "big",
        "small",
        "short",
        "tall",
    ):
        return None
    return word[:-1] + "ily" if word.endswith("y") else word + ("y" if word.endswith("l") else "ly")


def _group(word: str, _: Parameters) -> str | None:
    return next((group for group, members in GROUPS.items() if word in members), None)


def _topic(text: str, p: Parameters) -> str | None:
    for topic, sentences in TOPICS.items():
        for sentence in sentences:
            before, _, after = sentence.partition("{p}")
            if before in text and after in text:
                return p.get(topic, topic)
    return None


def _tables() -> tuple[Parameters, ...]:
    """Small tables from a fixed generator: three or four words, and what to answer for each."""
    rng = random.Random("tables")
    answers = (
        tuple("ABCDEFGH"), ("1", "2", "3", "4", "5", "6", "7", "8"), ("yes", "no", "maybe", "never"),
        ("north", "south", "east", "west"), ("$2", "$3", "$5", "$8"), ("low", "medium", "high", "none"),
        ("Monday", "Tuesday", "Friday", "Sunday"), ("gold", "silver", "iron", "wood"),
    )  # fmt: skip
    tables = []
    for _ in range(11):
        keys = rng.sample(rng.choice((DRINKS, CITIES[:8], COLORS[:8])), 3)
        values = rng.sample(rng.choice(answers), 3)
        table = dict(zip(keys, values, strict=True))
        shown = ", ".join(f"{key} is {value}" for key, value in table.items())
        tables.append({"table": table, "t": shown, "n": f"{len(tables)}"})
    return tuple(tables)


def _look_up(text: str, p: Parameters) -> str | None:
    return next((value for key, value in p["table"].items() if key in text), None)


def _mapped(*codes: str) -> Parameters:
    shown = ", ".join(f"{code} for {topic}" for code, topic in zip(codes, TOPICS, strict=True))
    return {**dict(zip(TOPICS, codes, strict=True)), "t": shown}


# fmt: off
TEXT_KINDS: tuple[Kind, ...] = (
    # ---------------------------------------------------------------- lists of words
    kind("words_sort", "words -> words", lambda s, p: ", ".join(sorted(_w(s))),
         "sort the words|put the words in alphabetical order|arrange the list from a to z|order the words alphabetically",
         "the words in alphabetical order|the sorted list|the list from a to z"),
    kind("words_sort_down", "words -> words", lambda s, p: ", ".join(sorted(_w(s), reverse=True)),
         "sort the words from z to a|put the words in reverse alphabetical order|arrange the list from z to a|order the words backwards through the alphabet",
         "the words from z to a|the list sorted in descending order|the words in reverse alphabetical order"),
    kind("words_reverse", "words -> words", lambda s, p: ", ".join(_w(s)[::-1]),
         "reverse the order of the words|list the words from last to first|turn the list around|write the list back to front",
         "the list in reverse order|the words from last to first|the list back to front"),
    kind("words_count", "words ->", lambda s, p: str(len(_w(s))),
         "count the words|say how many words there are|give the length of the list|tell the number of items",
         "the number of words|how many words the list has|the count of the items"),
    kind("words_at", "words -> text", lambda s, p: next(iter(_w(s)[_PLACES[p["k"]] :]), None),
         "take the {k} word|pick the {k} item|give only the {k} word|choose the {k} entry of the list",
         "the {k} word|the {k} item of the list|the word in {k} place", each("k", "first", "second"), each("k", "third")),
    kind("words_last", "words -> text", lambda s, p: _w(s)[-1],
         "take the last word|pick the final item|give only the last word|choose the last entry of the list",
         "the last word|the final item of the list|the word at the end"),
    kind("words_longest", "words -> text", lambda s, p: max(_w(s), key=len) if len({len(w) for w in _w(s)}) == len(_w(s)) else None,
         "pick the longest word|find the word with the most letters|choose the longest item|give the longest word",
         "the longest word|the word with the most letters|the item that is longest"),
    kind("words_shortest", "words -> text", lambda s, p: min(_w(s), key=len) if len({len(w) for w in _w(s)}) == len(_w(s)) else None,
         "pick the shortest word|find the word with the fewest letters|choose the shortest item|give the shortest word",
         "the shortest word|the word with the fewest letters|the item that is shortest"),
    kind("words_join", "words ->", lambda s, p: p["s"].join(_w(s)),
         "join the words with {n}|put {n} between the words|replace the commas with {n}|write the list with {n} between items",
         "the words joined by {n}|the list with {n} between the words|the words, separated by {n}",
         ({"s": " / ", "n": "slashes"}, {"s": " + ", "n": "plus signs"}, {"s": "; ", "n": "semicolons"}, {"s": " or ", "n": "the word or"}),
         ({"s": " | ", "n": "vertical bars"},)),
    kind("words_spoken", "words -> text", lambda s, p: ", ".join(_w(s)[:-1]) + " and " + _w(s)[-1],
         "put and before the last word instead of the comma|write the list as in a sentence, with and|join the last two words with and|end the list with and",
         "the list with and before the last word|the words as in a sentence|the list as one would say it"),
    kind("words_numbered", "words ->", lambda s, p: " ".join(f"{i}. {w}" for i, w in enumerate(_w(s), 1)),
         "number the words|put a number before each word|write a numbered list|give each word a number",
         "the words, numbered|a numbered list|the list with numbers in front"),
    kind("words_bullets", "words ->", lambda s, p: "\n".join(f"- {w}" for w in _w(s)),
         "write a bullet list|put each word on its own line with a dash|turn the list into bullets|make bullet points",
         "a bullet list|the words as bullet points|one dash line per word"),
    kind("words_drop_first", "words -> words", lambda s, p: ", ".join(_w(s)[1:]),
         "remove the first word|drop the first item|leave out the first word|delete the first entry",
         "the list without its first word|all words but the first|everything after the first item"),
    kind("words_drop_last", "words -> words", lambda s, p: ", ".join(_w(s)[:-1]),
         "remove the last word|drop the last item|leave out the final word|delete the last entry",
         "the list without its last word|all words but the last|everything before the last item"),
    kind("words_head", "words -> words", lambda s, p: ", ".join(_w(s)[:2]),
         "keep the first two words|take only the first two items|cut the list after two words|return just the first two",
         "the first two words|the leading two items|the list cut to two"),
    kind("words_ends", "words -> words", lambda s, p: f"{_w(s)[0]}, {_w(s)[-1]}",
         "keep the first and the last word|take the two outer items|drop everything between first and last|return the first and the final word",
         "the first and the last word|the two outer items|only the ends of the list"),
    kind("words_initials", "words ->", lambda s, p: "".join(w[0] for w in _w(s)),
         "write the first letters of the words together|join the initials of the words|make an acronym in small letters|take the first letter of each word",
         "the first letters of the words|the initials of the items|the acronym of the list"),
    kind("words_quotes", "words ->", lambda s, p: ", ".join(f"'{w}'" for w in _w(s)),
         "put each word in single quotes|quote every word|wrap all items in single quotes|surround each word with quotes",
         "the words in single quotes|the list with every word quoted|each item in quotes"),
    kind("words_json", "words ->", lambda s, p: json.dumps(_w(s)),
         "write the list as json|convert the words to a json array|turn the list into a json array|format the words as a json list",
         "the list as a json array|a json array of the words|the json version of the list"),
    kind("words_add", "words -> words", lambda s, p: f"{s}, {p['x']}" if p["x"] not in _w(s) else None,
         "add {x} at the end|append {x} to the list|put {x} after the last word|write the list and then {x}",
         "the list with {x} added|the list followed by {x}|the words and then {x}", each("x", "soap", "honey"), each("x", "sugar")),
    kind("words_insert", "words -> words", lambda s, p: f"{p['x']}, {s}" if p["x"] not in _w(s) else None,
         "add {x} at the front|put {x} before the first word|begin the list with {x}|write {x} and then the list",
         "the list with {x} in front|{x} and then the words|the list that begins with {x}", each("x", "soap", "butter"), each("x", "sugar")),
    kind("words_titles", "words -> words", lambda s, p: ", ".join(w.title() for w in _w(s)),
         "begin every word with a capital|capitalize each item|write each word with a capital letter|make the first letters big",
         "the words with capital first letters|the list, each word capitalized|the items with initial capitals"),
    kind("words_unique", "doubled -> words", lambda s, p: ", ".join(dict.fromkeys(_w(s))),
         "remove the duplicates|keep each word once|drop repeated words|list every word only once",
         "the list without duplicates|each word once|the distinct words"),
    kind("words_repeated", "doubled ->", lambda s, p: next((w for w in _w(s) if _w(s).count(w) > 1), None) if len(set(_w(s))) == len(_w(s)) - 1 else None,
         "find the word that appears twice|name the repeated word|say which word is there twice|give the duplicate",
         "the repeated word|the word that appears twice|the duplicate in the list"),
    # ---------------------------------------------------------------- numbers
    kind("numbers_max", "numbers -> text", lambda s, p: str(max(_n(s))),
         "find the largest number|pick the biggest number|take the maximum|give the highest number", "the largest number|the maximum|the biggest value"),
    kind("numbers_min", "numbers -> text", lambda s, p: str(min(_n(s))),
         "find the smallest number|pick the lowest number|take the minimum|give the least number", "the smallest number|the minimum|the lowest value"),
    kind("numbers_sort", "numbers -> numbers", lambda s, p: _join(sorted(_n(s))),
         "sort the numbers|put the numbers in ascending order|arrange the numbers from small to large|order the numbers upwards",
         "the numbers in ascending order|the sorted numbers|the numbers from small to large"),
    kind("numbers_sort_down", "numbers -> numbers", lambda s, p: _join(sorted(_n(s), reverse=True)),
         "sort the numbers from large to small|put the numbers in descending order|arrange the numbers from high to low|order the numbers downwards",
         "the numbers in descending order|the numbers from large to small|the numbers, highest first"),
    kind("numbers_reverse", "numbers -> numbers", lambda s, p: _join(_n(s)[::-1]),
         "reverse the list of numbers|write the numbers from last to first|turn the order of the numbers around|list the numbers back to front",
         "the numbers in reverse order|the numbers from last to first|the numbers back to front"),
    kind("numbers_count", "numbers ->", lambda s, p: str(len(_n(s))),
         "count the numbers|say how many numbers there are|give the length of the list|tell the count of the numbers",
         "how many numbers there are|the count of the numbers|the length of the list"),
    kind("numbers_at", "numbers -> text", lambda s, p: next(map(str, _n(s)[_PLACES[p["k"]] :]), None),
         "take the {k} number|pick the {k} value|give only the {k} number|choose the {k} number of the list",
         "the {k} number|the {k} value of the list|the number in {k} place", each("k", "first", "second"), each("k", "third")),
    kind("numbers_last", "numbers -> text", lambda s, p: str(_n(s)[-1]),
         "take the last number|pick the final value|give only the last number|choose the last number of the list",
         "the last number|the final value of the list|the number at the end"),
    kind("numbers_even", "numbers -> numbers", lambda s, p: _join([n for n in _n(s) if n % 2 == 0]),
         "keep the even numbers|remove the odd numbers|drop every odd number|select the even numbers",
         "the even numbers|only the even values|the numbers divisible by two"),
    kind("numbers_odd", "numbers -> numbers", lambda s, p: _join([n for n in _n(s) if n % 2]),
         "keep the odd numbers|remove the even numbers|drop every even number|select the odd numbers",
         "the odd numbers|only the odd values|the numbers not divisible by two"),
    kind("numbers_above", "numbers -> numbers", lambda s, p: _join([n for n in _n(s) if n > int(p["t"])]),
         "keep the numbers above {t}|remove everything up to {t}|drop numbers that are {t} or less|select the numbers greater than {t}",
         "the numbers above {t}|only the values over {t}|the numbers greater than {t}", each("t", "50", "20"), each("t", "35")),
    kind("numbers_below", "numbers -> numbers", lambda s, p: _join([n for n in _n(s) if n < int(p["t"])]),
         "keep the numbers below {t}|remove everything from {t} up|drop numbers that are {t} or more|select the numbers less than {t}",
         "the numbers below {t}|only the values under {t}|the numbers less than {t}", each("t", "50", "70"), each("t", "60")),
    kind("numbers_add", "numbers -> numbers", lambda s, p: _join([n + _COUNT[p["k"]] for n in _n(s)]),
         "add {k} to every number|increase each number by {k}|make every number {k} larger|raise all numbers by {k}",
         "the numbers plus {k}|each number increased by {k}|the numbers, {k} added to each", each("k", "one", "ten"), each("k", "two")),
    kind("numbers_plus", "numbers ->", lambda s, p: p["s"].join(map(str, _n(s))),
         "join the numbers with {n}|put {n} between the numbers|replace the commas with {n}|write the numbers with {n} between them",
         "the numbers joined by {n}|the numbers with {n} between them|the numbers, separated by {n}",
         ({"s": " + ", "n": "plus signs"}, {"s": "-", "n": "dashes"}), ({"s": " < ", "n": "less-than signs"},)),
    kind("numbers_range", "numbers -> text", lambda s, p: f"{min(_n(s))} to {max(_n(s))}",
         "give the range from smallest to largest|write the smallest number, to, and the largest|say from which to which number they go|state the lowest and highest as a range",
         "the range of the numbers|smallest to largest|the lowest and the highest, like 3 to 9"),
    kind("numbers_rising", "numbers ->", lambda s, p: "yes" if _n(s) == sorted(_n(s)) else "no",
         "say yes if the numbers are in rising order, else no|check whether the numbers only go up, yes or no|answer whether the list is ascending|tell by yes or no if the numbers are sorted",
         "yes if the numbers rise, otherwise no|whether the list is ascending, yes or no|yes or no: are the numbers sorted"),
    kind("numbers_drop_first", "numbers -> numbers", lambda s, p: _join(_n(s)[1:]),
         "remove the first number|drop the first value|leave out the first number|delete the first number of the list",
         "the list without its first number|all numbers but the first|everything after the first number"),
    kind("two_larger", "two -> text", lambda s, p: str(max(_pair(s))),
         "say which number is larger|pick the larger of the two|give the bigger number|choose the higher of both",
         "the larger number|the bigger of the two|the higher one"),
    kind("two_smaller", "two -> text", lambda s, p: str(min(_pair(s))),
         "say which number is smaller|pick the smaller of the two|give the lower number|choose the lesser of both",
         "the smaller number|the lower of the two|the lesser one"),
    kind("two_compare", "two ->", lambda s, p: p["a"] if _pair(s)[0] > _pair(s)[1] else p["b"],
         "say {a} if the first number is larger and {b} if it is smaller|answer {a} when the first is greater, else {b}|compare the two: {a} if the first one wins, otherwise {b}|write {a} or {b}, depending on whether the first number is larger",
         "{a} if the first is larger, otherwise {b}|{a} or {b}, {a} when the first is greater|the comparison of first and second as {a} or {b}",
         ({"a": "more", "b": "less"}, {"a": "yes", "b": "no"}), ({"a": "up", "b": "down"},)),
    kind("two_swap", "two -> text", lambda s, p: "{1} and {0}".format(*_pair(s)),
         "swap the two numbers|exchange the numbers|put the second number first|switch the numbers around",
         "the two numbers, swapped|the second number and then the first|the numbers in the other order"),
    kind("two_sign", "two ->", lambda s, p: f"{_pair(s)[0]} {'>' if _pair(s)[0] > _pair(s)[1] else '<'} {_pair(s)[1]}",
         "put the right sign, < or >, between the numbers|compare the numbers with < or >|replace and by < or >|write the comparison with a < or > sign",
         "the numbers with < or > between them|the comparison as a formula|the inequality of the two"),
    # ---------------------------------------------------------------- single words
    kind("noun_plural", "noun -> text", lambda s, p: PLURALS[s],
         "write the plural|make the word plural|turn the noun into its plural|give the plural form", "the plural|the plural form of the noun|the word for several of them"),
    kind("noun_article", "noun -> text", lambda s, p: f"{'an' if s[0] in _VOWELS or s == 'hour' else 'a'} {s}",
         "put a or an before the word|add the right article, a or an|write the noun with its indefinite article|place a or an in front",
         "the noun with a or an|the word with its indefinite article|a or an and the word"),
    kind("noun_group", "noun ->", _group,
         "say whether it is an animal, food, clothing, person, vehicle or furniture|name the group the thing belongs to|classify the noun|sort the thing into its group",
         "the group of the thing|what sort of thing it is|the category of the noun"),
    kind("noun_plural_many", "noun -> text", lambda s, p: f"{p['k']} {PLURALS[s]}",
         "write {k} of them|put {k} before the plural|say that there are {k} of them|count {k} of the thing",
         "{k} of the thing, in the plural|the plural with {k} before it|{k} of these", each("k", "two", "many"), each("k", "five")),
    kind("word_last_letter", "noun ->", lambda s, p: s[-1],
         "give the last letter|take the final letter|write only the letter at the end|name the last letter",
         "the last letter|the final letter of the word|the letter at the end"),
    kind("word_vowel", "noun ->", lambda s, p: "yes" if s[0] in _VOWELS else "no",
         "say yes if the word begins with a vowel, else no|check whether the first letter is a vowel, yes or no|answer whether it starts with a vowel|tell by yes or no if it begins with a vowel",
         "yes if it begins with a vowel, otherwise no|yes or no: a vowel at the start|whether the first letter is a vowel, yes or no"),
    kind("verb_past", "verb -> text", lambda s, p: VERBS[s][0],
         "write the past tense|put the verb in the past|give the simple past|turn the verb into its past form", "the past tense|the past form of the verb|the simple past"),
    kind("verb_ing", "verb -> text", lambda s, p: VERBS[s][1],
         "write the -ing form|put the verb in its -ing form|give the present participle|add -ing to the verb", "the -ing form|the present participle|the verb with -ing"),
    kind("verb_he", "verb -> text", lambda s, p: f"{p['w']} {_third_person(s, p)}",
         "write the verb with {w}|put {w} before the verb in the present tense|conjugate the verb for {w}|give the form that goes with {w}",
         "the verb after {w}|the present tense with {w}|the form for {w}", each("w", "he", "she"), each("w", "it")),
    kind("verb_not", "verb -> text", lambda s, p: f"do not {s}",
         "forbid it|write the negative command|say not to do it|turn the verb into a prohibition", "the negative command|the verb as a prohibition|the order not to do it"),
    kind("verb_will", "verb -> text", lambda s, p: f"{p['w']} will {s}",
         "put the verb in the future with {w}|write what {w} will do|give the future tense for {w}|say that {w} will do it",
         "the future tense with {w}|what {w} will do|the verb with {w} will", each("w", "we", "they"), each("w", "I")),
    kind("adjective_opposite", "adjective -> text", lambda s, p: ADJECTIVES[s][0],
         "write the opposite|give the word with the opposite meaning|name the antonym|say the contrary", "the opposite|the antonym of the word|the contrary"),
    kind("adjective_more", "adjective -> text", lambda s, p: ADJECTIVES[s][1],
         "write the comparative|give the -er form|compare with the -er form|turn the adjective into its comparative", "the comparative|the -er form of the adjective|the word for more of it"),
    kind("adjective_most", "adjective -> text", lambda s, p: ADJECTIVES[s][2],
         "write the superlative|give the -est form|name the highest degree|turn the adjective into its superlative", "the superlative|the -est form of the adjective|the word for the most of it"),
    kind("adjective_adverb", "adjective -> text", _adverb,
         "write the adverb|give the -ly form|turn the adjective into an adverb|make an adverb of it", "the adverb|the -ly form of the adjective|the word as an adverb"),
    kind("adjective_very", "adjective -> text", lambda s, p: f"{p['w']} {s}",
         "put {w} before the word|strengthen it with {w}|write {w} and then the word|say it with {w} in front", "the word with {w} before it|{w} and the word|the adjective after {w}",
         each("w", "very", "not"), each("w", "too")),
    kind("adjective_than", "adjective -> text", lambda s, p: f"{ADJECTIVES[s][1]} than {p['x']}",
         "compare it with {x}|write the comparative and than {x}|say that something is more so than {x}|make a comparison with {x}",
         "the comparison with {x}|the comparative followed by than {x}|the phrase that ends in than {x}", each("x", "mine", "before"), each("x", "yours")),
    # ---------------------------------------------------------------- messages
    kind("message_question", "message ->", lambda s, p: p["a"] if s.endswith("?") else p["b"],
         "say {a} if it is a question, else {b}|answer {a} for questions and {b} for everything else|check for a question: {a} or {b}|tell whether the customer asks something, {a} or {b}",
         "{a} for a question, {b} otherwise|{a} or {b}: is it a question|whether it is a question, as {a} or {b}",
         ({"a": "yes", "b": "no"}, {"a": "question", "b": "statement"}), ({"a": "ask", "b": "tell"},)),
    kind("message_topic", "message ->", _topic,
         "say whether it is about billing, delivery, a defect or praise|classify the message as billing, delivery, defect or praise|name the topic: billing, delivery, defect, praise|sort the message into billing, delivery, defect or praise",
         "the topic: billing, delivery, defect or praise|billing, delivery, defect or praise|the topic of the message"),
    kind("message_team", "message ->", _topic,
         "label the message: {t}|answer with {t}|sort the message, {t}|classify the message with these labels: {t}",
         "the label: {t}|{t}|the right code: {t}",
         (_mapped("A", "B", "C", "D"), _mapped("4", "3", "2", "1"), _mapped("money", "post", "repair", "thanks")), (_mapped("D", "C", "B", "A"),)),
    kind("message_mood", "message ->", lambda s, p: None if _topic(s, {}) is None else "happy" if _topic(s, {}) == "praise" else "unhappy",
         "say whether the customer is happy or unhappy|classify the mood as happy or unhappy|judge the sentiment: happy or unhappy|tell if the customer is happy or unhappy",
         "happy or unhappy|the mood of the customer, happy or unhappy|the sentiment: happy or unhappy"),
    kind("message_stars", "message ->", lambda s, p: None if _topic(s, {}) is None else "positive" if _topic(s, {}) == "praise" else "negative",
         "rate the message as positive or negative|decide between positive and negative|label the feedback positive or negative|judge it as positive or negative",
         "positive or negative|the sentiment, positive or negative|the verdict: positive or negative"),
    kind("message_hello", "message ->", lambda s, p: "yes" if s.startswith(("hello", "hi,")) else "no",
         "say yes if it begins with a greeting, else no|check for a greeting, yes or no|answer whether the customer says hello|tell by yes or no if there is a greeting",
         "yes if there is a greeting, otherwise no|yes or no: does it say hello|whether it begins with a greeting, yes or no"),
    kind("message_urgent", "message ->", lambda s, p: p["a"] if s.startswith("urgent") else p["b"],
         "mark the message {a} if it says urgent, otherwise {b}|answer {a} for urgent messages and {b} for others|give the priority {a} or {b}, {a} if urgent|write {a} when the message is urgent and else {b}",
         "{a} if the message is urgent, otherwise {b}|the priority, {a} for urgent and {b} for the rest|{a} or {b}, depending on whether it says urgent",
         ({"a": "now", "b": "later"}, {"a": "high", "b": "normal"}), ({"a": "red", "b": "green"},)),
    kind("message_product", "message -> text", lambda s, p: next((w for w in ("phone", "lamp", "jacket", "printer", "kettle", "chair", "camera", "bike", "laptop", "backpack") if w in s), None),
         "name the product|say which product it is about|extract the product|pick out the thing the customer talks about",
         "the product|the product in the message|the thing it is about"),
    kind("message_first", "message -> text", lambda s, p: s.split()[0].strip(",:"),
         "take the first word|give only the first word|keep just the first word|write the word that the message begins with",
         "the first word|the word at the beginning|the opening word"),
    kind("message_last", "message -> text", lambda s, p: s.split()[-1].strip(".?!"),
         "take the last word|give only the last word, without punctuation|keep just the last word|write the word that the message ends with",
         "the last word|the word at the end, without punctuation|the closing word"),
    # ---------------------------------------------------------------- tables stated by the description
    kind("table", "order ->", _look_up,
         "answer from this table: {t}|look it up: {t}|use the table {t}|reply according to this: {t}",
         "the entry of the table: {t}|the answer, where {t}|what the table says: {t}", _tables()[:8], _tables()[8:11]),
    kind("order_word", "order -> text", lambda s, p: next((w for w in s.split() if w in (*DRINKS, *CITIES, *COLORS)), None) if len(s.split()) > 1 else None,
         "name what was chosen|extract the choice|keep only the thing that was chosen|pick out the chosen word",
         "the choice|the chosen thing|the word that names the choice"),
    # ---------------------------------------------------------------- any text
    kind("upper", "any -> text", lambda s, p: s.upper(),
         "write {it} in capitals|convert {it} to upper case|put {it} in capital letters|make {it} uppercase",
         "the text in capital letters|the upper-case text|the text, all letters big"),
    kind("lower", "any -> text", lambda s, p: s.lower(),
         "write {it} in small letters|convert {it} to lower case|put {it} in lowercase|make {it} lowercase",
         "the text in small letters|the lower-case text|the text, all letters small"),
    kind("title", "any -> text", lambda s, p: s.title() if s != s.title() else None,
         "begin each word of {it} with a capital|put {it} in title case|capitalize every word of {it}|write {it} with a capital at each word",
         "the text in title case|the text with each word capitalized|the title-case text"),
    kind("quote", "any -> text", lambda s, p: f"{p['a']}{s}{p['b']}",
         "put {it} in {n}|wrap {it} in {n}|write {n} around {it}|enclose {it} in {n}",
         "the text in {n}|the text with {n} around it|the text, {n} added",
         ({"a": '"', "b": '"', "n": "double quotes"}, {"a": "(", "b": ")", "n": "round brackets"}, {"a": "[", "b": "]", "n": "square brackets"},
          {"a": "*", "b": "*", "n": "stars"}, {"a": "<b>", "b": "</b>", "n": "bold tags"}),
         ({"a": "{", "b": "}", "n": "curly braces"}, {"a": "_", "b": "_", "n": "underscores"})),
    kind("prefix", "any -> text", lambda s, p: f"{p['x']} {s}",
         "write {x} before {it}|put {x} in front of {it}|begin {it} with {x}|prefix {it} with {x}",
         "the text with {x} before it|{x} and then the text|the text, preceded by {x}",
         each("x", "Note:", "Re:", "->", "Answer:", "#"), each("x", "Todo:", "=")),
    kind("suffix", "any -> text", lambda s, p: f"{s} {p['x']}",
         "write {x} after {it}|put {x} behind {it}|end {it} with {x}|add {x} to the end of {it}",
         "the text with {x} after it|the text and then {x}|the text, followed by {x}",
         each("x", "(done)", "!!", "ok", "END", "etc."), each("x", "(new)", "??")),
    kind("glue", "any -> text", lambda s, p: s.replace(", ", " ").replace(" ", p["x"]) if " " in s else None,
         "replace the spaces with {n}|put {n} where the spaces are|join the words of {it} with {n}|use {n} instead of spaces",
         "the text with {n} for spaces|the text, its words joined by {n}|the words with {n} between them",
         ({"x": "_", "n": "underscores"}, {"x": "-", "n": "hyphens"}), ({"x": ".", "n": "dots"},)),
    kind("squeeze", "any -> text", lambda s, p: s.replace(" ", "") if " " in s else None,
         "remove all spaces|write {it} without spaces|delete the spaces from {it}|take out every space",
         "the text without spaces|the text, spaces removed|the text in one piece"),
    kind("twice", "any -> text", lambda s, p: f"{s}{p['x']}{s}",
         "write {it} twice {n}|repeat {it} {n}|say {it} two times {n}|double {it} {n}",
         "the text twice {n}|the text two times {n}|two copies of the text {n}",
         ({"x": " ", "n": "with a space between"}, {"x": ", ", "n": "with a comma between"})),
    kind("backwards", "any -> text", lambda s, p: " ".join(s.replace(",", "").split()[::-1]) if len(s.split()) > 1 else None,
         "reverse the order of the words in {it} and drop commas|write the words of {it} from last to first without commas|put the last word of {it} first, and so on, no commas|turn the word order of {it} around, without commas",
         "the words in reverse order, without commas|the text from last word to first, no commas|the words back to front, no commas"),
    kind("answer_is", "any -> text", lambda s, p: f"{p['x']} {s}.",
         "make a sentence that begins with {x}|answer in a sentence starting with {x}|put {it} into a sentence after {x}|say it in a sentence with {x}",
         "a sentence that begins with {x}|the text in a sentence after {x}|the sentence {x} and the text",
         each("x", "The answer is", "It says"), each("x", "We found")),
    kind("assign", "any -> text", lambda s, p: f'{p["x"]} = "{s}"',
         "assign {it} to the variable {x}|write code that sets {x} to {it}|store {it} as the string {x}|set the variable {x} to {it}",
         "code that sets {x} to the text|the assignment of the text to {x}|{x} as a string variable",
         each("x", "name", "value"), each("x", "result")),
    kind("as_json", "any -> text", lambda s, p: json.dumps({p["x"]: s}),
         "write {it} as json with the key {x}|put {it} in a json object under {x}|make a json object with {x} set to {it}|wrap {it} in json as {x}",
         "a json object with the text under {x}|the text as json, key {x}|json with the key {x}",
         each("x", "text", "item"), each("x", "label")),
    kind("initial", "any ->", lambda s, p: s[0],
         "give the first letter|take the first letter of {it}|write only the first letter|name the letter {it} begins with",
         "the first letter|the letter at the beginning|the text's first letter"),
    kind("word_count", "message ->", lambda s, p: str(len(s.split())),
         "count the words in the message|say how many words the message has|give the number of words in it|tell how many words were written",
         "the number of words in the message|how many words the message has|the message's word count"),
    kind("tidy", "messy -> text", lambda s, p: " ".join(s.split()) if "  " in s else None,
         "remove the extra spaces|leave one space between words|clean up the spacing|squeeze double spaces to one",
         "the text with single spaces|the text without extra spaces|the text with clean spacing"),
    kind("tidy_lower", "messy -> text", lambda s, p: " ".join(s.lower().split()),
         "fix the spacing and use small letters|clean it up: single spaces, lower case|remove extra spaces and capitals|tidy the text, all lower case",
         "the tidy text in small letters|the text with single spaces and no capitals|the cleaned text, lower case"),
    kind("tidy_sentence", "messy -> text", lambda s, p: " ".join(s.split()).capitalize() + ".",
         "turn it into a clean sentence with a capital and a full stop|fix spaces and case and end with a full stop|write it as a proper sentence|make a neat sentence of it",
         "a clean sentence with a full stop|the text as a proper sentence|the neat sentence"),
    kind("tidy_list", "messy -> words", lambda s, p: ", ".join(s.lower().split()),
         "make a comma list of the words in small letters|list the words with commas, lower case|turn it into a tidy list with commas|write the words in lower case, separated by commas",
         "the words as a lower-case comma list|a tidy comma list of the words|the words, lower case, with commas"),
)
# fmt: on
