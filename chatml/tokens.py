"""Control tokens by id, and an encoder whose output never contains them, whatever the text spells.

A tokenizer searches a text for its added tokens first, so content that spells `<|im_end|>` would end the turn.
`split_special_tokens=True` does not prevent that: it ignores only added tokens that are marked special, which
`<tool_call>` is not. So the encoder here is the tokenizer (model, normaliser, pre-tokenizer) rebuilt without added
tokens. If the model's vocabulary contains an added token, it is removed from the vocabulary as well.

Some tokenizers have added tokens for ordinary text; Gemma 3 has them for line breaks, tabs and HTML tags. The encoder
keeps these, since the model knows no other token for such text. `_is_text` decides which ones: white space and HTML
tags that are not marked special and not one of the tokenizer's own (its end-of-text token, for example).

Qwen's `make_context`, used for chat, is as strict; its `finetune.py` turns spelled control tokens into real ones.
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
"""markers that our tool formats and reasoning blocks add"""
_WHITE_SPACE = re.compile(r"[\s▁]+")
_HTML_TAG = re.compile(
    "</?(a|b|blockquote|body|br|caption|code|div|em|footer|h[1-6]|head|header|hr|html|i|iframe|img|li|ol|p|pre|s|span|"
    "strike|strong|sub|sup|table|tbody|td|tfoot|th|thead|title|tr|u|ul)>"
)
Place = Literal["alone", "after_token", "inside"]
"""position of a text: by itself, after an added token, or after other text; it matters only to tokenizers that put a
space before a text (`chatml.prefix`)"""


class TokenizerError(ValueError):
    """The tokenizer cannot encode ChatML."""


@dataclass(frozen=True, slots=True)
class Control:
    """Ids of the control tokens, and of added tokens with a meaning here."""

    im_start: int
    im_end: int
    endoftext: int
    bos: int | None
    """the token at the start of every sequence, if the tokenizer puts one before plain text; else None"""
    markers: Mapping[str, int]
    """marker -> id, for those of MARKERS that are added tokens of this tokenizer; used by the tool formats alone"""
    text: frozenset[int]
    """added tokens that are ordinary text (white space, HTML tags); the encoder may use them"""


def control(tokenizer: Any) -> Control:
    """Return the control ids of a fast tokenizer.

    Raise TokenizerError if the tokenizer is not fast or lacks <|im_start|>, <|im_end|> or <|endoftext|>.
    """
    return _known(tokenizer).control


def plain_encoder(tokenizer: Any) -> "PlainEncoder":
    """Return the encoder of `tokenizer` without added tokens; it is cached, and rebuilt if tokens have been added."""
    return _known(tokenizer).plain


def cached_control_and_encoder(tokenizer: Any) -> tuple[Control, "PlainEncoder"]:
    """Return `control` and `plain_encoder` from the cache, without checking for tokens added since.

    That check takes 9 ms with the 6,000 added tokens of Gemma 3.
    """
    known = _KNOWN.get(tokenizer) or _known(tokenizer)
    return known.control, known.plain


class PlainEncoder:
    """Encodes text to token ids; text that spells a control token stays text. `batch` uses all cores."""

    def __init__(self, backend: Tokenizer, text: frozenset[int]) -> None:
        spec = json.loads(backend.to_str())
        added = {token["id"]: token["content"] for token in spec["added_tokens"] if token["id"] not in text}
        for name in (IM_START, IM_END, END_OF_TEXT):  # A vocabulary may contain them without listing them as added.
            if (found := backend.token_to_id(name)) is not None:
                added[found] = name
        kept = [token for token in spec["added_tokens"] if token["id"] in text]
        spec.update(added_tokens=kept, post_processor=None, truncation=None, padding=None)
        if spec["model"]["type"] == "BPE":
            _remove_added_tokens(spec["model"], added)
            spec["model"]["vocab"] |= {token["content"]: token["id"] for token in kept}
        alone = Tokenizer.from_str(json.dumps(spec))
        prefix = prefix_of(spec)
        inside = alone if prefix == "none" else Tokenizer.from_str(json.dumps(without_prefix(spec)))
        self._backends: dict[Place, Tokenizer] = {
            "alone": alone,
            "after_token": alone if prefix == "every" else inside,
            "inside": inside,
        }
        # Added tokens that could not be removed (the unknown token; models other than BPE): outputs are checked.
        vocabulary = alone.get_vocab()
        reachable = set(vocabulary.values())
        self._reachable = {i: content for i, content in added.items() if i in reachable}
        byte_level = isinstance(backend.decoder, decoders.ByteLevel)
        self._missing = set(pre_tokenizers.ByteLevel.alphabet()) - vocabulary.keys() if byte_level else set()

    def __call__(self, text: str, place: Place = "alone") -> list[int]:
        return self.batch([text], place)[0]

    def batch(self, texts: Sequence[str], place: Place = "alone") -> list[list[int]]:
        """Return the token ids of each text.

        Raise RecordError if a text would be encoded with a control token, or has a character without a token.
        """
        for text in texts if self._missing else ():
            if lost := self.lost(text):
                raise RecordError(f"the tokenizer has no token for {lost[0]!r}, which would be lost; remove it")
        return [self._checked(encoding.ids) for encoding in self._backends[place].encode_batch_fast(texts)]

    def lost(self, text: str) -> list[str]:
        """Return the characters that the tokenizer would drop: a byte-level vocabulary may lack rare bytes."""
        if self._missing.isdisjoint(_byte_letters(text)):
            return []
        return [
            character for character in dict.fromkeys(text) if not self._missing.isdisjoint(_byte_letters(character))
        ]

    def _checked(self, ids: list[int]) -> list[int]:
        if self._reachable and not self._reachable.keys().isdisjoint(ids):
            content = next(self._reachable[i] for i in ids if i in self._reachable)
            raise RecordError(
                f"the text would be encoded as the tokenizer's added token {content!r}; "
                "change the text, or use a byte-level tokenizer"
            )
        return ids


_BYTE_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _byte_letters(text: str) -> set[str]:
    """Return the letters that stand for the bytes of a text in a byte-level vocabulary."""
    return {letter for piece, _ in _BYTE_LEVEL.pre_tokenize_str(text) for letter in piece}


class _Known(NamedTuple):
    added: dict[int, str]
    control: Control
    plain: PlainEncoder


_KNOWN: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


def _known(tokenizer: Any) -> _Known:
    if not tokenizer.is_fast:
        raise TokenizerError(f"{type(tokenizer).__name__} is not a fast tokenizer; load one with a tokenizer.json")
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
        im_start=ids[IM_START],
        im_end=ids[IM_END],
        endoftext=ids[END_OF_TEXT],
        bos=bos if bos is not None and begins[:1] == [bos] else None,
        markers={token.content: i for i, token in added.items() if token.content in MARKERS},
        text=frozenset(i for i, token in added.items() if _is_text(token, i, tokenizer)),
    )


def _is_text(token: AddedToken, token_id: int, tokenizer: Any) -> bool:
    if token.special or token.lstrip or token.rstrip or token.content in tokenizer.all_special_tokens:
        return False
    if not (_WHITE_SPACE.fullmatch(token.content) or _HTML_TAG.fullmatch(token.content)):
        return False
    # Only to a BPE vocabulary can a missing token be added.
    model = tokenizer.backend_tokenizer.model
    return isinstance(model, models.BPE) or model.token_to_id(token.content) == token_id


def _remove_added_tokens(model: dict[str, Any], added: dict[int, str]) -> None:
    """Remove the added tokens from a BPE model's vocabulary, and the merges that need them (in place).

    The unknown token stays: without it, text that the model cannot encode would be lost. Raise TokenizerError if an
    added token is the only token for a character.
    """
    gone = {token for token, i in model["vocab"].items() if i in added and token != model.get("unk_token")}
    if not gone:
        return
    single = sorted(token for token in gone if len(token) == 1)
    if single:
        raise TokenizerError(
            f"the tokenizer has {', '.join(map(repr, single))} as an added token, but text cannot be encoded "
            "without it; use another token in its place (for padding: <|endoftext|>)"
        )
    prefix = model.get("continuing_subword_prefix") or ""

    def stays(merge: list[str] | str) -> bool:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        return gone.isdisjoint((left, right, left + right.removeprefix(prefix)))

    model["merges"] = [merge for merge in model["merges"] if stays(merge)]
    model["vocab"] = {token: i for token, i in model["vocab"].items() if token not in gone}
