"""Split texts into words and sentences, for the gold score and the instructions."""

import re

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def words(text: str) -> list[str]:
    """Return the words and numbers of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    return [sentence for sentence in _SENTENCE_END.split(text.strip()) if sentence]


def occurs(phrase: list[str], text: list[str]) -> bool:
    """Return whether the words of `phrase` occur in `text` consecutively."""
    return bool(phrase) and any(text[i : i + len(phrase)] == phrase for i in range(len(text) - len(phrase) + 1))


def remove_phrase(phrase: list[str], text: list[str]) -> list[str]:
    """Return `text` without `phrase`; an empty word replaces each occurrence, so that its neighbours do not join."""
    left, i = [], 0
    while i < len(text):
        if phrase and text[i : i + len(phrase)] == phrase:
            left.append("")
            i += len(phrase)
        else:
            left.append(text[i])
            i += 1
    return left
