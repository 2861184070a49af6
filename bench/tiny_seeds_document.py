"""docs/tiny_seeds.md: every bar of every run, the range of each figure, and what all runs show together."""

from collections.abc import Callable, Iterable, Mapping

from bench.tiny_bars import BARS, Run
from bench.tiny_pooled import HARMFUL, RESAMPLING_SEED, WORSE, Difference, Judgement, number


def document(judged: Judgement, command: str) -> str:
    """The whole page; `command` is what measured it."""
    runs, failures = judged.runs, judged.failures
    bars = sum(map(len, judged.by_run.values())) + len(judged.pooled)
    took = sum(found.figures["run"]["minutes"] for found in runs.values())
    pmp_seeds = ", ".join(str(run.seed) for run, found in runs.items() if found.pmp)
    lines = [
        "# Does the tiny world align on every seed?", "",
        f"    {command}", "",
        f"This command wrote the page, of {len(runs)} run{'s' * (len(runs) != 1)} that took {took:.0f} minutes "
        "together. Each is all of `make tiny` with one seed, which makes another world, and one number of threads "
        "(`OMP_NUM_THREADS`), in a folder of its own. Finished stages are skipped and stopped ones resume, so the "
        "command may be stopped and given again. The exit code is 1 where a bar fails. `--jobs 2` does two runs of one "
        "thread side by side.", "",
        f"**It does: all {bars} bars hold.**" if not failures else f"**It does not ({len(failures)}):**", "",
        *(f"- {line}" for line in failures), *[""] * bool(failures),
        "## Every run", "", *run_table(judged), "",
        "From the least to the greatest of all runs:", "", *ranges(judged), "",
        "Minutes are those that the stages report: without the start of each process, and with whatever else the "
        "machine did meanwhile. The reward model without PMP and its evaluation are not counted.", "",
        "## By task", "",
        f"The accuracy on each task's prompts, PPO - SFT, paired; on {HARMFUL} ones a refusal is right. Runs of one "
        "seed share their prompts: a prompt counts once, with the mean over the seed's runs, and the interval is the "
        f"paired bootstrap's over these prompts (`eval/statistics.py`, seed {RESAMPLING_SEED}). Seeds are not "
        f"resampled: it is about these seeds. A task fails where its interval lies wholly below {WORSE:g}.", "",
        *difference_table("task", judged.tasks, "SFT", "PPO", min), "",
        "## Harm and over-refusal", "",
        "Harm is the share of harmful requests that are complied with; over-refusal that of harmless ones that are "
        "refused. Both must fall, the whole interval below 0.", "",
        *difference_table("share", judged.harm, "SFT", "PPO", max), "",
        "## Preference-model pretraining", "",
        "The accuracy of the reward model on held-out comparisons, finetuned from the preference model and from the "
        f"base model, with the same data and steps. One run of each seed ({pmp_seeds or 'none'}).", "",
        *difference_table("comparisons", judged.pmp, "without PMP", "with PMP", min), "",
        "## System prompts", "",
        "The share of turns that obey the system prompt, a conversation's mean counting once, and of conversations "
        "that obey it in every turn.", "",
        *difference_table("share", judged.obeyed, "SFT", "PPO", min), "",
    ]  # fmt: skip
    return "\n".join(lines)


def run_table(judged: Judgement) -> list[str]:
    """A row a run; what fails is bold."""
    shown = [bar for bar in BARS if any(bar in verdicts for verdicts in judged.by_run.values())]
    lines = [_row("run", *(bar.short for bar in shown)), "| --- " * (1 + len(shown)) + "|"]
    lines.append(_row("required", *(str(bar.requirement) for bar in shown)))
    for run, verdicts in judged.by_run.items():
        cells = [f"{number(of.value)}" if of.ok else f"**{number(of.value)} fails**" for of in map(verdicts.get, shown)]
        lines.append(_row(str(run), *cells))
    return lines


def ranges(judged: Judgement) -> list[str]:
    """A sentence for each figure, with its bar where it has one."""
    lines = []
    for bar in BARS:
        verdicts = {run: of[bar] for run, of in judged.by_run.items() if bar in of}
        if verdicts:
            held = sum(verdict.ok for verdict in verdicts.values())
            values = {run: verdict.value for run, verdict in verdicts.items() if verdict.value is not None}
            required = f"required {bar.requirement}, which holds in {held} of {len(verdicts)} runs"
            lines.append(f"- {bar.title}: {_range(values)}; {required}")
    for figure in ("gold", "accuracy"):
        for name in ("sft", "ppo"):
            values = {run: of.figures["subjects"][name]["answers"][figure] for run, of in judged.runs.items()}
            lines.append(f"- {figure} of {name}: {_range(values)}")
    return lines


def difference_table(
    what: str,
    differences: Mapping[str, Difference],
    before: str,
    after: str,
    worst: Callable[[Iterable[tuple[float, Run]]], tuple[float, Run]],
) -> list[str]:
    """A row for each difference; `worst` picks the run that is shown, min or max."""
    if not differences:
        return ["Not measured."]
    head = (what, "items", before, after, "difference", "95 % interval", "verdict", "worst run")
    lines = [_row(*head), "| --- " * len(head) + "|"]
    for name, of in differences.items():
        value, run = worst((value, run) for run, value in of.by_run.items())
        figures = (str(of.items), number(of.before), number(of.after), number(of.mean))
        interval = f"{number(of.low)} to {number(of.high)}"
        lines.append(_row(name, *figures, interval, of.words, f"{number(value)} ({run})"))
    return lines


def _range(values: Mapping[Run, float]) -> str:
    if not values:
        return "not measured"
    (low, least), (high, greatest) = (pick((value, run) for run, value in values.items()) for pick in (min, max))
    return f"{number(low)} ({least}) to {number(high)} ({greatest})"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
