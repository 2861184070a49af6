"""Records to the rows that stages train on: read, written as ChatML, cut to length, and accounted for.

Every function takes the value of a data key (see `recipes.sections.sources`), the stage's recipe and a tokenizer with
the ChatML tokens, and returns the rows with a Report. They raise RecipeError: with file and line for a record that
cannot be read, with the key where less than half of the records can be kept.
"""

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, Protocol

from rich.console import Console
from rich.progress import track

from chatml import (
    FIELDS,
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
    read_pair,
    read_prompt,
    read_text,
    render,
)
from engine.data.length import cut, cut_pair, size
from engine.data.mixture import mixed
from engine.data.report import EQUAL_SIDES, NOTHING_TO_TRAIN, TOO_LONG, Report
from recipes import RecipeError
from recipes.sections import ChatML, Run, TooLong, sources

Row = dict[str, Any]
Records = Sequence[tuple[str, dict[str, Any]]]
"""where each record stands, and what it holds"""

CHUNK = 1000  # records that go through the tokenizer together


class Data(Protocol):
    fields: Mapping[str, str]
    too_long: TooLong


class Recipe(Protocol):
    """What decides, in every stage's recipe, how records become rows."""

    chatml: ChatML
    data: Data
    run: Run


def conversation_rows(
    value: Any, recipe: Recipe, tokenizer: Any, *, key: str, max_length: int
) -> tuple[list[Row], Report]:
    """Rows {"input_ids", "labels"} to train a causal model on, at most `max_length` tokens long; -100 is no loss.

    Records of plain text become rows as `text_rows` makes them.
    """

    def rows_of(records: Records, report: Report) -> Iterator[Row]:
        texts: list[tuple[str, dict[str, Any]]] = []
        conversations: list[tuple[str, list[Turn]]] = []
        for where, record in records:
            if is_text(record, recipe.data.fields):
                texts.append((where, record))
                continue
            with _naming(where):
                messages, tools = read_conversation(record, recipe.data.fields)
                conversations.append((where, render(_prompted(messages, recipe), tools, recipe.chatml.tools)))
        for where, turns in _encoded(conversations, tokenizer, recipe.chatml.mask, recipe.chatml.train_on):
            whole = row = join(turns, tokenizer)
            length = len(whole.input_ids)
            if length > max_length:
                _may_cut(recipe, where, length, "data.max_length", max_length)
                turns = cut(turns, max_length - (length - size(turns)), recipe.data.too_long)
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
        yield from _documents(texts, recipe, tokenizer, max_length, report)

    return _rows(value, recipe, key, "data.max_length", rows_of)


def text_rows(value: Any, recipe: Recipe, tokenizer: Any, *, key: str, max_length: int) -> tuple[list[Row], Report]:
    """Rows {"input_ids", "labels"} of documents, each ended by <|endoftext|>, trained on but for a row's first token.

    A document of more than `max_length` tokens is split into pieces of one length (or one less); nothing of it is lost.
    """

    def rows_of(records: Records, report: Report) -> Iterator[Row]:
        return _documents(records, recipe, tokenizer, max_length, report)

    return _rows(value, recipe, key, "data.max_length", rows_of)


def pair_rows(value: Any, recipe: Recipe, tokenizer: Any, *, key: str, max_length: int) -> tuple[list[Row], Report]:
    """Rows {"chosen_ids", "rejected_ids"} of comparisons, each side at most `max_length` tokens long.

    A side ends with its last answer's <|im_end|>, no newline after it: there the score is read. Pairs whose sides are
    equal are dropped.
    """
    newline = len(plain_encoder(tokenizer)("\n"))

    def rows_of(records: Records, report: Report) -> Iterator[Row]:
        sides: list[tuple[str, list[Turn]]] = []
        shared: list[int] = []
        for where, record in records:
            with _naming(where):
                pair = read_pair(record, recipe.data.fields)
                prompt = _prompted(pair.prompt, recipe)
                shared.append(len(prompt))
                for answer in (pair.chosen, pair.rejected):
                    sides.append((where, render((*prompt, *answer), pair.tools, recipe.chatml.tools)))
        encoded = ((where, _without_end(turns, newline)) for where, turns in _encoded(sides, tokenizer, "assistant"))
        for known, (where, chosen), (_, rejected) in zip(shared, encoded, encoded, strict=True):
            row = tuple(join(side, tokenizer).input_ids for side in (chosen, rejected))
            tokens, longest = sum(map(len, row)), max(map(len, row))
            if row[0] == row[1]:
                report.drop(EQUAL_SIDES, tokens)
                continue
            if longest > max_length:
                _may_cut(recipe, where, longest, "data.max_length", max_length)
                room = max_length - (len(row[0]) - size(chosen))
                kept = cut_pair((chosen, rejected), known, room, recipe.data.too_long)
                if kept is None:
                    report.drop(TOO_LONG, tokens)
                    continue
                row = tuple(join(side, tokenizer).input_ids for side in kept)
            report.keep(sum(map(len, row)), tokens)
            yield {"chosen_ids": row[0], "rejected_ids": row[1]}

    return _rows(value, recipe, key, "data.max_length", rows_of)


