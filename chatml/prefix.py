"""Tokenizers that put a space before a text: those of Llama 2, Mistral and others made by sentencepiece.

`Hi` alone then becomes `▁Hi`. Where a tokenizer does it matters: before every stretch between added tokens, or only at
the very beginning of what it is given. Text that goes on after other text never gets one.
"""

from collections.abc import Iterator
from typing import Any, Literal

Prefix = Literal["none", "first", "every"]
"""before which stretches of text the space is put: before none, before the first of an input, or before every one"""


def prefix_of(spec: dict[str, Any]) -> Prefix:
    """Return where a tokenizer puts its space. `spec` is a tokenizer.json as a dict."""
    found: Prefix = "none"
    for step in (*_steps(spec["normalizer"]), *_steps(spec["pre_tokenizer"])):
        kind, scheme = step["type"], step.get("prepend_scheme")
        if kind == "Prepend" or scheme == "always" or (kind == "ByteLevel" and step.get("add_prefix_space")):
            return "every"
        if scheme == "first":
            found = "first"
    return found


def without_prefix(spec: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer.json of the same tokenizer without its space."""
    kept = {name: _chain([_unspaced(step) for step in _steps(spec[name]) if step["type"] != "Prepend"], inner)
            for name, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers"))}  # fmt: skip
    return {**spec, **kept}


def _steps(part: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the steps of a normaliser or a pre-tokenizer, sequences within sequences flattened."""
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
