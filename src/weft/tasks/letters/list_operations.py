"""The operations on lists of digits: what each does and how people say it."""

from weft.tasks.letters.operation import Operation, counts, number


def _items(text: str) -> list[int]:
    return [int(item) for item in text.split(",") if item]


def _join(items: list[int]) -> str:
    return ",".join(map(str, items))


# fmt: off
LISTS: tuple[Operation, ...] = (
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
    Operation("list_add", lambda s, p: _join([n + number(p) for n in _items(s)]), (
        "add {k} to every number", "increase each number by {k}", "make every number {k} larger",
        "raise each number by {k}", "add {k} to all items of the list",
        "count {k} up from every number", "put each number up by {k}", "increase all numbers by {k}",
        "add {k} to each number", "raise all numbers by {k}", "make each number larger by {k}",
        ),
        counts("one", "two"),
        counts("three"),
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
