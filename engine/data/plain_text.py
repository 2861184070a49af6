"""Turn plain text into rows of documents, and count the result in a report."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from chatml import END_OF_TEXT, IGNORE, RecordError, control, plain_encoder, read_text
from engine.data.reading import Chunk, Row, Settings, read_records
from engine.data.report import NOTHING_TO_TRAIN, Report


def texts(chunk: Chunk, settings: Settings, tokenizer: Any, report: Report) -> Iterator[Row]:
    """Yield {"input_ids", "labels"} of documents, which end with <|endoftext|>. The first token of a row is masked.

    A document longer than the limit is split into rows whose lengths differ by at most one token; no token is dropped.
    """
    known = read_records(chunk, lambda record: read_text(record, settings.fields), settings, report)
    yield from document_rows([(where, text) for where, text, _ in known], settings, tokenizer, report)


def documents(chunk: Chunk, settings: Settings, tokenizer: Any, report: Report) -> Iterator[Row]:
    """Yield {"text"} of uncut documents, for several tokenizers. `tokenizer` is only used to count for the report."""
    plain, ends = plain_encoder(tokenizer), _end_spellings(tokenizer)
    for where, text, _ in read_records(chunk, lambda record: read_text(record, settings.fields), settings, report):
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


def document_rows(
    texts: Sequence[tuple[str, str]], settings: Settings, tokenizer: Any, report: Report
) -> Iterator[Row]:
    """Yield the rows of documents, given as (place, text) pairs; see `texts`."""
    ids = control(tokenizer)
    before, ends = [] if ids.bos is None else [ids.bos], _end_spellings(tokenizer)
    for _, text in texts:
        report.spelled_ends.update(name for name in ends if name in text)
    for encoded in _texts_encoded(texts, tokenizer, settings, report):
        document = [*before, *encoded, ids.endoftext]
        report.lengths[len(document)] += 1
        if not encoded:
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
    except RecordError:  # rare, so the bad record is searched for only now
        for where, text in texts:
            try:
                yield plain(text)
            except RecordError as error:
                report.refuse(where, error, settings.on_bad_record)
