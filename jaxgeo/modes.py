"""Which of two forms of a computation, wherever a published program deviates from its mathematics.

`correct` is the mathematics, and the default; `faithful` is the published program with its quirks, so that its weights
load and its numbers come out. What differs stands where a setting or an argument has this type.
"""

from typing import Literal, TypeAlias

Mode: TypeAlias = Literal["correct", "faithful"]
