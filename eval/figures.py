"""Figures of summary.json as tables show them: label, meaning, format, and whether higher or lower is better."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Summary = dict[str, Any]
Tone = Literal["better", "worse", "unclear", ""]
MISSING = "–"
# With fewer items no difference is significant at 5 %, even if all have the same sign (sign test: 2 / 2^6 < 5 %).
MIN_ITEMS = 6


def decimals(count: int) -> Callable[[float], str]:
    # Adding 0 turns the -0.0 that rounding leaves into 0.0.
    return lambda value: f"{round(value, count) + 0.0:,.{count}f}"


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


@dataclass(frozen=True)
class Figure:
    """A row of the table: the path of its value in summary.json, and how to show it."""

    path: tuple[str, ...]
    """keys below subjects[NAME]"""
    label: str
    meaning: str
    show: Callable[[float], str] = decimals(2)
    better: int = 0
    """1 if higher is better, -1 if lower is better, 0 if neither"""
    compared: tuple[str, ...] | None = None
    """keys below differences[NAME], if they differ from `path`"""

    @property
    def metric(self) -> str:
        return self.path[-1]

    @property
    def is_share(self) -> bool:
        return self.show is percent

    def value(self, summary: Summary, subject: str) -> float | None:
        return lookup(summary["subjects"][subject], self.path)

    def why(self, summary: Summary, subject: str) -> str:
        """Return the reason why a subject has no value; "" if the summary has none."""
        return _why(summary["subjects"][subject], self.path)

    def difference_in(self, compared: dict[str, Any]) -> dict[str, Any] | None:
        """Return {mean, ci95, n} from an entry of `differences` or `pairs`; None if it has none."""
        return lookup(compared, self.compared or self.path)

    def difference(self, summary: Summary, subject: str) -> dict[str, Any] | None:
        """Return {mean, ci95, n} of a subject minus the reference; None if there is none."""
        return self.difference_in(_against(summary, subject))

    def why_no_difference(self, summary: Summary, subject: str) -> str:
        return _why(_against(summary, subject), self.compared or self.path)

    def show_difference(self, value: float) -> str:
        """Format a difference with its sign; shares are shown in percentage points."""
        if self.is_share:
            return f"{round(100 * value, 1) + 0.0:+.1f}"
        return f"{'-' if self.show(value).startswith('-') else '+'}{self.show(abs(value))}"

    def tone(self, difference: dict[str, Any]) -> Tone:
        """Return "better" or "worse" if the whole interval is on that side of 0, else "unclear" (also with too few
        items); "" for a figure without a better direction."""
        if not self.better:
            return ""
        return _tone([self.better * end for end in difference["ci95"]], difference["n"])


ANSWERS = (
    Figure(("answers", "gold"), "gold score", "quality of the answers, by a scorer that training never sees", better=1),
    Figure(("answers", "accuracy"), "right answers", "the gold score's part for correctness", percent, 1),
    Figure(("answers", "manner"), "manner", "the gold score's part for manners", better=1),
)
AFTER_GOLD = (
    Figure(("answers", "score_length"), "score and length",
           "correlation over finished answers; above 0, longer answers score higher"),
    Figure(("answers", "score_length_given_correct"), "score and length given correctness",
           "partial correlation, controlling for correctness"),
    Figure(("answers", "tokens"), "tokens per answer", "including the end token", decimals(1)),
    Figure(("answers", "without_end"), "cut off", "answers that reached the length limit", percent, -1),
    Figure(("answers", "distinct"), "distinct answers", "distinct texts among all answers", percent),
    Figure(("answers", "commonest_opening"), "same opening", "answers that start with the commonest three words",
           percent),
    Figure(("answers", "kl_to_reference"), "KL to the reference",
           "nats per answer, over the subject's own answers: distance from the reference"),
)  # fmt: skip
SYSTEM_PROMPT = (
    Figure(("system_prompt", "obeyed"), "instruction obeyed", "answers that obey the system turn", percent, 1),
    Figure(
        ("system_prompt", "throughout"), "obeyed throughout", "conversations in which every answer obeys", percent, 1
    ),
    Figure(("system_prompt", "first"), "obeyed at first turn", "answers to the first turn that obey", percent, 1),
    Figure(("system_prompt", "last"), "obeyed at last turn", "answers to the last turn that obey", percent, 1),
)
# Keys of a subject's answers that are not parts of gold.
NOT_GOLD_PARTS = {"items", "scores", "score", "tasks", "why", *(figure.metric for figure in (*ANSWERS, *AFTER_GOLD))}
# Keys of a subject's perplexity that are not names of text sets.
NOT_TEXT_SETS = {"tokens", "bits_per_byte", "why"}


def lookup(tree: Any, path: tuple[str, ...]) -> Any:
    """Return the value at a path of keys; None if a key is missing."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def figures(summary: Summary) -> list[Figure]:
    """Return the rows of the table, in order: figures with a value, or a reason for its absence, for any subject."""
    subjects = summary.get("subjects", {})
    return [
        figure
        for figure in (*_answer_figures(summary), *SYSTEM_PROMPT, *_text_figures(summary))
        if any(figure.value(summary, name) is not None or figure.why(summary, name) for name in subjects)
    ]


