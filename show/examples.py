"""Records as they look to a model: whole, with what is trained on in colour, or in brackets where there is none."""

from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rich.text import Text
from transformers import PreTrainedTokenizerBase

from chatml import (
    IGNORE,
    Conversation,
    EncodedTurn,
    Pair,
    RecordError,
    encode_turns,
    join,
    plain_encoder,
    render,
)
from engine.data.encoding import with_system_prompt
from engine.data.loss_spans import loss_spans
from show.look import Look
from show.records import ASKED, Record

TRAINED, CHOSEN, REJECTED, CONTROL = "green", "green", "red", "dim"
OPEN, CLOSE = "⟦", "⟧"
# What would move a terminal's cursor or colour it is shown as a sign of its own.
VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


def examples(seen: Look, *, colour: bool) -> Iterator[tuple[str, Text]]:
    """(heading, text) of as many records as the recipe asks for, evenly spaced; of plain text, of as many rows."""
    items = seen.rows if seen.of_texts and seen.rows else seen.readable or seen.records
    places = evenly(len(items), seen.recipe.show.rows)
    for number, place in enumerate(places, start=1):
        item = items[place]
        name, text = _record(item, seen, colour) if isinstance(item, Record) else _piece(item, place, seen, colour)
        yield f"{number} of {len(places)} · {name}", text


def evenly(total: int, count: int) -> list[int]:
    """`count` places from the first to the last of `total`, or all if there are fewer."""
    count = min(count, total)
    return [round(i * (total - 1) / max(1, count - 1)) for i in range(count)]


def marked(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, *, colour: bool, style: str = "") -> Text:
    """The text of a row; `style` is what stands outside the trained stretches."""
    text = Text()
    for trained, spans in groupby(loss_spans(row, tokenizer), key=lambda span: span.trained):
        bracket = trained and not colour
        text.append(OPEN if bracket else "")
        for span in spans:
            look = f"{TRAINED if trained else style} {CONTROL if span.control else ''}".strip()
            text.append(tokenizer.decode(span.ids).translate(VISIBLE), look)
        text.append(CLOSE if bracket else "")
    return text


def _record(record: Record, seen: Look, colour: bool) -> tuple[str, Text]:
    if record.held is None:
        return f"{record.where} · cannot be read", _raw(record)
    try:
        shown = _pair(record.held, seen) if isinstance(record.held, Pair) else _conversation(record.held, seen, colour)
    except RecordError as error:
        return f"{record.where} · cannot be written as ChatML: {error}", _raw(record)
    return f"{record.where} · {shown[0]}", shown[1]


def _raw(record: Record) -> Text:
    """The fields as they stand in the file."""
    return Text("\n".join(f"{name}: {value}" for name, value in record.fields.items()).translate(VISIBLE))


def _conversation(held: Conversation | str, seen: Look, colour: bool) -> tuple[str, Text]:
    if isinstance(held, str):
        return "plain text", Text(held.translate(VISIBLE))
    turns = render(with_system_prompt(held.messages, seen.recipe.chatml.system), held.tools, seen.recipe.chatml.tools)
    (encoded_turns,) = encode_turns([turns], seen.tokenizer, seen.recipe.chatml.mask, seen.recipe.chatml.train_on)
    asked = seen.key in ASKED
    encoded = join(encoded_turns, seen.tokenizer, add_generation_prompt=asked)
    labels = [IGNORE] * len(encoded.labels) if asked else encoded.labels
    trained = "" if asked else f", {len(labels) - labels.count(IGNORE):,} trained on"
    row = {"input_ids": encoded.input_ids, "labels": labels}
    name = f"{_messages(len(held.messages))}, {len(labels):,} tokens{trained}{_too_long(len(labels), seen)}"
    return name, marked(row, seen.tokenizer, colour=colour)


def _pair(held: Pair, seen: Look) -> tuple[str, Text]:
    prompt = with_system_prompt(held.prompt, seen.recipe.chatml.system)
    sides = [render((*prompt, *side), held.tools, seen.recipe.chatml.tools) for side in (held.chosen, held.rejected)]
    encoded = encode_turns(sides, seen.tokenizer, "assistant")
    text = _unmarked([turn for turn in encoded[0] if turn.turn.messages.stop <= len(prompt)], seen)
    for name, side, style in zip(("chosen", "rejected"), encoded, (CHOSEN, REJECTED), strict=True):
        text.append(f"── {name}\n", f"bold {style}")
        text.append_text(_unmarked([turn for turn in side if turn.turn.messages.stop > len(prompt)], seen, style))
    # After the <|im_end|> that is scored nothing is read.
    newline = len(plain_encoder(seen.tokenizer)("\n", "after_token"))
    chosen, rejected = (len(join(side, seen.tokenizer).input_ids) - newline for side in encoded)
    equal = ", equal sides" if held.chosen == held.rejected else ""
    name = f"{_messages(len(prompt))} shared, chosen {chosen:,} tokens, rejected {rejected:,}{equal}"
    return f"{name}{_too_long(max(chosen, rejected), seen)}", text


def _piece(row: dict[str, Any], place: int, seen: Look, colour: bool) -> tuple[str, Text]:
    name = f"{' and '.join(source.path for source in seen.sources)}, piece {place + 1:,} of {len(seen.rows):,}"
    return f"{name} · {len(row['input_ids']):,} tokens", marked(row, seen.tokenizer, colour=colour)


def _unmarked(turns: list[EncodedTurn], seen: Look, style: str = "") -> Text:
    ids = [token for turn in turns for token in turn.input_ids]
    return marked({"input_ids": ids, "labels": [IGNORE] * len(ids)}, seen.tokenizer, colour=True, style=style)


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"


def _too_long(tokens: int, seen: Look) -> str:
    key, limit = seen.limit
    return f", more than {key}={limit}: {seen.recipe.data.too_long}" if tokens > limit else ""
