"""The statistics of a data key as lines of text: what was read, what the stage makes of it, and what looks wrong."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from chatml import END_OF_TEXT, IM_END, IM_START, MARKERS, ROLES, Pair, control, header
from engine.data.report import Report
from show.duplicates import SHINGLE_WORDS, SIMILARITY_THRESHOLD
from show.figures import (
    chosen_longer,
    equal_sides,
    looks_cut_off,
    percentiles,
    sequences,
    tokens_by_role,
    unanswered,
    without_end_token,
)
from show.inspection import Inspection, Portion
from show.overlap import OVERLAP_WORDS, EvaluationSet, find_overlaps
from show.records import PROMPT_KEYS, Record, unread_fields

# Number of reasons for unreadable records to list. One mistake can give many, since reasons name message numbers.
MAX_REASONS = 5


class Line(NamedTuple):
    label: str
    value: str
    places: list[str] = []  # noqa: RUF012 - a tuple's default is never changed
    """the first records for which this was found"""


def table(seen: Inspection) -> Iterator[Line]:
    """Yield all lines in order. A check without findings gives a 0; one that cannot apply is left out."""
    yield from _record_lines(seen)
    if seen.report is not None:
        yield from _row_lines(seen, seen.report)
    if seen.readable:
        yield from _finding_lines(seen)


def _record_lines(seen: Inspection) -> Iterator[Line]:
    kinds = Counter(type(record.content) for record in seen.readable)
    names = {Pair: "comparisons", str: "plain texts"}
    other = "prompts" if seen.key in PROMPT_KEYS else "conversations"
    counts = ", ".join(f"{count:,} {names.get(kind, other)}" for kind, count in kinds.items())
    yield Line("records", f"{len(seen.records):,} read{f': {counts}' if counts else ''}")
    problems = Counter(record.problem for record in seen.records if record.content is None)
    for problem, count in problems.most_common(MAX_REASONS):
        places = [record.where for record in seen.records if record.content is None and record.problem == problem]
        yield Line("cannot be read", f"{count:,}: {problem}", _limit_places(places, seen))
    if len(problems) > MAX_REASONS:
        rest = sum(problems.values()) - sum(count for _, count in problems.most_common(MAX_REASONS))
        yield Line("cannot be read", f"{rest:,} for {len(problems) - MAX_REASONS:,} other reasons")
    if unused := unread_fields(seen.records, seen.recipe.data.fields):
        yield Line("fields not used", ", ".join(unused))
    if seen.problem:
        bad = (record for record in seen.records if seen.problem.startswith(f"{record.where}: {record.problem}; "))
        yield Line("a stage stops here", next((record.where for record in bad), seen.problem))


def _row_lines(seen: Inspection, report: Report) -> Iterator[Line]:
    dropped = sum(report.dropped.values())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.most_common())
    limit, length = seen.limit
    cut = f", {report.cut:,} of them cut to {limit}={length}" if report.cut else ""
    yield Line("kept", f"{report.kept:,} of {report.read:,}{cut}")
    yield Line("dropped", f"{dropped:,}{f': {reasons}' if dropped else ''}")
    trained = f"; {report.trained_tokens:,} trained on ({_percent(report.trained_tokens, report.tokens)})"
    tokens = report.cut_tokens + report.dropped_tokens.total()
    lost = f"; {tokens:,} lost to cutting and dropping" if tokens else ""
    learns = not seen.of_pairs and seen.key not in PROMPT_KEYS
    yield Line("tokens", f"{report.tokens:,} in {report.rows:,} rows{trained if learns else ''}{lost}")
    drawn = sum(portion.tokens_drawn for portion in seen.portions)
    for portion in seen.portions:
        yield Line("  of which", _portion_text(portion, drawn))
    headers = {role: header(role, seen.tokenizer)[1:] for role in ROLES}
    roles = tokens_by_role(seen.rows, headers, control(seen.tokenizer))
    if roles.keys() & headers.keys():
        yield Line("by role", ", ".join(f"{role} {_percent(count, roles.total())}" for role, count in roles.items()))
    lengths = [len(ids) for row in seen.rows for ids in sequences(row)]
    yield Line("tokens a side" if seen.of_pairs else "tokens a row", _percentile_text(lengths))
    if seen.of_pairs:
        chosen, rejected = (_percent(count, len(seen.rows)) for count in chosen_longer(seen.rows))
        yield Line("longer side", f"chosen {chosen}, rejected {rejected}")


def _finding_lines(seen: Inspection) -> Iterator[Line]:
    records = seen.readable

    def line(label: str, indices: Sequence[int], remark: str = "") -> Line:
        return Line(label, f"{len(indices):,}{remark}", _limit_places((records[i].where for i in indices), seen))

    if any(record.messages for record in records):
        yield Line(
            "messages a record", _percentile_text([_num_messages(record) for record in records if record.messages])
        )
        questions = {record.question for record in records if record.messages}
        yield Line("different questions", f"{len(questions):,}")
    exact = [
        _pair_of_places(records[index].where, "=", records[other].where)
        for index, other in seen.exact_duplicates.items()
    ]
    yield Line("exact duplicates", f"{len(exact):,}", _limit_places(exact, seen))
    near = [
        f"{_pair_of_places(records[i].where, '≈', records[j].where)} ({alike:.2f})"
        for i, j, alike in seen.near_duplicates
    ]
    meaning = (
        f" share {SIMILARITY_THRESHOLD:.0%} or more of their runs of {SHINGLE_WORDS} words with an earlier one, "
        "system prompts aside"
    )
    yield Line("near duplicates", f"{len(near):,}{meaning if near else ''}", _limit_places(near, seen))
    for evaluation in seen.evaluations:
        yield _overlap_line(seen, evaluation)
    if seen.of_pairs:
        yield line("equal sides", equal_sides(records))
    if any(record.messages for record in records) and seen.key not in PROMPT_KEYS:
        broken = [i for i, record in enumerate(records) if any(map(looks_cut_off, record.answers))]
        endless = without_end_token(seen.rows, control(seen.tokenizer))
        trained = "" if seen.of_pairs or not seen.rows else f"{endless:,} trained on without {IM_END}; "
        yield Line(
            "answers without end",
            f"{trained}{len(broken):,} may have been cut off: 30 words or more, and no full stop",
            _limit_places((records[i].where for i in broken), seen),
        )
        yield line("ends unanswered", unanswered(records))
        yield line("empty answers", [i for i, record in enumerate(records) if not all(map(str.strip, record.answers))])
    names = (IM_START, IM_END, END_OF_TEXT)
    spelled = [i for i, r in enumerate(records) if any(name in text for text in r.texts for name in names)]
    if spelled:
        yield line("spell control tokens", spelled, ", which stay text")
    marked = [i for i, record in enumerate(records) if any(name in text for text in record.texts for name in MARKERS)]
    if marked:
        way_out = "" if seen.recipe.chatml.parse_text else "; chatml.parse_text=true reads the assistant's"
        yield line("spell markers", marked, f" (<think>, <tool_call> and the like), which stay text{way_out}")

    nulls = [i for i, record in enumerate(records) if record.has_null]
    if nulls:
        yield line(
            "nulls", nulls, " in arguments or signatures of tools, which are trained on; meant, or an export artefact?"
        )


def _overlap_line(seen: Inspection, evaluation: EvaluationSet) -> Line:
    records = seen.readable
    found = find_overlaps([record.texts for record in records], evaluation)
    touched = len({hit.other for hit in found})
    short = f" ({evaluation.short:,} too short to be found)" if evaluation.short else ""
    places = [f"{records[hit.record].where} ~ {evaluation.places[hit.other]}: {' '.join(hit.run)}" for hit in found]
    return Line(
        "overlap",
        f"{len(found):,} share {OVERLAP_WORDS} words in a row with {touched:,} of the {len(evaluation.places):,} "
        f"records in {evaluation.name}{short}",
        _limit_places(places, seen),
    )


def _portion_text(portion: Portion, drawn: float) -> str:
    own, weight = portion.report, portion.source.weight
    weighted = f" (weight {weight:g})" if weight != 1 else ""
    if own is None:
        return f"{portion.source.path}{weighted}: the stage could not run with this source alone"
    trained = f", {own.trained_tokens:,} trained on" if own.trained_tokens else ""
    share = _percent(portion.tokens_drawn, drawn)
    kept = f"{own.kept:,} of {own.read:,} kept, {own.tokens:,} tokens{trained}"
    return f"{portion.source.path}{weighted}: {kept}; {share} of what is fed"


def _pair_of_places(one: str, sign: str, other: str) -> str:
    """Join two places with a sign; the file of the second is left out if it is the same."""
    file, _, line = other.rpartition(":")
    return f"{one} {sign} {f':{line}' if one.rpartition(':')[0] == file else other}"


def _num_messages(record: Record) -> int:
    """Return the number of messages of a record; for a comparison, of its longer side."""
    if isinstance(record.content, Pair):
        return len(record.content.prompt) + max(len(record.content.chosen), len(record.content.rejected))
    return len(record.messages)


def _percentile_text(values: Sequence[int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in percentiles(values).items())


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%"


def _limit_places(places: Iterable[str], seen: Inspection) -> list[str]:
    """Return the first `show.places` places, and a line that says how many more there are."""
    listed, limit = list(places), seen.recipe.show.places
    more = len(listed) - limit
    return listed[:limit] + ([f"and {more:,} more; show.places={len(listed)} names all"] if more > 0 and limit else [])
