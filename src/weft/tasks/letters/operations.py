"""The primitive operations of the letters world: what each does and how people say it.

A phrase is an imperative without a subject, so that phrases join into compositions; `{s}` stands for the
string and `{x}`, `{y}`, `{k}` for parameters. The last three phrases of an operation are never trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

VOWELS = "aeiou"
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
UNSEEN_PHRASES = 3

Parameters = dict[str, str]


@dataclass(frozen=True)
class Operation:
    """One primitive: a function on a string (or on a comma-separated list of digits) and its phrases."""

    name: str
    apply: Callable[[str, Parameters], str]
    phrases: tuple[str, ...]
    parameters: tuple[Parameters, ...] = ({},)
    unseen_parameters: tuple[Parameters, ...] = ()
    kind: Literal["string", "list"] = "string"
    last: bool = False
    """Whether its output is no longer a string (or list) that others can act on."""


def _letters(letters: str) -> tuple[Parameters, ...]:
    return tuple({"x": x} for x in letters)


def _counts(*words: str) -> tuple[Parameters, ...]:
    return tuple({"k": word} for word in words)


def _pairs(pairs: str) -> tuple[Parameters, ...]:
    return tuple({"x": pair[0], "y": pair[1]} for pair in pairs.split())


_NUMBER = {"one": 1, "two": 2, "three": 3, "four": 4}


def _k(parameters: Parameters) -> int:
    return _NUMBER[parameters["k"]]


def _shift(text: str, by: int) -> str:
    return "".join(ALPHABET[(ALPHABET.index(c) + by) % 26] if c in ALPHABET else c for c in text)


def _items(text: str) -> list[int]:
    return [int(item) for item in text.split(",") if item]


def _join(items: list[int]) -> str:
    return ",".join(map(str, items))


# fmt: off
_STRING = (
    Operation("reverse", lambda s, p: s[::-1], (
        "reverse {s}", "write {s} backwards", "flip {s} around", "spell {s} from the end to the start",
        "put {s} in reverse order", "turn {s} back to front", "read {s} from right to left",
        "give {s} in the opposite order", "invert the order of {s}", "spell {s} backwards",
        "write {s} in reverse",
    )),
    Operation("sort", lambda s, p: "".join(sorted(s)), (
        "sort {s}", "put {s} in alphabetical order", "order {s} from a to z",
        "arrange {s} alphabetically", "sort {s} from a to z", "list {s} in the order of the alphabet",
        "rearrange {s} so that a comes first", "put {s} in ascending order", "alphabetize {s}",
        "arrange {s} from a to z", "sort {s} alphabetically",
    )),
    Operation("sort_down", lambda s, p: "".join(sorted(s, reverse=True)), (
        "sort {s} from z to a", "put {s} in reverse alphabetical order", "order {s} from z to a",
        "arrange {s} in descending order", "sort {s} in descending order", "list {s} from z down to a",
        "rearrange {s} so that z comes first", "sort {s} in reverse alphabetical order",
        "arrange {s} from z to a", "put {s} in descending order",
        "order {s} in reverse alphabetical order",
    )),
    Operation("shift_up", lambda s, p: _shift(s, _k(p)), (
        "shift every letter forward by {k}", "move each letter {k} ahead in the alphabet",
        "replace each letter with the one {k} later in the alphabet", "advance all letters by {k}",
        "shift {s} forward by {k}", "apply a caesar cipher with a shift of {k}",
        "push each letter forward by {k}", "move every letter forward by {k} in the alphabet",
        "advance every letter by {k} in the alphabet", "shift each letter {k} ahead",
        "move all letters forward by {k}",
        ),
        _counts("one", "two", "three"),
        _counts("four"),
    ),
    Operation("shift_down", lambda s, p: _shift(s, -_k(p)), (
        "shift every letter back by {k}", "move each letter {k} back in the alphabet",
        "replace each letter with the one {k} earlier in the alphabet", "move all letters back by {k}",
        "shift {s} back by {k}", "undo a caesar cipher with a shift of {k}",
        "push each letter back by {k}", "move every letter backward by {k} in the alphabet",
        "shift each letter back by {k} in the alphabet", "move {s} back by {k} in the alphabet",
        "push every letter backward by {k}",
        ),
        _counts("one", "two"),
        _counts("three"),
    ),
    Operation("double", lambda s, p: "".join(c * 2 for c in s), (
        "double every letter", "write each letter twice", "repeat every letter of {s}",
        "duplicate each letter", "say each letter two times in a row", "double each character in {s}",
        "write every letter two times", "duplicate every character", "double each letter of {s}",
        "repeat each letter twice", "write every character twice",
    )),
    Operation("repeat", lambda s, p: s * 2, (
        "repeat the whole of {s}", "write {s} twice in a row", "say the whole of {s} two times",
        "put a copy of {s} after it", "append a copy of {s} to itself", "repeat {s} as a whole",
        "write the whole of {s} again at the end", "follow {s} with itself",
        "write the whole of {s} twice", "put {s} after itself", "repeat the whole of {s} two times",
    )),
    Operation("mirror", lambda s, p: s + s[::-1], (
        "append the reverse of {s} to it", "mirror {s}", "follow {s} with its reverse",
        "write {s} and then its mirror image", "add the reverse of {s} at the end",
        "make a palindrome by adding the reverse of {s}", "put the mirror image of {s} after it",
        "extend {s} with its own reverse", "add the mirror image of {s} at the end",
        "write {s} followed by its reverse", "append the mirror image of {s}",
    )),
    Operation("keep_vowels", lambda s, p: "".join(c for c in s if c in VOWELS), (
        "keep only the vowels", "remove all consonants", "delete every consonant",
        "keep the vowels of {s}", "extract the vowels", "drop the consonants from {s}",
        "throw away the consonants", "leave nothing but the vowels", "take out the consonants",
        "delete all consonants from {s}", "extract only the vowels of {s}",
    )),
    Operation("drop_vowels", lambda s, p: "".join(c for c in s if c not in VOWELS), (
        "remove the vowels", "delete every vowel", "drop all vowels from {s}",
        "keep only the consonants", "throw away the vowels", "extract the consonants",
        "leave nothing but the consonants", "strip the vowels from {s}", "take out the vowels",
        "delete all vowels from {s}", "keep the consonants of {s}",
    )),
    Operation("replace", lambda s, p: s.replace(p["x"], p["y"]), (
        "replace every {x} with {y}", "change each {x} to {y}", "turn every {x} into {y}",
        "swap every {x} for {y}", "put {y} in place of each {x}", "substitute {y} for every {x}",
        "write {y} instead of {x}", "replace the letter {x} with the letter {y}",
        "change every {x} into {y}", "put {y} instead of each {x}",
        "turn each letter {x} into the letter {y}",
        ),
        _pairs("ab ez ix ou bd co dt gs ma nr ry tl"),
        _pairs("ax eb nz rt"),
    ),
    Operation("remove", lambda s, p: s.replace(p["x"], ""), (
        "remove every {x}", "delete each {x}", "drop the letter {x}", "take out every {x}",
        "erase each letter {x}", "leave out every {x}", "strip every {x} from {s}",
        "throw away each {x}", "delete every letter {x}", "take the letter {x} out of {s}",
        "erase every {x}",
        ),
        _letters("aeosnt"),
        _letters("ir"),
    ),
    Operation("first", lambda s, p: s[: _k(p)], (
        "keep only the first {k} letters", "take the first {k} letters",
        "return the first {k} characters", "keep the first {k} letters of {s}",
        "cut {s} after the first {k} letters", "give just the first {k} letters",
        "write only the first {k} letters", "extract the first {k} letters",
        "take only the first {k} characters", "return just the first {k} letters",
        "keep the first {k} characters",
        ),
        _counts("two", "three"),
    ),
    Operation("last", lambda s, p: s[-_k(p) :], (
        "keep only the last {k} letters", "take the last {k} letters", "return the last {k} characters",
        "keep the last {k} letters of {s}", "give just the last {k} letters",
        "write only the last {k} letters", "extract the last {k} letters",
        "keep nothing but the last {k} letters", "take only the last {k} characters",
        "return just the last {k} letters", "keep the last {k} characters",
        ),
        _counts("two", "three"),
    ),
    Operation("drop_first", lambda s, p: s[_k(p) :], (
        "remove the first {k} letters", "drop the first {k} letters", "delete the first {k} characters",
        "cut off the first {k} letters", "skip the first {k} letters",
        "leave out the first {k} letters of {s}", "strip the first {k} letters from {s}",
        "throw away the first {k} letters", "drop the first {k} characters",
        "cut the first {k} letters off {s}", "delete the first {k} letters",
        ),
        _counts("one", "two"),
    ),
    Operation("drop_last", lambda s, p: s[: -_k(p)], (
        "remove the last {k} letters", "drop the last {k} letters", "delete the last {k} characters",
        "cut off the last {k} letters", "leave out the last {k} letters of {s}",
        "strip the last {k} letters from {s}", "throw away the last {k} letters",
        "erase the last {k} letters", "drop the last {k} characters",
        "cut the last {k} letters off {s}", "delete the last {k} letters",
        ),
        _counts("one", "two"),
    ),
    Operation("swap_ends", lambda s, p: s[-1] + s[1:-1] + s[0] if len(s) > 1 else s, (
        "swap the first and the last letter", "exchange the first and last letters",
        "switch the first letter with the last one", "let the first and last letters trade places",
        "swap the two ends of {s}", "exchange the letters at both ends",
        "put the last letter first and the first letter last", "swap the outer letters of {s}",
        "switch the first and last letters", "exchange the two ends of {s}",
        "swap the letters at both ends",
    )),
    Operation("rotate_left", lambda s, p: s[_k(p) :] + s[: _k(p)], (
        "move the first {k} letters to the end", "rotate {s} left by {k}",
        "rotate {s} to the left by {k}", "take the first {k} letters and put them at the end",
        "put the first {k} letters after the rest", "shift {s} to the left by {k} with wrapping",
        "cycle {s} left by {k}", "send the first {k} letters to the back",
        "cycle {s} to the left by {k}", "put the first {k} letters at the end",
        "move the first {k} letters to the back",
        ),
        _counts("one", "two"),
    ),
    Operation("rotate_right", lambda s, p: s[-_k(p) :] + s[: -_k(p)], (
        "move the last {k} letters to the start", "rotate {s} right by {k}",
        "rotate {s} to the right by {k}", "take the last {k} letters and put them at the start",
        "put the last {k} letters before the rest", "shift {s} to the right by {k} with wrapping",
        "cycle {s} right by {k}", "bring the last {k} letters to the front",
        "cycle {s} to the right by {k}", "put the last {k} letters at the start",
        "move the last {k} letters to the front",
        ),
        _counts("one", "two"),
    ),
    Operation("append", lambda s, p: s + p["x"], (
        "add {x} at the end", "append {x}", "put {x} after the last letter",
        "attach {x} to the end of {s}", "write {x} at the end of {s}", "finish {s} with {x}",
        "end {s} with an extra {x}", "place {x} at the end", "append the letter {x} to {s}",
        "put {x} at the end of {s}", "add the letter {x} at the end",
        ),
        _letters("abeopz"),
        _letters("ku"),
    ),
    Operation("prepend", lambda s, p: p["x"] + s, (
        "add {x} at the start", "prepend {x}", "put {x} before the first letter",
        "attach {x} to the start of {s}", "write {x} at the start of {s}",
        "begin {s} with an extra {x}", "place {x} at the front", "start {s} with {x}",
        "prepend the letter {x} to {s}", "put {x} at the start of {s}",
        "add the letter {x} at the front",
        ),
        _letters("cdemxz"),
        _letters("ao"),
    ),
    Operation("surround", lambda s, p: p["x"] + s + p["x"], (
        "put {x} at both ends", "surround {s} with {x}", "add {x} on both sides", "wrap {s} in {x}",
        "write {x} before and after {s}", "place {x} at the start and at the end",
        "enclose {s} between two {x}", "add {x} at both ends of {s}", "wrap {s} in two {x}",
        "put {x} on both sides of {s}", "surround {s} with two {x}",
        ),
        _letters("oxz"),
        _letters("a"),
    ),
    Operation("dedupe", lambda s, p: "".join(dict.fromkeys(s)), (
        "remove repeated letters", "keep only the first occurrence of each letter",
        "delete duplicate letters", "drop letters that have already appeared",
        "remove the duplicates from {s}", "let no letter appear twice",
        "leave out letters that were seen before", "write each distinct letter once",
        "delete the repeated letters of {s}", "drop the duplicates",
        "remove letters that have already appeared",
    )),
    Operation("every_other", lambda s, p: s[::2], (
        "keep every other letter", "take every second letter starting with the first",
        "skip every second letter", "drop every second letter", "keep the letters at odd positions",
        "remove the letters at even positions", "take the first letter and then every other one",
        "delete every second letter of {s}", "take every other letter of {s}",
        "remove every second letter", "keep only every other letter",
    )),
    Operation("swap_pairs", lambda s, p: "".join(s[i : i + 2][::-1] for i in range(0, len(s), 2)), (
        "swap neighbouring letters in pairs", "swap each pair of letters",
        "exchange the letters two by two", "reverse every pair of letters",
        "switch the two letters of each pair", "flip {s} pair by pair", "swap adjacent letters",
        "exchange each letter with its neighbour", "switch neighbouring letters in pairs",
        "exchange the letters of each pair", "swap the letters two by two",
    )),
    Operation("mask_vowels", lambda s, p: "".join(p["x"] if c in VOWELS else c for c in s), (
        "replace each vowel with {x}", "write {x} instead of every vowel", "hide the vowels behind {x}",
        "turn all vowels into {x}", "mask the vowels with {x}", "put {x} in place of each vowel",
        "change every vowel to {x}", "cover each vowel with {x}", "mask every vowel with {x}",
        "turn each vowel into {x}", "hide each vowel behind {x}",
        ),
        ({"x": "*"}, {"x": "#"}),
    ),
    Operation(
        "mask_consonants",
        lambda s, p: "".join(p["x"] if c in ALPHABET and c not in VOWELS else c for c in s),
        (
            "replace each consonant with {x}", "write {x} instead of every consonant",
        "hide the consonants behind {x}", "turn all consonants into {x}",
        "mask the consonants with {x}", "put {x} in place of each consonant",
        "change every consonant to {x}", "cover each consonant with {x}",
        "mask every consonant with {x}", "turn each consonant into {x}",
        "hide each consonant behind {x}",
        ),
        ({"x": "*"}, {"x": "#"}),
    ),
    Operation("vowels_first", lambda s, p: "".join(sorted(s, key=lambda c: c not in VOWELS)), (
        "move the vowels to the front", "put the vowels before the consonants",
        "bring all vowels to the start", "write the vowels first and then the consonants",
        "place the vowels ahead of the consonants", "collect the vowels at the start",
        "move all vowels to the start of {s}", "write the vowels before the consonants",
        "bring the vowels to the front", "place the vowels before the consonants",
        "put all vowels at the start of {s}",
    )),
    Operation("vowels_last", lambda s, p: "".join(sorted(s, key=lambda c: c in VOWELS)), (
        "move the vowels to the end", "put the vowels after the consonants",
        "send all vowels to the back", "write the consonants first and then the vowels",
        "place the consonants ahead of the vowels", "collect the vowels at the end",
        "move all vowels to the end of {s}", "write the consonants before the vowels",
        "send the vowels to the end", "place the vowels after the consonants",
        "put all vowels at the end of {s}",
    )),
    Operation("separate", lambda s, p: p["x"].join(s), (
        "put {x} between the letters", "separate the letters with {x}", "join the letters with {x}",
        "insert {x} between every two letters", "write {x} between neighbouring letters",
        "space the letters of {s} out with {x}", "place {x} between all letters",
        "divide the letters by {x}", "insert {x} between the letters",
        "separate the letters of {s} with {x}", "place {x} between the letters",
        ),
        ({"x": "-"}, {"x": "+"}),
        ({"x": "*"},),
        last=True,
    ),
    Operation("upper", lambda s, p: s.upper(), (
        "write {s} in capitals", "make every letter uppercase", "convert {s} to upper case",
        "capitalize every letter", "turn {s} into capital letters", "change all letters to upper case",
        "use capital letters only", "put {s} in upper case", "convert {s} to capital letters",
        "write {s} in upper case", "turn every letter into a capital",
        ),
        last=True,
    ),
    Operation("count", lambda s, p: str(len(s)), (
        "count the letters", "give the number of letters", "say how many letters there are",
        "return the length of {s}", "count how many letters {s} has", "write the length",
        "tell how long {s} is", "give the length of {s}", "count the characters of {s}",
        "return the number of letters", "say how long {s} is",
        ),
        last=True,
    ),
    Operation("count_vowels", lambda s, p: str(sum(c in VOWELS for c in s)), (
        "count the vowels", "give the number of vowels", "say how many vowels there are",
        "return the number of vowels in {s}", "count how many vowels {s} has",
        "tell how many letters are vowels", "write the number of vowels",
        "find out how many vowels {s} has", "count the vowels of {s}",
        "return how many vowels there are", "tell the number of vowels",
        ),
        last=True,
    ),
    Operation("smallest", lambda s, p: min(s), (
        "give the letter that comes first in the alphabet", "find the smallest letter",
        "return the earliest letter", "write only the letter closest to a",
        "pick the letter nearest to the start of the alphabet",
        "find the letter that is first in alphabetical order", "return the minimum letter of {s}",
        "choose the alphabetically first letter", "return the smallest letter",
        "pick the letter that comes first in the alphabet", "find the earliest letter of {s}",
        ),
        last=True,
    ),
    Operation("largest", lambda s, p: max(s), (
        "give the letter that comes last in the alphabet", "find the largest letter",
        "return the latest letter", "write only the letter closest to z",
        "pick the letter nearest to the end of the alphabet",
        "find the letter that is last in alphabetical order", "return the maximum letter of {s}",
        "choose the alphabetically last letter", "return the largest letter",
        "pick the letter that comes last in the alphabet", "find the latest letter of {s}",
        ),
        last=True,
    ),
)

_LIST = (
    Operation("list_sort", lambda s, p: _join(sorted(_items(s))), (
        "sort the numbers", "put the numbers in ascending order",
        "order the numbers from small to large", "arrange the numbers from low to high",
        "list the numbers in increasing order", "sort the numbers from smallest to largest",
        "rank the numbers upwards", "put the smallest number first",
        "arrange the numbers in ascending order", "sort the numbers from low to high",
        "order the numbers from smallest to largest",
        ),
        kind="list",
    ),
    Operation("list_sort_down", lambda s, p: _join(sorted(_items(s), reverse=True)), (
        "sort the numbers from largest to smallest", "put the numbers in descending order",
        "order the numbers from large to small", "arrange the numbers from high to low",
        "list the numbers in decreasing order", "sort the numbers downwards",
        "rank the numbers downwards", "put the largest number first",
        "arrange the numbers in descending order", "sort the numbers from high to low",
        "order the numbers from largest to smallest",
        ),
        kind="list",
    ),
    Operation("list_reverse", lambda s, p: _join(_items(s)[::-1]), (
        "reverse the list", "write the numbers backwards", "put the list in reverse order",
        "give the numbers from last to first", "flip the order of the numbers", "turn the list around",
        "list the numbers in the opposite order", "read the list from the end to the start",
        "reverse the order of the numbers", "write the list backwards",
        "give the list in reverse order",
        ),
        kind="list",
    ),
    Operation("list_add", lambda s, p: _join([n + _k(p) for n in _items(s)]), (
        "add {k} to every number", "increase each number by {k}", "make every number {k} larger",
        "raise each number by {k}", "add {k} to all items of the list",
        "count {k} up from every number", "put each number up by {k}", "increase all numbers by {k}",
        "add {k} to each number", "raise all numbers by {k}", "make each number larger by {k}",
        ),
        _counts("one", "two"),
        _counts("three"),
        kind="list",
    ),
    Operation("list_even", lambda s, p: _join([n for n in _items(s) if n % 2 == 0]), (
        "keep the even numbers", "remove the odd numbers", "drop every odd number",
        "keep only even items", "throw away the odd numbers", "select the even numbers",
        "leave nothing but the even numbers", "delete the odd items", "delete every odd number",
        "select only the even numbers", "keep the even items of the list",
        ),
        kind="list",
    ),
    Operation("list_odd", lambda s, p: _join([n for n in _items(s) if n % 2]), (
        "keep the odd numbers", "remove the even numbers", "drop every even number",
        "keep only odd items", "throw away the even numbers", "select the odd numbers",
        "leave nothing but the odd numbers", "delete the even items", "delete every even number",
        "select only the odd numbers", "keep the odd items of the list",
        ),
        kind="list",
    ),
    Operation("list_drop_first", lambda s, p: _join(_items(s)[1:]), (
        "remove the first number", "drop the first item", "delete the first number of the list",
        "skip the first item", "leave out the first number", "cut off the first item",
        "throw away the first number", "strip the first item from the list", "drop the first number",
        "delete the first item of the list", "leave out the first item",
        ),
        kind="list",
    ),
    Operation("list_max", lambda s, p: str(max(_items(s))), (
        "give the largest number", "find the maximum", "return the biggest number",
        "pick the highest number", "write only the largest item",
        "find the greatest number of the list", "return the maximum of the list",
        "choose the biggest item", "return the largest number", "find the highest number",
        "give the maximum of the list",
        ),
        kind="list",
        last=True,
    ),
    Operation("list_min", lambda s, p: str(min(_items(s))), (
        "give the smallest number", "find the minimum", "return the lowest number",
        "pick the smallest item", "write only the lowest number", "find the least number of the list",
        "return the minimum of the list", "choose the smallest number", "return the smallest number",
        "find the lowest number", "give the minimum of the list",
        ),
        kind="list",
        last=True,
    ),
    Operation("list_count", lambda s, p: str(len(_items(s))), (
        "count the numbers", "give the number of items", "say how many numbers there are",
        "return the length of the list", "count the items of the list",
        "tell how many items the list has", "write how many numbers the list holds",
        "give the length of the list", "count the items", "return the number of items",
        "say how many items the list has",
        ),
        kind="list",
        last=True,
    ),
)

OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in _STRING + _LIST}