def prompt_rows(
    value: Any, recipe: Recipe, tokenizer: Any, *, key: str, max_prompt_tokens: int
) -> tuple[list[Row], Report]:
    """Rows {"input_ids", "messages", "record"} of what is to be answered, from records of any shape.

    `input_ids` end where the answer begins and are at most `max_prompt_tokens` long; `messages` are what is left after
    cutting, as dicts; `record` is the record as it was read.
    """

    def rows_of(records: Records, report: Report) -> Iterator[Row]:
        prompts: list[tuple[str, list[Turn]]] = []
        said: list[tuple[Message, ...]] = []
        for where, record in records:
            with _naming(where):
                messages, tools = read_prompt(record, recipe.data.fields)
                said.append(_prompted(messages, recipe))
                prompts.append((where, render(said[-1], tools, recipe.chatml.tools)))
        encoded = _encoded(prompts, tokenizer, "assistant")
        for (_, record), messages, (where, turns) in zip(records, said, encoded, strict=True):
            ids = join(turns, tokenizer, add_generation_prompt=True).input_ids
            length = len(ids)
            if length > max_prompt_tokens:
                _may_cut(recipe, where, length, "data.max_prompt_tokens", max_prompt_tokens)
                turns = cut(turns, max_prompt_tokens - (length - size(turns)), recipe.data.too_long)
                if turns is None:
                    report.drop(TOO_LONG, length)
                    continue
                ids = join(turns, tokenizer, add_generation_prompt=True).input_ids
            report.keep(len(ids), length)
            left = [messages[index].as_dict() for turn in turns for index in turn.turn.messages]
            yield {"input_ids": ids, "messages": left, "record": record}

    return _rows(value, recipe, key, "data.max_prompt_tokens", rows_of)


def _rows(
    value: Any, recipe: Recipe, key: str, limit: str, rows_of: Callable[[Records, Report], Iterable[Row]]
) -> tuple[list[Row], Report]:
    """All rows of a data key, made of a chunk of records at a time. `limit` is the key that bounds their length."""
    _check_fields(recipe.data.fields)
    records = mixed(sources(value, key), recipe.run.seed)
    report, rows = Report(read=len(records)), []
    silent = not sys.stderr.isatty() or os.environ.get("RANK", "0") != "0"
    starts = range(0, len(records), CHUNK)
    for start in track(starts, key, console=Console(stderr=True), transient=True, disable=silent):
        rows += rows_of(records[start : start + CHUNK], report)
    report.check(key, limit)
    return rows, report


def _check_fields(fields: Mapping[str, str]) -> None:
    for theirs, ours in fields.items():
        if ours not in FIELDS:
            raise RecipeError(f"data.fields.{theirs} is {ours}; it must be one of {', '.join(FIELDS)}")
    for one, other in pairwise(sorted(fields.values())):
        if one == other:
            raise RecipeError(f"data.fields makes two fields {one}; leave one of them out")


@contextmanager
def _naming(where: str) -> Iterator[None]:
    """A record's errors, with the file and line it stands in."""
    try:
        yield
    except RecordError as error:
        raise RecipeError(f"{where}: {error}") from None


def _encoded(
    conversations: Sequence[tuple[str, list[Turn]]],
    tokenizer: Any,
    mask: Mask,
    train_on: TrainOn = "every_answer",
) -> Iterator[tuple[str, list[EncodedTurn]]]:
    try:
        encoded = encode_turns([turns for _, turns in conversations], tokenizer, mask, train_on)
    except RecordError:  # rare, so only now is it asked whose
        for where, turns in conversations:
            with _naming(where):
                encode_turns([turns], tokenizer, mask, train_on)
        raise
    return zip((where for where, _ in conversations), encoded, strict=True)


def _documents(records: Records, recipe: Recipe, tokenizer: Any, max_length: int, report: Report) -> Iterator[Row]:
    ids = control(tokenizer)
    before = [] if ids.bos is None else [ids.bos]
    texts = []
    for where, record in records:
        with _naming(where):
            texts.append(read_text(record, recipe.data.fields))
    for text in plain_encoder(tokenizer).batch(texts):
        document = [*before, *text, ids.endoftext]
        if not text:
            report.drop(NOTHING_TO_TRAIN, len(document))
            continue
        # Pieces of one length: a last piece of a single token would have nothing to predict.
        pieces = -(-len(document) // max_length)
        edges = [len(document) * number // pieces for number in range(pieces + 1)]
        report.keep(len(document), len(document), trained=len(document) - pieces, rows=pieces)
        for start, stop in pairwise(edges):
            piece = document[start:stop]
            yield {"input_ids": piece, "labels": [IGNORE, *piece[1:]]}


def _prompted(messages: tuple[Message, ...], recipe: Recipe) -> tuple[Message, ...]:
    """With the recipe's system prompt, where the conversation has none of its own."""
    if recipe.chatml.system is None or (messages and messages[0].role == "system"):
        return messages
    return (Message("system", recipe.chatml.system), *messages)


def _without_end(turns: list[EncodedTurn], newline: int) -> list[EncodedTurn]:
    """Without the newline after the last <|im_end|>."""
    last = turns[-1]
    return [*turns[:-1], EncodedTurn(last.turn, last.input_ids[:-newline], last.labels[:-newline])]


def _may_cut(recipe: Recipe, where: str, length: int, key: str, limit: int) -> None:
    if recipe.data.too_long == "error":
        raise RecipeError(
            f"{where}: {length:,} tokens, and {key} is {limit:,}; raise it, shorten the record, or choose another "
            "data.too_long: cut_oldest_turns, cut_left or drop"
        )
