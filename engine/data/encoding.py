"""Turn records into rows: encode them as ChatML, cut them to length, and count the result in a report."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from chatml import (
    IGNORE,
    EncodedTurn,
    Mask,
    Message,
    RecordError,
    TrainOn,
    Turn,
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
from engine.data.length import cut_pair, cut_to_length, num_tokens
from engine.data.plain_text import document_rows
from engine.data.prompt_rows import PromptRow
from engine.data.reading import Chunk, Row, Settings, Value, read_records
from engine.data.report import EQUAL_SIDES, NOTHING_TO_TRAIN, TOO_LONG, Report

EVERY_ANSWER: tuple[Mask, TrainOn] = ("assistant", "every_answer")


def conversations(chunk: Chunk, settings: Settings, tokenizer: Any, report: Report) -> Iterator[Row]:
    """Yield {"input_ids", "labels"} of conversations, and of plain text like `texts`. Label -100 masks a token."""

    def read(record: dict[str, Any]) -> list[Turn] | str:
        if is_text(record, settings.fields):
            return read_text(record, settings.fields)
        messages, tools = settings.read(read_conversation, record)
        return render(with_system_prompt(messages, settings.chatml.system), tools, settings.chatml.tools)

    known = list(read_records(chunk, read, settings, report))
    talks = [(where, [said], None) for where, said, _ in known if not isinstance(said, str)]
    loss = settings.chatml.mask, settings.chatml.train_on
    for where, (turns,), _ in _encoded(talks, tokenizer, loss, settings, report):
        row = join(turns, tokenizer)
        length = len(row.input_ids)
        report.lengths[length] += 1
        if length > settings.limit:
            _may_cut(settings, where, length)
            kept = cut_to_length(turns, settings.limit - (length - num_tokens(turns)), settings.too_long)
            if kept is None:
                report.drop(TOO_LONG, length)
                continue
            row = join(kept, tokenizer)
        trained = len(row.labels) - row.labels.count(IGNORE)
        if not trained:
            report.drop(NOTHING_TO_TRAIN, length)
            continue
        report.keep(len(row.input_ids), length, trained)
        yield {"input_ids": row.input_ids, "labels": row.labels}
    yield from document_rows(
        [(where, said) for where, said, _ in known if isinstance(said, str)], settings, tokenizer, report
    )


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

    known = [(where, sides, rest) for where, (rest, sides), _ in read_records(chunk, read, settings, report)]
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

    found = read_records(chunk, read, settings, report)
    known = [(where, [turns], (record, said)) for where, (said, turns), record in found]
    for where, (turns,), (record, said) in _encoded(known, tokenizer, EVERY_ANSWER, settings, report):
        kept = turns
        ids = join(turns, tokenizer, add_generation_prompt=True).input_ids
        length = len(ids)
        report.lengths[length] += 1
        if length > settings.limit:
            _may_cut(settings, where, length)
            cut = cut_to_length(turns, settings.limit - (length - num_tokens(turns)), settings.too_long)
            if cut is None:
                report.drop(TOO_LONG, length)
                continue
            kept = cut
            ids = join(kept, tokenizer, add_generation_prompt=True).input_ids
        report.keep(len(ids), length)
        left = [said[index].as_dict() for turn in kept for index in turn.turn.messages]
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

    found = read_records(chunk, read, settings, report)
    known = [(where, [turns], (record, asked)) for where, (asked, turns), record in found]
    for _, (turns,), (record, asked) in _encoded(known, tokenizer, EVERY_ANSWER, settings, report):
        length = len(join(turns, tokenizer, add_generation_prompt=True).input_ids)
        report.lengths[length] += 1
        report.keep(length, length)
        messages = [{"role": message.role, "content": message.content} for message in asked]
        yield {"messages": json.dumps(messages), "record": json.dumps(record, default=str)}


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
