"""Turn records into rows: encode them as ChatML, cut them to length, and count the result in a report.

A maker takes a chunk of records, the settings, a tokenizer with the ChatML tokens, and the report to count in. It
depends on nothing else, so its rows are a function of the cache key (engine/data/prepare.py) in any process. A record
that cannot be read is passed to the report, which counts it or raises RecipeError, depending on `data.on_bad_record`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

from chatml import (
    END_OF_TEXT,
    IGNORE,
    EncodedTurn,
    Mask,
    Message,
    RecordError,
    TrainOn,
    Turn,
    control,
    encode_turns,
    is_text,
    join,
    plain_encoder,
    read_conversation,
    read_margin,
    read_pair,
    read_prompt,
    read_text,
    render,
)
from config import RecipeError
from config.data import OnBadRecord, TooLong
from engine.data.chatml_section import ChatML
from engine.data.length import cut_pair, cut_to_length, num_tokens
from engine.data.prompt_rows import PromptRow
from engine.data.report import EQUAL_SIDES, NOTHING_TO_TRAIN, TOO_LONG, Report

Row = dict[str, Any]
Chunk = Sequence[tuple[str, dict[str, Any] | RecordError]]
"""(place, record) pairs: `file:line`, and the record's fields or the RecordError that explains why it cannot be read"""
Value = TypeVar("Value")


@dataclass(frozen=True)
class Settings:
    """All settings of a recipe that determine how records become rows."""

    chatml: ChatML
    fields: Mapping[str, str | None]
    too_long: TooLong
    on_bad_record: OnBadRecord
    limit_key: str
    """the recipe key of the limit, for messages"""
    limit: int
    """maximum length of a row, in tokens"""
    document_end: str | None = None
    roles: Mapping[str, str] = field(default_factory=dict)
    """role names in the records → system, user, assistant, tool"""

    def read(self, reader: Callable[..., Value], record: Mapping[str, Any]) -> Value:
        """Apply one of chatml's readers to a record, with these settings."""
        return reader(record, self.fields, self.roles, parse_text=self.chatml.parse_text)


EVERY_ANSWER: tuple[Mask, TrainOn] = ("assistant", "every_answer")

Maker = Callable[[Chunk, Settings, Any, Report], Iterator[Row]]


def conversations(chunk: Chunk, settings: Settings, tokenizer: Any, report: Report) -> Iterator[Row]:
    """Yield {"input_ids", "labels"} of conversations, and of plain text like `texts`. Label -100 masks a token."""

    def read(record: dict[str, Any]) -> list[Turn] | str:
        if is_text(record, settings.fields):
            return read_text(record, settings.fields)
        messages, tools = settings.read(read_conversation, record)
        return render(with_system_prompt(messages, settings.chatml.system), tools, settings.chatml.tools)

    known = list(_read(chunk, read, settings, report))
    talks = [(where, [said], None) for where, said, _ in known if not isinstance(said, str)]
    loss = settings.chatml.mask, settings.chatml.train_on
    for where, (turns,), _ in _encoded(talks, tokenizer, loss, settings, report):
        row = join(turns, tokenizer)
        length = len(row.input_ids)
        report.lengths[length] += 1
        if length > settings.limit:
            _may_cut(settings, where, length)
            turns = cut_to_length(turns, settings.limit - (length - num_tokens(turns)), settings.too_long)
            if turns is None:
                report.drop(TOO_LONG, length)
                continue
            row = join(turns, tokenizer)
        trained = len(row.labels) - row.labels.count(IGNORE)
        if not trained:
            report.drop(NOTHING_TO_TRAIN, length)
            continue
        report.keep(len(row.input_ids), length, trained)
        yield {"input_ids": row.input_ids, "labels": row.labels}
    yield from _documents([(where, said) for where, said, _ in known if isinstance(said, str)],
                          settings, tokenizer, report)  # fmt: skip


def texts(chunk: Chunk, settings: Settings, tokenizer: Any, report: Report) -> Iterator[Row]:
    """Yield {"input_ids", "labels"} of documents, which end with <|endoftext|>. The first token of a row is masked.

    A document longer than the limit is split into rows whose lengths differ by at most one token; no token is dropped.
    """
    known = _read(chunk, lambda record: read_text(record, settings.fields), settings, report)
    yield from _documents([(where, text) for where, text, _ in known], settings, tokenizer, report)


