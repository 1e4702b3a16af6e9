"""When a request belongs to no adapter of a library: a threshold, calibrated on everyday requests.

    t = median + 2.5 * 1.4826 * median absolute deviation, over requests, of max_k cos(e(request), e(task_k))

A request whose nearest task lies below t is answered by the base alone. The requests below are of many kinds,
so most libraries know few of them; median and deviation bear that up to half of them belong to the library
(Hampel 1974). Nothing is trained, and it follows the library as adapters come and go.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

EVERYDAY = (
    "Kenya", "What is the capital of France?", "Write a poem about the sea.", "How do I bake bread?", "2+2",
    "Translate 'good morning' to German.", "Summarise this article in two sentences.", "def f(x): return x",
    "Who won the world cup in 2010?", "hello", "Tell me a joke.", "My stomach hurts, what should I do?",
    "Explain quantum entanglement.", "What is the weather like today?", "Book a table for two.",
    "List three fruits.", "I love you", "Is this review positive or negative?",
    "Convert 10 miles to kilometres.", "The quick brown fox jumps over the lazy dog.",
    "SELECT * FROM users;", "What time is it in Tokyo?", "Recommend a film.", "Who wrote Hamlet?",
    "How tall is Mount Everest?", "Plan a trip to Rome.", "Draft an email to my landlord.",
    "What does photosynthesis mean?", "Fix the bug in this program.", "Give me a recipe for soup.",
)  # fmt: skip
_DEVIATIONS, _NORMAL = 2.5, 1.4826


@torch.no_grad()
def calibrate(
    cosines: Callable[[Sequence[str], Sequence[str]], Float[Tensor, "B K"]], names: Sequence[str]
) -> float:
    """The threshold for the adapters of these names; `cosines` are a router's, of requests with tasks."""
    nearest_B = cosines(EVERYDAY, names).double().amax(-1)
    middle = nearest_B.median()
    return float(middle + _DEVIATIONS * _NORMAL * (nearest_B - middle).abs().median())
