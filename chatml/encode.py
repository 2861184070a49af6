"""Conversations to token ids and labels, piece by piece.

    <|im_start|>role⏎content<|im_end|>⏎        once a turn; <BOS> before the first where the model's format demands one

Control tokens are put by id; role, newline and content are each encoded on their own by an encoder that knows no added
token (`chatml.tokens`), and so are stretches of content that are learnt and that are not. A tokenizer that puts a space
before a text does so where it would in the whole conversation (`chatml.prefix`). What the loss falls on is decided by
the mask:

- `assistant`: what the assistant says and its <|im_end|>, and nothing else; not the newline after it.
- `qwen`: what Qwen's published `finetune.py` trains on: besides that every turn's <|im_start|>, <|im_end|> and the
  newline after it, whoever speaks; not the role word, not the newline after that, not what system and user say.
- `all`: every token.

Under the first two a message with `train: false` takes no part, nor do, departing from Qwen's code, a tool's result and
an answer of nothing but white space. `last_answer` takes all turns out but the assistant's last. A sequence's first
token is never a target: nothing comes before it to predict it from.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from chatml.forms import read_messages, read_tools
from chatml.messages import Message
from chatml.parsing import parsed
from chatml.tokens import Control, Place, PlainEncoder, control, known_before, plain_encoder
from chatml.tools import ToolFormat, render
from chatml.turns import Turn

Mask = Literal["assistant", "qwen", "all"]
TrainOn = Literal["every_answer", "last_answer"]
IGNORE = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of one sequence; `labels` equal `input_ids` where the loss falls and are -100 elsewhere."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """Tokens of one turn with all that stands around its text, the newline after <|im_end|> included."""

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
) -> Encoded:
    """One conversation as token ids and labels, both of the same length.

    `messages` are Messages or mappings with role and content (and `train`, `tool_calls`, `reasoning_content`, `name`);
    `tools` is a list of function signatures; `tokenizer` a fast tokenizer of transformers that has the three ChatML
    tokens. With `add_generation_prompt` the sequence ends where the assistant is to begin. `parse_text` reads reasoning
    and calls that the assistant's text spells out (`chatml.parsing`). Raises RecordError, TokenizerError.
    """
    said = read_messages(messages, "messages")
    turns = render(parsed(said) if parse_text else said, read_tools(tools), tool_format)
    (encoded,) = encode_turns([turns], tokenizer, mask, train_on)
    return join(encoded, tokenizer, add_generation_prompt=add_generation_prompt)


def encode_turns(
    conversations: Iterable[Sequence[Turn]], tokenizer: Any, mask: Mask, train_on: TrainOn = "every_answer"
) -> list[list[EncodedTurn]]:
    """The turns of many conversations, each with its own tokens, so that whole turns can be left out before `join`.

    All texts go through the tokenizer in one call, which uses all cores. `train_on` has no say where the mask is `all`.
    """
    for what, given, known in (("mask", mask, get_args(Mask)), ("train_on", train_on, get_args(TrainOn))):
        if given not in known:
            raise ValueError(f"unknown {what} {given!r}; use {', '.join(known)}")
    conversations = [list(turns) for turns in conversations]
    plain, ids = plain_encoder(tokenizer), control(tokenizer)
    bodies = _bodies([turn for turns in conversations for turn in turns], plain, ids.markers)
    newline = plain("\n", "after_token")
    headers = {role: _header(role, ids, plain) for role in {turn.role for turns in conversations for turn in turns}}

    def around(turn: Turn, silent: bool) -> EncodedTurn:
        content, labels = next(bodies)
        end = [] if turn.unfinished else [ids.im_end, *newline]
        tokens = [*headers[turn.role], *content, *end]
        if mask == "all":
            return EncodedTurn(turn, tokens, tokens)
        if silent:
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
        encoded.append([around(turn, last not in (None, at)) for at, turn in enumerate(turns)])
    return encoded


def join(turns: Sequence[EncodedTurn], tokenizer: Any, *, add_generation_prompt: bool = False) -> Encoded:
    """One sequence of the turns: BOS where there is one, the turns, and the header of an answer to come."""
    known, plain = known_before(tokenizer)
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
    """The tokens that the assistant's answer follows: <|im_start|>assistant⏎."""
    return header("assistant", tokenizer)


def header(role: str, tokenizer: Any) -> list[int]:
    """The tokens before a turn's text: <|im_start|>role⏎."""
    return _header(role, control(tokenizer), plain_encoder(tokenizer))


def _header(role: str, ids: Control, plain: PlainEncoder) -> list[int]:
    return [ids.im_start, *plain(role, "after_token"), *plain("\n", "inside")]


def _bodies(
    turns: Sequence[Turn], plain: PlainEncoder, markers: Mapping[str, int]
) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids and labels of each turn's text."""
    pieces = [_pieces(turn, markers) for turn in turns]
    # Both sides of a comparison hold the same question: every text is encoded once.
    tokens_of: dict[tuple[str, Place], list[int]] = {}
    for place in ("inside", "after_token"):
        texts = list(dict.fromkeys(piece.content for turn in pieces for piece in turn if piece.place == place))
        found = plain.batch(texts, place) if texts else []
        tokens_of |= {(text, place): ids for text, ids in zip(texts, found, strict=True)}
    for turn in pieces:
        tokens, labels = [], []
        for content, learn, place in turn:
            ids = [content] if place is None else tokens_of[content, place]
            tokens += ids
            labels += ids if learn else [IGNORE] * len(ids)
        yield tokens, labels


class _Piece(NamedTuple):
    """What of a turn is encoded on its own: the text between markers, or the id of one."""

    content: str | int
    learn: bool
    place: Place | None
    """None of a marker"""


def _pieces(turn: Turn, markers: Mapping[str, int]) -> list[_Piece]:
    """Text that is learnt and text that is not never meet in a token."""
    pieces: list[_Piece] = []
    for text, learn, marker in turn.parts:
        last = pieces[-1] if pieces else None
        if marker and text in markers:
            pieces.append(_Piece(markers[text], learn, None))
        elif last and last.place and last.learn == learn:
            pieces[-1] = last._replace(content=last.content + text)
        else:
            pieces.append(_Piece(text, learn, "after_token" if last and last.place is None else "inside"))
    return pieces