def documents(chunk: Chunk, settings: Settings, tokenizer: Any, report: Report) -> Iterator[Row]:
    """Yield {"text"} of uncut documents, for several tokenizers. `tokenizer` is only used to count for the report."""
    plain, ends = plain_encoder(tokenizer), _end_spellings(tokenizer)
    for where, text, _ in _read(chunk, lambda record: read_text(record, settings.fields), settings, report):
        try:
            tokens = len(plain(text))
        except RecordError as error:
            report.refuse(where, error, settings.on_bad_record)
            continue
        report.lengths[tokens] += 1
        report.spelled_ends.update(name for name in ends if name in text)
        if not text:
            report.drop(NOTHING_TO_TRAIN, tokens)
            continue
        report.keep(tokens, tokens)
        yield {"text": text}


def pairs(chunk: Chunk, settings: Settings, tokenizer: Any, report: Report) -> Iterator[Row]:
    """Yield {"chosen_ids", "rejected_ids", "margin", "subset"} of comparisons. A missing margin is 0.

    `subset` is the record's field of that name (as in RewardBench), or None.

    Each side ends with the <|im_end|> of its last response, without the newline after it: the score is read there.
    Pairs whose sides are equal are dropped.
    """
    newline = len(plain_encoder(tokenizer)("\n", "after_token"))

    def read(record: dict[str, Any]) -> tuple[tuple[int, dict[str, Any]], list[list[Turn]]]:
        pair, margin = settings.read(read_pair, record), read_margin(record, settings.fields)
        prompt = with_system_prompt(pair.prompt, settings.chatml.system)
        whole = [(*prompt, *answer) for answer in (pair.chosen, pair.rejected)]
        subset = record.get("subset")
        facts = {"margin": margin, "subset": None if subset is None else str(subset)}
        return (len(prompt), facts), [render(messages, pair.tools, settings.chatml.tools) for messages in whole]

    known = [(where, sides, rest) for where, (rest, sides), _ in _read(chunk, read, settings, report)]
    for where, encoded, (shared, facts) in _encoded(known, tokenizer, EVERY_ANSWER, settings, report):
        chosen, rejected = (_without_end(side, newline) for side in encoded)
        row = [join(side, tokenizer).input_ids for side in (chosen, rejected)]
        tokens, longest = sum(map(len, row)), max(map(len, row))
        report.lengths[longest] += 1
        if row[0] == row[1]:
            report.drop(EQUAL_SIDES, tokens)
            continue
        if longest > settings.limit:
            _may_cut(settings, where, longest)
            room = settings.limit - (len(row[0]) - num_tokens(chosen))
            kept = cut_pair((chosen, rejected), shared, room, settings.too_long)
            if kept is None:
                report.drop(TOO_LONG, tokens)
                continue
            row = [join(side, tokenizer).input_ids for side in kept]
        report.keep(sum(map(len, row)), tokens)
        yield {"chosen_ids": row[0], "rejected_ids": row[1], **facts}


def prompts(chunk: Chunk, settings: Settings, tokenizer: Any, report: Report) -> Iterator[Row]:
    """Yield the stored columns of a PromptRow, from records in any supported format."""

    def read(record: dict[str, Any]) -> tuple[tuple[Message, ...], list[Turn]]:
        messages, tools = settings.read(read_prompt, record)
        said = with_system_prompt(messages, settings.chatml.system)
        return said, render(said, tools, settings.chatml.tools)

    known = [(where, [turns], (record, said)) for where, (said, turns), record in _read(chunk, read, settings, report)]
    for where, (turns,), (record, said) in _encoded(known, tokenizer, EVERY_ANSWER, settings, report):
        ids = join(turns, tokenizer, add_generation_prompt=True).input_ids
        length = len(ids)
        report.lengths[length] += 1
        if length > settings.limit:
            _may_cut(settings, where, length)
            turns = cut_to_length(turns, settings.limit - (length - num_tokens(turns)), settings.too_long)
            if turns is None:
                report.drop(TOO_LONG, length)
                continue
            ids = join(turns, tokenizer, add_generation_prompt=True).input_ids
        report.keep(len(ids), length)
        left = [said[index].as_dict() for turn in turns for index in turn.turn.messages]
        yield PromptRow(ids, left, record).as_columns()


