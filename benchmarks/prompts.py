"""Questions to ask: always the same ones, no two alike from their first word on.

What two prompts have in common a server may keep from one to the next. So each measurement
that wants a prompt to be read takes a number that was not used before.
"""

from __future__ import annotations

import random
from typing import Any

_WHO = [
    "A baker",
    "The captain",
    "My neighbour",
    "An old painter",
    "One nurse",
    "Our teacher",
    "Some farmer",
    "That clerk",
]
_DID = [
    "bought",
    "lost",
    "repaired",
    "described",
    "measured",
    "forgot",
    "painted",
    "carried",
    "admired",
    "counted",
]
_WHAT = [
    "a lantern",
    "two maps",
    "the green door",
    "seven letters",
    "an engine",
    "a wet coat",
    "some copper wire",
    "the last train ticket",
    "a basket of pears",
    "three clocks",
]
_WHERE = [
    "by the river",
    "in the attic",
    "near the station",
    "under a bridge",
    "at the market",
    "behind the mill",
    "on the island",
    "outside the library",
]
_WORDS_A_SENTENCE = 8


def story(number: int, words: int) -> str:
    """About so many words of prose. Different numbers differ from the beginning."""
    chance = random.Random(number)  # noqa: S311
    sentences = [f"Report {number:,}."]
    for _ in range(max(1, words // _WORDS_A_SENTENCE)):
        parts = (chance.choice(column) for column in (_WHO, _DID, _WHAT, _WHERE))
        sentences.append(" ".join(parts) + ".")
    return " ".join(sentences)


def chat(system: str, question: str, *, tokens: int, forbidden: tuple[int, ...]) -> dict[str, Any]:
    """The body of a streamed chat request that is answered with exactly so many tokens:
    the `forbidden` ones are those that would end it."""
    messages = [{"role": "system", "content": system}] if system else []
    return {
        "messages": [*messages, {"role": "user", "content": question}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "max_tokens": tokens,
        "logit_bias": {str(token): -100 for token in forbidden},
    }
