"""Split text into words and runs of words, which duplicates and overlaps are found by.

A word is a run of letters and digits in lower case; punctuation and white space are ignored (Brown et al. 2020,
appendix C). Each Chinese character and Japanese kana is a word, since these are written without spaces; the paper does
not specify this.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(f"[{_UNSPACED}]|[^\\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFC", text).lower())


def word_ngrams(texts: Iterable[str], length: int) -> Iterator[tuple[str, ...]]:
    """Yield every run of `length` words within a text; runs do not cross from one text to the next."""
    for text in texts:
        found = words(text)
        yield from zip(*(found[start:] for start in range(length)), strict=False)
