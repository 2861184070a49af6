"""Text as words, and runs of words: what duplicates and overlaps are found by.

A word is a run of letters and digits in lower case; punctuation and white space count for nothing (Brown et al. 2020,
appendix C). Chinese characters and Japanese kana, written without spaces, are a word each: our choice.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def grams(texts: Iterable[str], length: int) -> Iterator[tuple[str, ...]]:
    """Every run of `length` words; none reaches from one text into the next, and shorter texts have none."""
    for text in texts:
        found = words(text)
        yield from zip(*(found[start:] for start in range(length)), strict=False)
