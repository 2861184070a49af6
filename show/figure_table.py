"""The figures of a data key as lines of words: what was read, what a stage makes of it, and what looks wrong."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from chatml import END_OF_TEXT, IM_END, IM_START, MARKERS, ROLES, Pair, control, header
from engine.data.report import Report
from show.duplicates import RUN as SHINGLE
from show.duplicates import THRESHOLD
from show.figures import (
    breaks_off,
    chosen_longer,
    equal_sides,
    percentiles,
    sequences,
    tokens_by_role,
    unanswered,
    without_end_token,
)
from show.look import Look, Portion
from show.overlap import RUN, EvaluationSet, shared
from show.records import ASKED, Record, unread_fields

# Reasons why records cannot be read that are told one by one; a message's number makes many of one kind.
REASONS = 5


class Line(NamedTuple):
    label: str
    value: str
    places: list[str] = []  # noqa: RUF012 - a tuple's default is never changed
    """where it was found, a few of them"""


def table(seen: Look) -> Iterator[Line]:
    """All lines, in the order they are printed. A finding that is no cause for doubt says 0, or is left out where it
    cannot occur in such data."""
    yield from _read(seen)
    if seen.report is not None:
        yield from _fed(seen, seen.report)
    if seen.readable:
        yield from _found(seen)


def _read(seen: Look) -> Iterator[Line]:
    kinds = Counter(type(record.held) for record in seen.readable)
    names = {Pair: "comparisons", str: "plain texts"}
    said = "prompts" if seen.key in ASKED else "conversations"
    held = ", ".join(f"{count:,} {names.get(kind, said)}" for kind, count in kinds.items())
    yield Line("records", f"{len(seen.records):,} read{f': {held}' if held else ''}")
    problems = Counter(record.problem for record in seen.records if record.held is None)
    for problem, count in problems.most_common(REASONS):
        places = [record.where for record in seen.records if record.held is None and record.problem == problem]
        yield Line("cannot be read", f"{count:,}: {problem}", _some(places, seen))
    if len(problems) > REASONS:
        rest = sum(problems.values()) - sum(count for _, count in problems.most_common(REASONS))
        yield Line("cannot be read", f"{rest:,} for {len(problems) - REASONS:,} other reasons")
    if unused := unread_fields(seen.records, seen.recipe.data.fields):
        yield Line("fields not used", ", ".join(unused))
    if seen.problem:
        bad = (record for record in seen.records if seen.problem.startswith(f"{record.where}: {record.problem}; "))
        yield Line("a stage stops here", next((record.where for record in bad), seen.problem))


def _fed(seen: Look, report: Report) -> Iterator[Line]:
    dropped = sum(report.dropped.values())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in report.dropped.most_common())
    limit, length = seen.limit
    cut = f", {report.cut:,} of them cut to {limit}={length}" if report.cut else ""
    yield Line("kept", f"{report.kept:,} of {report.read:,}{cut}")
    yield Line("dropped", f"{dropped:,}{f': {reasons}' if dropped else ''}")
    trained = f"; {report.trained_tokens:,} trained on ({_share(report.trained_tokens, report.tokens)})"
    lost = report.cut_tokens + report.dropped_tokens.total()
    lost = f"; {lost:,} lost to cutting and dropping" if lost else ""
    learns = not seen.of_pairs and seen.key not in ASKED
    yield Line("tokens", f"{report.tokens:,} in {report.rows:,} rows{trained if learns else ''}{lost}")
    drawn = sum(portion.tokens_drawn for portion in seen.portions)
    for portion in seen.portions:
        yield Line("  of which", _portion(portion, drawn))
    headers = {role: header(role, seen.tokenizer)[1:] for role in ROLES}
    roles = tokens_by_role(seen.rows, headers, control(seen.tokenizer))
    if roles.keys() & headers.keys():
        yield Line("by role", ", ".join(f"{role} {_share(count, roles.total())}" for role, count in roles.items()))
    lengths = [len(ids) for row in seen.rows for ids in sequences(row)]
    yield Line("tokens a side" if seen.of_pairs else "tokens a row", _spread(lengths))
    if seen.of_pairs:
        chosen, rejected = (_share(count, len(seen.rows)) for count in chosen_longer(seen.rows))
        yield Line("longer side", f"chosen {chosen}, rejected {rejected}")


def _found(seen: Look) -> Iterator[Line]:
    records = seen.readable

    def line(label: str, indices: Sequence[int], remark: str = "") -> Line:
        return Line(label, f"{len(indices):,}{remark}", _some((records[i].where for i in indices), seen))

    if any(record.messages for record in records):
        yield Line("messages a record", _spread([_messages(record) for record in records if record.messages]))
        questions = {record.question for record in records if record.messages}
        yield Line("different questions", f"{len(questions):,}")
    exact = [_two(records[index].where, "=", records[other].where) for index, other in seen.repeated.items()]
    yield Line("exact duplicates", f"{len(exact):,}", _some(exact, seen))
    near = [f"{_two(records[i].where, '≈', records[j].where)} ({alike:.2f})" for i, j, alike in seen.nearly_repeated]
    meaning = (
        f" share {THRESHOLD:.0%} or more of their runs of {SHINGLE} words with an earlier one, system prompts aside"
    )
    yield Line("near duplicates", f"{len(near):,}{meaning if near else ''}", _some(near, seen))
    for evaluation in seen.evaluations:
        yield _overlap(seen, evaluation)
    if seen.of_pairs:
        yield line("equal sides", equal_sides(records))
    if any(record.messages for record in records) and seen.key not in ASKED:
        broken = [i for i, record in enumerate(records) if any(map(breaks_off, record.answers))]
        endless = without_end_token(seen.rows, control(seen.tokenizer))
        trained = "" if seen.of_pairs or not seen.rows else f"{endless:,} trained on without {IM_END}; "
        yield Line(
            "answers without end",
            f"{trained}{len(broken):,} may have been cut off: 30 words or more, and no full stop",
            _some((records[i].where for i in broken), seen),
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
        yield line("nulls", nulls, " in arguments or signatures of tools, which are trained on; meant, or of a table?")


def _overlap(seen: Look, evaluation: EvaluationSet) -> Line:
    records = seen.readable
    found = shared([record.texts for record in records], evaluation)
    touched = len({hit.other for hit in found})
    short = f" ({evaluation.short:,} too short to be found)" if evaluation.short else ""
    places = [f"{records[hit.index].where} ~ {evaluation.places[hit.other]}: {' '.join(hit.run)}" for hit in found]
    return Line(
        "overlap",
        f"{len(found):,} share {RUN} words in a row with {touched:,} of the {len(evaluation.places):,} records in "
        f"{evaluation.name}{short}",
        _some(places, seen),
    )


def _portion(portion: Portion, drawn: float) -> str:
    own, weight = portion.report, portion.source.weight
    weighted = f" (weight {weight:g})" if weight != 1 else ""
    if own is None:
        return f"{portion.source.path}{weighted}: a stage could not use this source alone"
    trained = f", {own.trained_tokens:,} trained on" if own.trained_tokens else ""
    share = _share(portion.tokens_drawn, drawn)
    kept = f"{own.kept:,} of {own.read:,} kept, {own.tokens:,} tokens{trained}"
    return f"{portion.source.path}{weighted}: {kept}; {share} of what is fed"


def _two(one: str, sign: str, other: str) -> str:
    """Two places; the file of the second is told only where it is another one."""
    file, _, line = other.rpartition(":")
    return f"{one} {sign} {f':{line}' if one.rpartition(':')[0] == file else other}"


def _messages(record: Record) -> int:
    """Of a comparison those of its longer side."""
    if isinstance(record.held, Pair):
        return len(record.held.prompt) + max(len(record.held.chosen), len(record.held.rejected))
    return len(record.messages)


def _spread(values: Sequence[int]) -> str:
    return ", ".join(f"{name} {value:,}" for name, value in percentiles(values).items())


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f}%"


def _some(places: Iterable[str], seen: Look) -> list[str]:
    """As many places as the recipe asks for, and how many more there are."""
    listed, limit = list(places), seen.recipe.show.places
    more = len(listed) - limit
    return listed[:limit] + ([f"and {more:,} more; show.places={len(listed)} names all"] if more > 0 and limit else [])
