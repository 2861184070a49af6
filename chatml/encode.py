"""Encode conversations as token ids and labels.

    <|im_start|>role⏎content<|im_end|>⏎        per turn; <BOS> before the first turn if the model's format requires it

Control tokens are inserted by id. Role, newline and content are encoded separately, by an encoder without added tokens
(`chatml.tokens`). Text that is trained on and text that is masked are encoded separately too, so no token spans both.
A tokenizer that puts a space before a text does so where it would in the whole conversation (`chatml.prefix`).

The mask decides which tokens are trained on:

- `assistant`: the assistant's text and its <|im_end|>; not the newline after it.
- `qwen`: as Qwen's published `finetune.py`: the tokens of `assistant`, and the <|im_start|>, the <|im_end|> and the
  newline after it of every turn, whatever its role. The role, the newline after it, and the text of system and user
  turns are masked.
- `all`: every token.

Under `assistant` and `qwen`, messages with `train: false` are masked. So are tool results and assistant messages that
are only white space, which Qwen's code trains on. `train_on: last_answer` masks all turns but the assistant's last one.
The first token of a sequence is never a target, since no token precedes it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from chatml.forms import read_messages, read_tools
from chatml.messages import Message
from chatml.parsing import parse_messages
from chatml.tokens import Control, Place, PlainEncoder, cached_control_and_encoder, control, plain_encoder
from chatml.tools import ToolFormat, render
from chatml.turns import Turn

Mask = Literal["assistant", "qwen", "all"]
TrainOn = Literal["every_answer", "last_answer"]
IGNORE = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of one sequence: `labels` equal `input_ids` where a token is trained on, and are -100 (IGNORE) elsewhere.

    Labels are not shifted.
    """

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """Tokens of one turn, from <|im_start|> to the newline after <|im_end|>."""

    turn: Turn
    input_ids: list[int]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.input_ids)


def encode(
    messages: Sequence[Message | Mapping[str, Any]],
    tokenizer: Any,
    *,
    mask: Mask = "assistant",
    train_on: TrainOn = "every_answer",
    tools: Any = None,
    add_generation_prompt: bool = False,
    tool_format: ToolFormat = "hermes",
    parse_text: bool = False,
    up_to_end: bool = False,
) -> Encoded:
    """Return the token ids and labels of one conversation.

    Args:
        messages: Messages, or mappings with role and content (optionally train, tool_calls, reasoning_content, name).
        tokenizer: a fast tokenizer of transformers with the tokens <|im_start|>, <|im_end|> and <|endoftext|>.
        mask: which tokens are trained on; see the module's docstring.
        train_on: all assistant turns, or the last one only; ignored under the mask `all`.
        tools: a list of function signatures, or None.
        add_generation_prompt: append <|im_start|>assistant⏎.
        tool_format: how tools, calls and results are rendered as text.
        parse_text: parse reasoning and tool calls from the assistant's text first (`chatml.parsing`).
        up_to_end: leave out the newline after the last <|im_end|>, where reward models read the score. An unfinished
            turn (ReAct) has neither.

    Raise RecordError if the conversation cannot be encoded, TokenizerError if the tokenizer cannot encode ChatML, and
    ValueError for `up_to_end` with `add_generation_prompt`.
    """
    if up_to_end and add_generation_prompt:
        raise ValueError("up_to_end and add_generation_prompt exclude each other; give one of them")
    given = read_messages(messages, "messages")
    turns = render(parse_messages(given) if parse_text else given, read_tools(tools), tool_format)
    (encoded,) = encode_turns([turns], tokenizer, mask, train_on)
    whole = join(encoded, tokenizer, add_generation_prompt=add_generation_prompt)
    if not up_to_end or encoded[-1].turn.unfinished:
        return whole
    length = len(whole.input_ids) - len(plain_encoder(tokenizer)("\n", "after_token"))
    return Encoded(whole.input_ids[:length], whole.labels[:length])