def questions(chunk: Chunk, settings: Settings, tokenizer: Any, report: Report) -> Iterator[Row]:
    """Yield {"messages", "record"}, both JSON: the system message and the user's messages, without the responses.

    Records may have any supported format. Nothing is cut, since the length of the conversation depends on the responses
    that will be generated.
    """

    def read(record: dict[str, Any]) -> tuple[list[Message], list[Turn]]:
        messages, tools = settings.read(read_prompt, record)
        asked = [m for m in with_system_prompt(messages, settings.chatml.system) if m.role != "assistant"]
        if asked[0].role != "system":
            raise RecordError("no system turn at the start, so nothing to obey; add one, or set chatml.system")
        if other := next((m.role for m in asked[1:] if m.role != "user"), None):
            raise RecordError(f"a {other} turn among the user's; after the system turn only the user asks")
        if tools:
            raise RecordError("it has tools, which are not offered here; take them out, or set data.fields.tools=null")
        return asked, render(asked)

    known = [
        (where, [turns], (record, asked)) for where, (asked, turns), record in _read(chunk, read, settings, report)
    ]
    for _, (turns,), (record, asked) in _encoded(known, tokenizer, EVERY_ANSWER, settings, report):
        length = len(join(turns, tokenizer, add_generation_prompt=True).input_ids)
        report.lengths[length] += 1
        report.keep(length, length)
        messages = [{"role": message.role, "content": message.content} for message in asked]
        yield {"messages": json.dumps(messages), "record": json.dumps(record, default=str)}


def _read(
    chunk: Chunk, read: Callable[[dict[str, Any]], Value], settings: Settings, report: Report
) -> Iterator[tuple[str, Value, dict[str, Any]]]:
    """Yield (place, value, record) of every record that `read` accepts; report the others as bad."""
    report.read += len(chunk)
    for where, record in chunk:
        try:
            if isinstance(record, RecordError):
                raise record
            value = read(record)
        except RecordError as error:
            report.refuse(where, error, settings.on_bad_record)
        else:
            yield where, value, record


def _encoded(
    conversations: Sequence[tuple[str, list[list[Turn]], Value]],
    tokenizer: Any,
    loss: tuple[Mask, TrainOn],
    settings: Settings,
    report: Report,
) -> Iterator[tuple[str, list[list[EncodedTurn]], Value]]:
    """Encode the conversations of each record; report records that cannot be encoded as bad."""
    try:
        encoded = iter(encode_turns([turns for _, several, _ in conversations for turns in several], tokenizer, *loss))
    except RecordError:  # rare, so the bad record is searched for only now
        for where, several, value in conversations:
            try:
                yield where, encode_turns(several, tokenizer, *loss), value
            except RecordError as error:
                report.refuse(where, error, settings.on_bad_record)
        return
    for where, several, value in conversations:
        yield where, [next(encoded) for _ in several], value


def _documents(texts: Sequence[tuple[str, str]], settings: Settings, tokenizer: Any, report: Report) -> Iterator[Row]:
    ids = control(tokenizer)
    before, ends = [] if ids.bos is None else [ids.bos], _end_spellings(tokenizer)
    for _, text in texts:
        report.spelled_ends.update(name for name in ends if name in text)
    for text in _texts_encoded(texts, tokenizer, settings, report):
        document = [*before, *text, ids.endoftext]
        report.lengths[len(document)] += 1
        if not text:
            report.drop(NOTHING_TO_TRAIN, len(document))
            continue
        # Rows of equal length: a last row of a single token would have nothing to predict.
        pieces = -(-len(document) // settings.limit)
        edges = [len(document) * number // pieces for number in range(pieces + 1)]
        report.keep(len(document), len(document), trained=len(document) - pieces, rows=pieces)
        for start, stop in pairwise(edges):
            piece = document[start:stop]
            yield {"input_ids": piece, "labels": [IGNORE, *piece[1:]]}


def _end_spellings(tokenizer: Any) -> set[str]:
    """Return the text of the tokens that end a document."""
    return {END_OF_TEXT} | ({tokenizer.eos_token} if tokenizer.eos_token else set())


def _texts_encoded(
    texts: Sequence[tuple[str, str]], tokenizer: Any, settings: Settings, report: Report
) -> Iterable[list[int]]:
    plain = plain_encoder(tokenizer)
    try:
        yield from plain.batch([text for _, text in texts])
    except RecordError:  # as in _encoded
        for where, text in texts:
            try:
                yield plain(text)
            except RecordError as error:
                report.refuse(where, error, settings.on_bad_record)


def with_system_prompt(messages: tuple[Message, ...], system: str | None) -> tuple[Message, ...]:
    """Prepend a system prompt (if not None), unless the messages already have one."""
    if system is None or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", system), *messages)


def _without_end(turns: list[EncodedTurn], newline: int) -> list[EncodedTurn]:
    """Return the turns without the newline after the last <|im_end|>."""
    last = turns[-1]
    return [*turns[:-1], EncodedTurn(last.turn, last.input_ids[:-newline], last.labels[:-newline])]


def _may_cut(settings: Settings, where: str, length: int) -> None:
    if settings.too_long == "error":
        raise RecipeError(
            f"{where}: {length:,} tokens, and {settings.limit_key} is {settings.limit:,}; raise it, shorten the "
            "record, or choose another data.too_long: cut_oldest_turns, cut_left or drop"
        )
