"""A few fixed questions with checkable answers: whether the model answers sensibly at all, and whether another quantisation does.

It finds a server that is broken (a wrong chat template, damaged weights, a quantisation that does not suit the card); it is no
measure of how good a model is. The margin was stated before anything was measured: nine of twelve. A model that answers each
question correctly with 95 % passes in 99.8 % of all runs; one that guesses does not come near. The answers are taken with
temperature 0, and are in the record, so that two quantisations can be compared question by question.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from bringup.smoke.client import Ask, Client
from bringup.smoke.model import Quality, QualityAnswer

AT_LEAST = 9
_ANSWER_TOKENS = 400
"""Enough for a model that calculates aloud before it answers."""
_KEPT_CHARS = 600


@dataclass(frozen=True)
class Question:
    """One question, and a check of its answer."""

    key: str
    text: str
    expected: str
    """In words, for people."""
    is_right: Callable[[str], bool]


def _last_number(expected: float) -> Callable[[str], bool]:
    """Check the last number of an answer, since what is calculated aloud comes before it."""

    def is_right(answer: str) -> bool:
        numbers = re.findall(r"-?\d+(?:\.\d+)?", answer.replace(",", ""))
        return bool(numbers) and float(numbers[-1]) == expected

    return is_right


def _holds(pattern: str) -> Callable[[str], bool]:
    return lambda answer: re.search(pattern, answer, re.IGNORECASE) is not None


_NUMBER_ONLY = " Answer with the number alone."

QUESTIONS = (
    Question("product", "What is 17 × 24?" + _NUMBER_ONLY, "408", _last_number(408)),
    Question("sum-symbol", "Compute ∑_{k=1}^{10} k." + _NUMBER_ONLY, "55", _last_number(55)),
    Question("integral", "Compute ∫₀² 3x² dx." + _NUMBER_ONLY, "8", _last_number(8)),
    Question("root", "What is √144 + 2³?" + _NUMBER_ONLY, "20", _last_number(20)),
    Question("set", "How many elements has {1, 2, 3} ∪ {3, 4, 5}?" + _NUMBER_ONLY, "5", _last_number(5)),
    Question(
        "chinese-arithmetic", "小明有 15 个苹果，送给小红 6 个，又买了 8 个。现在有多少个？只回答数字。", "17", _last_number(17)
    ),
    Question("chinese-fact", "中华人民共和国的首都是哪座城市？只回答城市名。", "北京", _holds("北京")),
    Question("translation", "Translate into Chinese, one word only: water", "水", _holds("水")),
    Question(
        "python-result",
        "What does this Python expression evaluate to? len([n for n in range(20) if n % 3 == 0])" + _NUMBER_ONLY,
        "7",
        _last_number(7),
    ),
    Question(
        "python-code",
        "Write a Python function named add that returns the sum of its two arguments a and b. Code only.",
        "def add(a, b): return a + b",
        _holds(r"def\s+add\s*\(\s*a[^)]*,\s*b[^)]*\)[^:]*:[\s\S]*return\s+\(?\s*(a\s*\+\s*b|b\s*\+\s*a)"),
    ),
    Question(
        "json",
        'Reply with nothing but a JSON object with the key "ok" and the value true.',
        '{"ok": true}',
        _holds(r'\{\s*"ok"\s*:\s*true\s*\}'),
    ),
    Question("fact", "What is the chemical symbol of gold? Answer with the symbol alone.", "Au", _holds(r"\bAu\b")),
)


async def ask_all(client: Client) -> Quality:
    """Ask every question once, one after the other."""
    answers = []
    for question in QUESTIONS:
        ask = Ask(prompt=question.text, output_tokens=_ANSWER_TOKENS, exact=False, temperature=0)
        sample, text = await client.send_for_text(ask)
        answers.append(
            QualityAnswer(
                key=question.key,
                question=question.text,
                expected=question.expected,
                answer=f"request failed: {sample.error}" if sample.error else text.strip()[-_KEPT_CHARS:],
                correct=sample.error is None and question.is_right(text),
            )
        )
    correct = sum(answer.correct for answer in answers)
    return Quality(
        answers=tuple(answers),
        correct=correct,
        at_least=AT_LEAST,
        outcome="PASS" if correct >= AT_LEAST else "FAIL",
        rule=f"at least {AT_LEAST} of {len(QUESTIONS)} fixed questions answered correctly, at temperature 0",
    )
