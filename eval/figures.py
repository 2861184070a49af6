"""The figures of summary.json: which there are, what they are called, how a value is shown, and which way is better."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

Summary = dict[str, Any]
Tone = Literal["better", "worse", ""]
MISSING = "–"
# Fewer items show nothing with 95 % confidence, even if all of them point one way (sign test: 2 / 2^6 < 5 %).
LEAST_ITEMS = 6


def decimals(count: int) -> Callable[[float], str]:
    # Adding 0 turns the -0.0 that rounding leaves into 0.0.
    return lambda value: f"{round(value, count) + 0.0:,.{count}f}"


def percent(value: float) -> str:
    return f"{100 * value:.0f}%"


@dataclass(frozen=True)
class Figure:
    """A row of the table: where its value stands in summary.json and how it reads."""

    path: tuple[str, ...]
    """keys below subjects[NAME]"""
    label: str
    meaning: str
    show: Callable[[float], str] = decimals(2)
    better: int = 0
    """1 where a higher value is better, -1 where a lower one is, 0 where neither is"""
    compared: tuple[str, ...] | None = None
    """keys below differences[NAME], if they are others than `path`"""

    @property
    def metric(self) -> str:
        return self.path[-1]

    @property
    def is_share(self) -> bool:
        return self.show is percent

    def value(self, summary: Summary, subject: str) -> float | None:
        return lookup(summary["subjects"][subject], self.path)

    def why(self, summary: Summary, subject: str) -> str:
        """The reason why a subject has no value, where the summary gives one."""
        return _why(summary["subjects"][subject], self.path)

    def difference_in(self, compared: dict[str, Any]) -> dict[str, Any] | None:
        """{mean, ci95, n} in what `differences` or `pairs` say of two subjects; None where there is none."""
        return lookup(compared, self.compared or self.path)

    def difference(self, summary: Summary, subject: str) -> dict[str, Any] | None:
        """The same of a subject against the reference."""
        return self.difference_in(_against(summary, subject))

    def why_no_difference(self, summary: Summary, subject: str) -> str:
        return _why(_against(summary, subject), self.compared or self.path)

    def show_difference(self, value: float) -> str:
        """With its sign; of shares in percentage points."""
        if self.is_share:
            return f"{round(100 * value, 1) + 0.0:+.1f}"
        return f"{'-' if self.show(value).startswith('-') else '+'}{self.show(abs(value))}"

    def tone(self, difference: dict[str, Any]) -> Tone:
        """Whether the whole interval lies on the better or on the worse side of 0."""
        if difference["n"] < LEAST_ITEMS:
            return ""
        low, high = (self.better * end for end in difference["ci95"])
        return "better" if min(low, high) > 0 else "worse" if max(low, high) < 0 else ""


ANSWERS = (
    Figure(("answers", "gold"), "gold score", "how good the answers are, by a scorer that training never sees",
           better=1),
    Figure(("answers", "accuracy"), "right answers", "gold's part for being correct", percent, 1),
    Figure(("answers", "manner"), "manner", "gold's part for saying it well", better=1),
)  # fmt: skip
AFTER_GOLD = (
    Figure(("answers", "score_length"), "score and length", "correlation over finished answers; above 0, length pays"),
    Figure(("answers", "score_length_given_correct"), "correctness aside",
           "the same with correctness taken out of both"),
    Figure(("answers", "tokens"), "tokens an answer", "its end token included", decimals(1)),
    Figure(("answers", "without_end"), "cut off", "answers that ran into the length limit", percent, -1),
    Figure(("answers", "distinct"), "different answers", "different texts among all answers", percent),
    Figure(("answers", "commonest_opening"), "same opening", "answers that begin with the commonest three words",
           percent),
    Figure(("answers", "kl_to_reference"), "KL to the reference",
           "nats an answer, over the subject's own answers: how far it has moved"),
)  # fmt: skip
SYSTEM_PROMPT = (
    Figure(
        ("system_prompt", "obeyed"), "instruction obeyed", "answers that do what the system turn demands", percent, 1
    ),
    Figure(
        ("system_prompt", "throughout"), "obeyed throughout", "conversations in which every answer does", percent, 1
    ),
    Figure(("system_prompt", "first"), "obeyed at first", "answers to a conversation's first turn that do", percent, 1),
    Figure(("system_prompt", "last"), "obeyed at last", "answers to a conversation's last turn that do", percent, 1),
)
# Keys of a subject's answers that are no parts of gold.
NO_PARTS = {"items", "scores", "score", "tasks", "why", *(figure.metric for figure in (*ANSWERS, *AFTER_GOLD))}
# Keys beside the perplexities of the text sets.
BESIDE_PERPLEXITY = {"tokens", "bits_per_byte", "why"}


def lookup(tree: Any, path: tuple[str, ...]) -> Any:
    """What stands at a path of keys; None where any of them is missing."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def figures(summary: Summary) -> list[Figure]:
    """The rows of the table, in order: those with a value, or a reason for its absence, for any subject."""
    subjects = summary.get("subjects", {})
    return [
        figure
        for figure in (*_answer_figures(summary), *SYSTEM_PROMPT, *_text_figures(summary))
        if any(figure.value(summary, name) is not None or figure.why(summary, name) for name in subjects)
    ]


