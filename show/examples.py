"""Render records as the model sees them, untruncated; trained tokens are coloured, or in brackets without colour."""

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
from engine.models.tokenizer import decode
from show.inspection import Inspection
from show.records import PROMPT_KEYS, Record

TRAINED_STYLE, CHOSEN_STYLE, REJECTED_STYLE, CONTROL_STYLE = "green", "green", "red", "dim"
TRAINED_OPEN, TRAINED_CLOSE = "⟦", "⟧"
# Control characters, which could move a terminal's cursor or change its colours, are shown as visible symbols.
VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}


def examples(seen: Inspection, *, colour: bool) -> Iterator[tuple[str, Text]]:
    """Yield (heading, text) of `show.rows` records, or rows of plain text, evenly spaced."""
    items = seen.rows if seen.of_texts and seen.rows else seen.readable or seen.records
    places = evenly_spaced(len(items), seen.recipe.show.rows)
    for number, place in enumerate(places, start=1):
        item = items[place]
        name, text = _record(item, seen, colour) if isinstance(item, Record) else _piece(item, place, seen, colour)
        yield f"{number} of {len(places)} · {name}", text


def evenly_spaced(total: int, count: int) -> list[int]:
    """Return `count` evenly spaced indices from the first to the last of `total`; all indices if `total` is smaller."""
    count = min(count, total)
    return [round(i * (total - 1) / max(1, count - 1)) for i in range(count)]


def mark_trained(row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, *, colour: bool, style: str = "") -> Text:
    """Return the text of a row with its trained tokens marked; `style` is the style of all other tokens."""
    text = Text()
    for trained, spans in groupby(loss_spans(row, tokenizer), key=lambda span: span.trained):
        bracket = trained and not colour
        text.append(TRAINED_OPEN if bracket else "")
        for span in spans:
            token_style = f"{TRAINED_STYLE if trained else style} {CONTROL_STYLE if span.control else ''}".strip()
            text.append(decode(tokenizer, span.ids).translate(VISIBLE), token_style)
        text.append(TRAINED_CLOSE if bracket else "")
    return text


def _record(record: Record, seen: Inspection, colour: bool) -> tuple[str, Text]:
    if record.content is None:
        return f"{record.where} · cannot be read", _raw(record)
    try:
        shown = (
            _pair(record.content, seen)
            if isinstance(record.content, Pair)
            else _conversation(record.content, seen, colour)
        )
    except RecordError as error:
        return f"{record.where} · cannot be written as ChatML: {error}", _raw(record)
    return f"{record.where} · {shown[0]}", shown[1]


def _raw(record: Record) -> Text:
    """Return the fields of a record as they are in the file."""
    return Text("\n".join(f"{name}: {value}" for name, value in record.fields.items()).translate(VISIBLE))


def _conversation(content: Conversation | str, seen: Inspection, colour: bool) -> tuple[str, Text]:
    if isinstance(content, str):
        return "plain text", Text(content.translate(VISIBLE))
    messages = with_system_prompt(content.messages, seen.recipe.chatml.system)
    turns = render(messages, content.tools, seen.recipe.chatml.tools)
    (encoded_turns,) = encode_turns([turns], seen.tokenizer, seen.recipe.chatml.mask, seen.recipe.chatml.train_on)
    asked = seen.key in PROMPT_KEYS
    encoded = join(encoded_turns, seen.tokenizer, add_generation_prompt=asked)
    labels = [IGNORE] * len(encoded.labels) if asked else encoded.labels
    trained = "" if asked else f", {len(labels) - labels.count(IGNORE):,} trained on"
    row = {"input_ids": encoded.input_ids, "labels": labels}
    name = f"{_messages(len(content.messages))}, {len(labels):,} tokens{trained}{_too_long(len(labels), seen)}"
    return name, mark_trained(row, seen.tokenizer, colour=colour)


def _pair(pair: Pair, seen: Inspection) -> tuple[str, Text]:
    prompt = with_system_prompt(pair.prompt, seen.recipe.chatml.system)
    sides = [render((*prompt, *side), pair.tools, seen.recipe.chatml.tools) for side in (pair.chosen, pair.rejected)]
    encoded = encode_turns(sides, seen.tokenizer, "assistant")
    text = _render_untrained([turn for turn in encoded[0] if turn.turn.messages.stop <= len(prompt)], seen)
    for name, side, style in zip(("chosen", "rejected"), encoded, (CHOSEN_STYLE, REJECTED_STYLE), strict=True):
        text.append(f"── {name}\n", f"bold {style}")
        text.append_text(
            _render_untrained([turn for turn in side if turn.turn.messages.stop > len(prompt)], seen, style)
        )
    # The reward model reads nothing after the <|im_end|> at which it scores.
    newline = len(plain_encoder(seen.tokenizer)("\n", "after_token"))
    chosen, rejected = (len(join(side, seen.tokenizer).input_ids) - newline for side in encoded)
    equal = ", equal sides" if pair.chosen == pair.rejected else ""
    name = f"{_messages(len(prompt))} shared, chosen {chosen:,} tokens, rejected {rejected:,}{equal}"
    return f"{name}{_too_long(max(chosen, rejected), seen)}", text


def _piece(row: dict[str, Any], place: int, seen: Inspection, colour: bool) -> tuple[str, Text]:
    name = f"{' and '.join(source.path for source in seen.sources)}, piece {place + 1:,} of {len(seen.rows):,}"
    return f"{name} · {len(row['input_ids']):,} tokens", mark_trained(row, seen.tokenizer, colour=colour)


def _render_untrained(turns: list[EncodedTurn], seen: Inspection, style: str = "") -> Text:
    ids = [token for turn in turns for token in turn.input_ids]
    return mark_trained({"input_ids": ids, "labels": [IGNORE] * len(ids)}, seen.tokenizer, colour=True, style=style)


def _messages(count: int) -> str:
    return f"{count} message{'' if count == 1 else 's'}"


def _too_long(tokens: int, seen: Inspection) -> str:
    key, limit = seen.limit
    return f", more than {key}={limit}: {seen.recipe.data.too_long}" if tokens > limit else ""
