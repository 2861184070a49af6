"""Conversations to token ids and labels, piece by piece.

    <|im_start|>role⏎content<|im_end|>⏎        once a turn; <BOS> before the first where the model's format demands one

Control tokens are put by id; role, newline and content are each encoded on their own by an encoder that knows no added
token (`chatml.tokens`), and so are stretches of content that are learnt and that are not. What the loss falls on is
decided by the mask:

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
from typing import Any, Literal, get_args

from chatml.forms import read_messages, read_tools
from chatml.messages import Message
from chatml.tokens import PlainEncoder, control, plain_encoder
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
) -> Encoded:
    """One conversation as token ids and labels, both of the same length.

    `messages` are Messages or mappings with role and content (and `train`, `tool_calls`, `name`); `tools` is a list of
    function signatures; `tokenizer` a fast tokenizer of transformers that has the three ChatML tokens. With
    `add_generation_prompt` the sequence ends where the assistant is to begin. Raises RecordError, TokenizerError.
    """
    turns = render(read_messages(messages, "messages"), read_tools(tools), tool_format)
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
    newline = plain("\n")
    headers = {role: plain(role) for role in {turn.role for turns in conversations for turn in turns}}

    def around(turn: Turn, silent: bool) -> EncodedTurn:
        content, labels = next(bodies)
        header = [ids.im_start, *headers[turn.role], *newline]
        end = [] if turn.unfinished else [ids.im_end, *newline]
        tokens = [*header, *content, *end]
        if mask == "all":
            return EncodedTurn(turn, tokens, tokens)
        if silent:
            return EncodedTurn(turn, tokens, [IGNORE] * len(tokens))
        above, below = [IGNORE] * len(header), [IGNORE] * len(end)
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
    bos = control(tokenizer).bos
    ids, labels = ([], []) if bos is None else ([bos], [IGNORE])
    for turn in turns:
        ids += turn.input_ids
        labels += turn.labels
    if add_generation_prompt and not (turns and turns[-1].turn.unfinished):
        header = generation_prompt(tokenizer)
        ids += header
        labels += [IGNORE] * len(header)
    if labels:
        labels[0] = IGNORE
    return Encoded(ids, labels)


def generation_prompt(tokenizer: Any) -> list[int]:
    """The tokens that the assistant's answer follows: <|im_start|>assistant⏎."""
    plain = plain_encoder(tokenizer)
    return [control(tokenizer).im_start, *plain("assistant"), *plain("\n")]


def _bodies(
    turns: Sequence[Turn], plain: PlainEncoder, markers: Mapping[str, int]
) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids and labels of each turn's text."""
    pieces = [_pieces(turn, markers) for turn in turns]
    # Both sides of a comparison hold the same question: every text is encoded once.
    texts = list(dict.fromkeys(piece for turn in pieces for piece, _ in turn if isinstance(piece, str)))
    tokens_of = dict(zip(texts, plain.batch(texts), strict=True))
    for turn in pieces:
        tokens, labels = [], []
        for piece, learn in turn:
            ids = [piece] if isinstance(piece, int) else tokens_of[piece]
            tokens += ids
            labels += ids if learn else [IGNORE] * len(ids)
        yield tokens, labels


def _pieces(turn: Turn, markers: Mapping[str, int]) -> list[tuple[str | int, bool]]:
    """What is encoded on its own, and whether it is learnt: ids of markers, and the text between them.

    Text that is learnt and text that is not never meet in a token.
    """
    pieces: list[tuple[str | int, bool]] = []
    for text, learn, marker in turn.parts:
        if marker and text in markers:
            pieces.append((markers[text], learn))
        elif pieces and isinstance(pieces[-1][0], str) and pieces[-1][1] == learn:
            pieces[-1] = (pieces[-1][0] + text, learn)
        else:
            pieces.append((text, learn))
    return pieces
