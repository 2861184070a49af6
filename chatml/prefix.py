"""Tokenizers that put a space before a text: those of Llama 2, Mistral and others made with sentencepiece.

They encode `Hi` as `▁Hi`. Some do so after every added token, others only at the start of their input. Text that
follows other text never gets the space.
"""

from collections.abc import Iterator
from typing import Any, Literal

Prefix = Literal["none", "first", "every"]
"""which texts get the space: none, the first text of the input, or every text after an added token as well"""


def prefix_of(spec: dict[str, Any]) -> Prefix:
    """Return where a tokenizer puts its space. `spec` is the content of its tokenizer.json."""
    found: Prefix = "none"
    for step in (*_steps(spec["normalizer"]), *_steps(spec["pre_tokenizer"])):
        kind, scheme = step["type"], step.get("prepend_scheme")
        if kind == "Prepend" or scheme == "always" or (kind == "ByteLevel" and step.get("add_prefix_space")):
            return "every"
        if scheme == "first":
            found = "first"
    return found


def without_prefix(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the content of tokenizer.json changed so that the tokenizer puts no space."""
    kept = {
        name: _chain([_unspaced(step) for step in _steps(spec[name]) if step["type"] != "Prepend"], inner)
        for name, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"))
    }
    return {**spec, **kept}


def _steps(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normaliser or a pre-tokenizer, with nested sequences flattened."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for step in part.get("normalizers") or part.get("pretokenizers") or ():
        yield from _steps(step)


def _unspaced(step: dict[str, Any]) -> dict[str, Any]:
    if step["type"] == "Metaspace":
        return {**step, "prepend_scheme": "never"}
    return {**step, "add_prefix_space": False} if step.get("add_prefix_space") else step


def _chain(steps: list[dict[str, Any]], inner: str) -> dict[str, Any] | None:
    if len(steps) < 2:
        return steps[0] if steps else None
    return {"type": "Sequence", inner: steps}
