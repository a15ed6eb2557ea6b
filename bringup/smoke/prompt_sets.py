"""Prompts that the project ships, and synthetic ones of a length in tokens as the server counts them."""

import random
from collections.abc import Awaitable, Callable
from importlib.resources import files

from bringup.smoke.model import PromptSet

_TRIES = 12
"""A tokenizer makes about as many tokens of twice as many words twice as many; a handful of steps settles the length."""


def shipped(name: PromptSet) -> tuple[str, ...]:
    """Return the prompts of a set, `advice` or `mixed`; they stand in `prompts/NAME.txt`, apart from each other by a line `%%`."""
    return tuple(part.strip() for part in _read(name).split("\n%%\n"))


def words(count: int, seed: int) -> str:
    """Return so many common English nouns, the same for the same seed; most tokenizers make about one token of each."""
    rng = random.Random(seed)  # noqa: S311 - it makes text, it guards nothing
    return " ".join(rng.choices(_read("words").split(), k=count))


async def synthetic(tokens: int, seed: int, count_tokens: Callable[[str], Awaitable[int | None]]) -> tuple[str, int] | None:
    """Return a prompt that the server counts as `tokens`, or as near below as words allow, and the count.

    Args:
        tokens: length to reach, with all that the server's chat template adds.
        seed: of the words.
        count_tokens: asks the server; None where it does not tell, which gives None.
    """
    low, best = 1, None
    asked = max(1, tokens - 16)
    for _ in range(_TRIES):
        text = words(asked, seed)
        found = await count_tokens(text)
        if found is None:
            return None
        if found <= tokens and (best is None or found > best[1]):
            best = (text, found)
        if found == tokens:
            break
        # the words' share of the tokens grows with their number; a step of at least one gets out of a rounded-off zero
        step = round((tokens - found) * asked / max(found, 1)) or (1 if found < tokens else -1)
        if found > tokens and asked == low:
            break
        asked = max(low, asked + step)
    return best


def _read(name: str) -> str:
    # importlib, not a path: on the host the package lies in a zip
    return files("bringup.smoke").joinpath("prompts", f"{name}.txt").read_text(encoding="utf-8")
