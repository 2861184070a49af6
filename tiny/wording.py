"""Texts as words: what the gold score and the instructions look at."""

import re

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def words(text: str) -> list[str]:
    """Words and numbers, small letters, no punctuation."""
    return _WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]


def occurs(phrase: list[str], text: list[str]) -> bool:
    """Whether the words of `phrase` stand in `text`, one after the other."""
    return bool(phrase) and any(text[i : i + len(phrase)] == phrase for i in range(len(text) - len(phrase) + 1))


def without(phrase: list[str], text: list[str]) -> list[str]:
    """`text` with every occurrence of `phrase` taken out; what stood around one does not become neighbours."""
    left, i = [], 0
    while i < len(text):
        if phrase and text[i : i + len(phrase)] == phrase:
            left.append("")
            i += len(phrase)
        else:
            left.append(text[i])
            i += 1
    return left