def encode_turns(
    conversations: Iterable[Sequence[Turn]], tokenizer: Any, mask: Mask, train_on: TrainOn = "every_answer"
) -> list[list[EncodedTurn]]:
    """Encode the turns of many conversations separately, so that whole turns can be dropped before `join`.

    All texts go through the tokenizer in one call, which uses all cores. `train_on` is ignored under the mask `all`.
    Raise RecordError if a text cannot be encoded, TokenizerError if the tokenizer cannot encode ChatML.
    """
    for what, given, known in (("mask", mask, get_args(Mask)), ("train_on", train_on, get_args(TrainOn))):
        if given not in known:
            raise ValueError(f"unknown {what} {given!r}; use {', '.join(known)}")
    conversations = [list(turns) for turns in conversations]
    plain, ids = plain_encoder(tokenizer), control(tokenizer)
    bodies = _bodies([turn for turns in conversations for turn in turns], plain, ids.markers)
    newline = plain("\n", "after_token")
    headers = {role: _header(role, ids, plain) for role in {turn.role for turns in conversations for turn in turns}}

    def encode_turn(turn: Turn, masked: bool) -> EncodedTurn:
        content, labels = next(bodies)
        end = [] if turn.unfinished else [ids.im_end, *newline]
        tokens = [*headers[turn.role], *content, *end]
        if mask == "all":
            return EncodedTurn(turn, tokens, tokens)
        if masked:
            return EncodedTurn(turn, tokens, [IGNORE] * len(tokens))
        above, below = [IGNORE] * len(headers[turn.role]), [IGNORE] * len(end)
        if mask == "qwen" and not turn.excluded:
            above[0], below = ids.im_start, end
        elif turn.parts[-1].learn and end:
            below[0] = ids.im_end
        return EncodedTurn(turn, tokens, [*above, *labels, *below])

    encoded = []
    for turns in conversations:
        answers = [at for at, turn in enumerate(turns) if turn.role == "assistant"]
        last = answers[-1] if answers and train_on == "last_answer" else None
        encoded.append([encode_turn(turn, last not in (None, at)) for at, turn in enumerate(turns)])
    return encoded


def join(turns: Sequence[EncodedTurn], tokenizer: Any, *, add_generation_prompt: bool = False) -> Encoded:
    """Join turns to one sequence: the tokenizer's BOS (if it has one), the turns, the generation prompt (if asked for).

    After an unfinished turn (ReAct), which the assistant continues, no generation prompt is added.
    """
    known, plain = cached_control_and_encoder(tokenizer)
    ids, labels = ([], []) if known.bos is None else ([known.bos], [IGNORE])
    for turn in turns:
        ids += turn.input_ids
        labels += turn.labels
    if add_generation_prompt and not (turns and turns[-1].turn.unfinished):
        header = _header("assistant", known, plain)
        ids += header
        labels += [IGNORE] * len(header)
    if labels:
        labels[0] = IGNORE
    return Encoded(ids, labels)


def generation_prompt(tokenizer: Any) -> list[int]:
    """Return the tokens of <|im_start|>assistant⏎."""
    return header("assistant", tokenizer)


def header(role: str, tokenizer: Any) -> list[int]:
    """Return the tokens of <|im_start|>role⏎."""
    return _header(role, control(tokenizer), plain_encoder(tokenizer))


def _header(role: str, ids: Control, plain: PlainEncoder) -> list[int]:
    return [ids.im_start, *plain(role, "after_token"), *plain("\n", "inside")]


def _bodies(
    turns: Sequence[Turn], plain: PlainEncoder, markers: Mapping[str, int]
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield token ids and labels of each turn's text."""
    pieces = [_pieces(turn, markers) for turn in turns]
    # The two sides of a comparison repeat the same prompt, so equal texts are encoded once.
    tokens_of: dict[tuple[str, Place], list[int]] = {}
    places: tuple[Place, ...] = ("inside", "after_token")
    for place in places:
        texts = list(dict.fromkeys(piece.text for turn in pieces for piece in turn if piece.place == place))
        found = plain.batch(texts, place) if texts else []
        tokens_of |= {(text, place): ids for text, ids in zip(texts, found, strict=True)}
    for turn in pieces:
        tokens: list[int] = []
        labels: list[int] = []
        for piece in turn:
            ids = [piece.marker] if piece.place is None else tokens_of[piece.text, piece.place]
            tokens += ids
            labels += ids if piece.learn else [IGNORE] * len(ids)
        yield tokens, labels


class _Piece(NamedTuple):
    """A part of a turn that is encoded separately: text, or a marker token."""

    text: str
    learn: bool
    place: Place | None
    """None for a marker"""
    marker: int = -1
    """the id of a marker token"""


def _pieces(turn: Turn, markers: Mapping[str, int]) -> list[_Piece]:
    """Merge parts with the same label; parts with different labels stay separate, so that no token spans both."""
    pieces: list[_Piece] = []
    for text, learn, marker in turn.parts:
        last = pieces[-1] if pieces else None
        if marker and text in markers:
            pieces.append(_Piece(text, learn, None, markers[text]))
        elif last and last.place and last.learn == learn:
            pieces[-1] = last._replace(text=last.text + text)
        else:
            pieces.append(_Piece(text, learn, "after_token" if last and last.place is None else "inside"))
    return pieces
