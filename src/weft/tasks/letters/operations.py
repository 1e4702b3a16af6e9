"""The primitive operations of the letters world, by name."""

from weft.tasks.letters.list_operations import LISTS
from weft.tasks.letters.operation import Operation
from weft.tasks.letters.string_operations import STRINGS

OPERATIONS: dict[str, Operation] = {operation.name: operation for operation in STRINGS + LISTS}
