"""Kinds of flags that several verbs have."""

from typing import Annotated

from cyclopts import Parameter

Flag = Annotated[bool, Parameter(negative=())]
"""A switch that is off unless named; it has no `--no-` form."""