def main_figure(summary: Summary) -> Figure | None:
    """What subjects are compared by first: gold, else the reward's score; None where answers have neither."""
    wanted = {"gold": 0, "score": 1}
    found = [figure for figure in figures(summary) if figure.path in {("answers", name) for name in wanted}]
    return min(found, key=lambda figure: wanted[figure.metric], default=None)


def turns(summary: Summary) -> list[dict[str, float | None]]:
    """For each turn the share of every subject's answers that obey the system turn; None where it was not asked."""
    of = {name: lookup(of, ("system_prompt", "by_turn")) or [] for name, of in summary.get("subjects", {}).items()}
    count = max(map(len, of.values()), default=0)
    return [{name: each[at] if at < len(each) else None for name, each in of.items()} for at in range(count)]


def others(summary: Summary) -> list[str]:
    """All subjects but the reference, in the table's order."""
    return [name for name in summary.get("subjects", {}) if name != summary.get("reference")]


def win_rate(summary: Summary, subject: str) -> dict[str, Any] | None:
    """{mean, ci95, n, by} of a subject against the reference; None where answers are not compared."""
    return lookup(_against(summary, subject), ("answers", "win_rate"))


def win_tone(win: dict[str, Any]) -> Tone:
    """As `Figure.tone`, where half of the items is no difference."""
    if win["n"] < LEAST_ITEMS:
        return ""
    low, high = win["ci95"]
    return "better" if low > 0.5 else "worse" if high < 0.5 else ""


def _against(summary: Summary, subject: str) -> dict[str, Any]:
    return summary.get("differences", {}).get(subject, {})


def _why(tree: dict[str, Any], path: tuple[str, ...]) -> str:
    """The reason beside a null. Below a measure's own figures it stands one level up, as that of bits_per_byte does."""
    *above, metric = path
    return lookup(tree, (*above, "why", metric)) or lookup(tree, (*above[:1], "why", metric)) or ""


def _answer_figures(summary: Summary) -> Iterator[Figure]:
    """Gold with its parts, the scores by every reward, then the rest."""
    answers = [of.get("answers") or {} for of in summary.get("subjects", {}).values()]
    yield from ANSWERS
    for part in dict.fromkeys(name for of in answers for name in of if name not in NO_PARTS):
        yield Figure(("answers", part), f"gold: {part}", "a part of the gold score", better=1)
    main = summary.get("reward")
    yield Figure(("answers", "score"), f"score by {main}", "mean over finished answers", better=1)
    for reward in dict.fromkeys(name for of in answers for name in of.get("scores") or {}):
        if reward != main:
            yield Figure(("answers", "scores", reward), f"score by {reward}", "mean over finished answers")
    yield from AFTER_GOLD


def _text_figures(summary: Summary) -> Iterator[Figure]:
    """Perplexity of every set of texts, and the bits of each byte, in which subjects are compared."""
    texts = [of.get("perplexity") or {} for of in summary.get("subjects", {}).values()]
    for name in dict.fromkeys(name for of in texts for name in of if name not in BESIDE_PERPLEXITY):
        nowhere = ("perplexity", "bits_per_byte", "perplexity")
        yield Figure(("perplexity", name), f"perplexity of {name}", "of a token of held-out text", compared=nowhere)
        yield Figure(
            ("perplexity", "bits_per_byte", name),
            f"bits a byte of {name}",
            "log2 perplexity for each byte of text, which any tokenizer can be compared in; higher is forgetting",
            decimals(3),
            better=-1,
            compared=("perplexity", name),
        )