def main_figure(summary: Summary) -> Figure | None:
    """Return the figure to compare subjects by: gold, else the reward's score, else None."""
    wanted = {"gold": 0, "score": 1}
    found = [figure for figure in figures(summary) if figure.path in {("answers", name) for name in wanted}]
    return min(found, key=lambda figure: wanted[figure.metric], default=None)


def reward_of(figure: Figure, summary: Summary) -> str | None:
    """Return the name of the reward whose score the figure is; None for other figures."""
    if figure.path == ("answers", "score"):
        return summary["reward"]
    return figure.metric if figure.path[:2] == ("answers", "scores") else None


def obeyed_by_turn(summary: Summary) -> list[dict[str, float | None]]:
    """Return, per turn, {subject: share of its answers that obey the system turn}; None if it answered none."""
    subjects = summary.get("subjects", {})
    shares = {name: lookup(measures, ("system_prompt", "by_turn")) or [] for name, measures in subjects.items()}
    count = max(map(len, shares.values()), default=0)
    return [{name: each[at] if at < len(each) else None for name, each in shares.items()} for at in range(count)]


def compared_subjects(summary: Summary) -> list[str]:
    """Return all subjects except the reference, in the table's order."""
    return [name for name in summary.get("subjects", {}) if name != summary.get("reference")]


def win_rates(summary: Summary, subject: str) -> dict[str, dict[str, Any]]:
    """Return {gold, or else the name of a reward: {mean, ci95, n}}, a subject's win rates against the reference.

    The main reward comes first. Without a comparison of answers the result is empty.
    """
    answers = _against(summary, subject).get("answers") or {}
    win, main = answers.get("win_rate"), summary.get("reward")
    if not win:
        return {}
    if win.get("by") == "gold":
        return {"gold": win}
    return {main: win} | {reward: rate for reward, rate in (answers.get("win_rates") or {}).items() if reward != main}


def win_tone(win: dict[str, Any]) -> Tone:
    """Return the tone of a win rate as `Figure.tone` does; no difference is ½."""
    return _tone([end - 0.5 for end in win["ci95"]], win["n"])


def _tone(ends: Sequence[float], items: int) -> Tone:
    if items < MIN_ITEMS or min(ends) <= 0 <= max(ends):
        return "unclear"
    return "better" if min(ends) > 0 else "worse"


def _against(summary: Summary, subject: str) -> dict[str, Any]:
    return summary.get("differences", {}).get(subject, {})


def _why(tree: dict[str, Any], path: tuple[str, ...]) -> str:
    """Return the reason in the `why` beside a figure, or in that of its measure (as for bits_per_byte); "" if none."""
    *above, metric = path
    return lookup(tree, (*above, "why", metric)) or lookup(tree, (*above[:1], "why", metric)) or ""


def _answer_figures(summary: Summary) -> Iterator[Figure]:
    """Yield the figures of answers: gold and its parts, the score by each reward, then the rest."""
    answers = [measures.get("answers") or {} for measures in summary.get("subjects", {}).values()]
    yield from ANSWERS
    for part in dict.fromkeys(name for each in answers for name in each if name not in NOT_GOLD_PARTS):
        yield Figure(("answers", part), f"gold: {part}", "a part of the gold score", better=1)
    main = summary.get("reward")
    yield Figure(("answers", "score"), f"score by {main}", "mean over finished answers", better=1)
    for reward in dict.fromkeys(name for each in answers for name in each.get("scores") or {}):
        if reward != main:
            yield Figure(("answers", "scores", reward), f"score by {reward}", "mean over finished answers", better=1)
    yield from AFTER_GOLD


def _text_figures(summary: Summary) -> Iterator[Figure]:
    """Yield perplexity and bits per byte of each set of texts. Subjects are compared in bits per byte."""
    texts = [measures.get("perplexity") or {} for measures in summary.get("subjects", {}).values()]
    for name in dict.fromkeys(name for each in texts for name in each if name not in NOT_TEXT_SETS):
        nowhere = ("perplexity", "bits_per_byte", "perplexity")
        yield Figure(("perplexity", name), f"perplexity of {name}", "per token of held-out text", compared=nowhere)
        yield Figure(
            ("perplexity", "bits_per_byte", name),
            f"bits per byte of {name}",
            "negative log-likelihood per byte of text, comparable across tokenizers; an increase is forgetting",
            decimals(3),
            better=-1,
            compared=("perplexity", name),
        )
