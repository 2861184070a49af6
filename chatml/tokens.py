"""Control tokens by id, and text encoded so that it can never become one.

A tokenizer looks for its added tokens in the text before its model sees it: content that spells `<|im_end|>` then ends
the turn. `split_special_tokens=True` does not prevent that, because it leaves the added tokens that are not marked
special (`<tool_call>`). Here the tokenizer's own model, with its normaliser and its splitting, is rebuilt without
added tokens; where the model's vocabulary lists one all the same, it is taken out of the vocabulary.

Some tokenizers declare ordinary text an added token: Gemma 3 its line breaks, tabs and HTML tags. Such tokens stay,
since the model knows these texts by no other token. Which they are is a closed list (`_is_text`): white space, and HTML
tags, where they are neither special nor named by the tokenizer (as its end token, say).

Qwen's own `make_context`, which chats, is as strict; its `finetune.py` lets spelled control tokens become real ones.
"""

import json
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from chatml.messages import RecordError
from chatml.prefix import prefix_of, without_prefix

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
TOOL_MARKERS = ("<tools>", "</tools>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
THINK, THINK_END = "<think>", "</think>"
MARKERS = (*TOOL_MARKERS, THINK, THINK_END)
"""what our own forms put around tools and reasoning"""
_WHITE_SPACE = re.compile(r"[\s▁]+")
_HTML_TAG = re.compile(
    "</?(a|b|blockquote|body|br|caption|code|div|em|footer|h[1-6]|head|header|hr|html|i|iframe|img|li|ol|p|pre|s|span|"
    "strike|strong|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|u|ul)>"
)
Place = Literal["alone", "after_token", "inside"]
"""where a text stands: by itself, after an added token, or after other text; tokenizers that put a space before a text
(`chatml.prefix`) tell these apart, others do not"""


class TokenizerError(ValueError):
    """A tokenizer that ChatML cannot be written with."""


@dataclass(frozen=True, slots=True)
class Control:
    """Ids of the tokens that give a conversation its form."""

    im_start: int
    im_end: int
    endoftext: int
    bos: int | None
    """put once at the start, by models whose tokenizer puts it before plain text too; None for the others"""
    markers: Mapping[str, int]
    """those of MARKERS that are added tokens of this tokenizer, for our own forms' use"""
    text: frozenset[int]
    """added tokens that are ordinary text (white space, HTML tags), which any text may become"""


def control(tokenizer: Any) -> Control:
    """The control ids of a fast tokenizer. Raises TokenizerError where one of the three ChatML tokens is missing."""
    return _known(tokenizer).control


def plain_encoder(tokenizer: Any) -> "PlainEncoder":
    """The encoder of `tokenizer` that knows no added token; built once, and again when tokens have been added."""
    return _known(tokenizer).plain


def known_before(tokenizer: Any) -> tuple[Control, "PlainEncoder"]:
    """Both, without looking for tokens added since the others were called: that takes 9 ms for Gemma 3's 6,000."""
    known = _KNOWN.get(tokenizer) or _known(tokenizer)
    return known.control, known.plain


class PlainEncoder:
    """Text to token ids, whatever the text spells. Call it for one text; `batch` for many, on all cores."""

    def __init__(self, backend: Tokenizer, text: frozenset[int]) -> None:
        spec = json.loads(backend.to_str())
        added = {token["id"]: token["content"] for token in spec["added_tokens"] if token["id"] not in text}
        for name in (IM_START, IM_END, END_OF_TEXT):  # a vocabulary may list them without declaring them added
            if (found := backend.token_to_id(name)) is not None:
                added[found] = name
        kept = [token for token in spec["added_tokens"] if token["id"] in text]
        spec.update(added_tokens=kept, post_processor=None, truncation=None, padding=None)
        if spec["model"]["type"] == "BPE":
            _remove(spec["model"], added)
            spec["model"]["vocab"] |= {token["content"]: token["id"] for token in kept}
        alone = Tokenizer.from_str(json.dumps(spec))
        prefix = prefix_of(spec)
        inside = alone if prefix == "none" else Tokenizer.from_str(json.dumps(without_prefix(spec)))
        self._backends: dict[Place, Tokenizer] = {
            "alone": alone,
            "after_token": alone if prefix == "every" else inside,
            "inside": inside,
        }
        # What could not be taken out of the model (the unknown token; other kinds of model) is looked for every time.
        vocabulary = alone.get_vocab()
        reachable = set(vocabulary.values())
        self._reachable = {i: content for i, content in added.items() if i in reachable}
        byte_level = isinstance(backend.decoder, decoders.ByteLevel)
        self._missing = set(pre_tokenizers.ByteLevel.alphabet()) - vocabulary.keys() if byte_level else set()

    def __call__(self, text: str, place: Place = "alone") -> list[int]:
        return self.batch([text], place)[0]

    def batch(self, texts: Sequence[str], place: Place = "alone") -> list[list[int]]:
        """Token ids of each text.

        Raises RecordError where the model itself would write an added token, and where it has no token for a character.
        """
        for text in texts if self._missing else ():
            if lost := self.lost(text):
                raise RecordError(f"the tokenizer has no token for {lost[0]!r}, which would vanish; take it out")
        return [self._checked(encoding.ids) for encoding in self._backends[place].encode_batch_fast(texts)]

    def lost(self, text: str) -> list[str]:
        """Characters of a text that the tokenizer would leave out: a byte-level vocabulary may lack rare bytes."""
        if self._missing.isdisjoint(_letters(text)):
            return []
        return [character for character in dict.fromkeys(text) if not self._missing.isdisjoint(_letters(character))]

    def _checked(self, ids: list[int]) -> list[int]:
        if self._reachable and not self._reachable.keys().isdisjoint(ids):
            content = next(self._reachable[i] for i in ids if i in self._reachable)
            raise RecordError(
                f"the text would become the tokenizer's own token {content!r}, which text must never do; "
                "change the text, or use a byte-level tokenizer"
            )
        return ids


_BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _letters(text: str) -> set[str]:
    """Return the letters by which a byte-level vocabulary writes the bytes of a text."""
    return {letter for piece, _ in _BYTE_LEVEL.pre_tokenize_str(text) for letter in piece}


class _Known(NamedTuple):
    added: dict[int, str]
    control: Control
    plain: PlainEncoder


_KNOWN: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


def _known(tokenizer: Any) -> _Known:
    if not tokenizer.is_fast:
        raise TokenizerError(f"{type(tokenizer).__name__} is no fast tokenizer; load one with a tokenizer.json")
    backend = tokenizer.backend_tokenizer
    tokens = backend.get_added_tokens_decoder()
    added = {i: token.content for i, token in tokens.items()}
    known = _KNOWN.get(tokenizer)
    if known is None or known.added != added:
        ids = _control(tokenizer, tokens)
        known = _KNOWN[tokenizer] = _Known(added, ids, PlainEncoder(backend, ids.text))
    return known


def _control(tokenizer: Any, added: Mapping[int, AddedToken]) -> Control:
    ids = {name: tokenizer.backend_tokenizer.token_to_id(name) for name in (IM_START, IM_END, END_OF_TEXT)}
    missing = [name for name, found in ids.items() if found is None]
    if missing:
        raise TokenizerError(f"the tokenizer has no {', '.join(missing)}; add the ChatML tokens to it first")
    begins = tokenizer("")["input_ids"]
    bos = tokenizer.bos_token_id
    return Control(
        *ids.values(),
        bos=bos if bos is not None and begins[:1] == [bos] else None,
        markers={token.content: i for i, token in added.items() if token.content in MARKERS},
        text=frozenset(i for i, token in added.items() if _is_text(token, i, tokenizer)),
    )


def _is_text(token: AddedToken, token_id: int, tokenizer: Any) -> bool:
    if token.special or token.lstrip or token.rstrip or token.content in tokenizer.all_special_tokens:
        return False
    if not (_WHITE_SPACE.fullmatch(token.content) or _HTML_TAG.fullmatch(token.content)):
        return False
    # Only a BPE model can be given a token that its vocabulary does not list.
    model = tokenizer.backend_tokenizer.model
    return isinstance(model, models.BPE) or model.token_to_id(token.content) == token_id


def _remove(model: dict[str, Any], added: dict[int, str]) -> None:
    """Take the added tokens out of a BPE model's vocabulary, and the merges that need them (in place).

    The unknown token stays: without it text that the model cannot write would vanish. Raises TokenizerError where an
    added token is the only way to write a character.
    """
    gone = {token for token, i in model["vocab"].items() if i in added and token != model.get("unk_token")}
    if not gone:
        return
    single = sorted(token for token in gone if len(token) == 1)
    if single:
        raise TokenizerError(
            f"the tokenizer declares {', '.join(map(repr, single))} an added token, but text cannot be written "
            "without it; use another token in its place (for padding: <|endoftext|>)"
        )
    prefix = model.get("continuing_subword_prefix") or ""

    def stays(merge: list[str] | str) -> bool:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        return gone.isdisjoint((left, right, left + right.removeprefix(prefix)))

    model["merges"] = [merge for merge in model["merges"] if stays(merge)]
    model["vocab"] = {token: i for token, i in model["vocab"].items() if token not in gone}
