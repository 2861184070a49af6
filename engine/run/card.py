"""A model card made from a run folder: the models and data it was trained from, and the metrics of its run."""

import json
from pathlib import Path
from typing import Any

import yaml

from config.schema import show
from config.sections import is_hub_id
from engine.errors import RunError
from engine.files import jsonl
from engine.run.best import in_words
from engine.run.metrics import TIMING

LICENSES = "https://huggingface.co/docs/hub/repositories-licenses"
# Stage -> the training, its tags, the hub's task, and the class that loads the model.
CAUSAL, SCALAR = (
    ("text-generation", "AutoModelForCausalLM"),
    ("text-classification", "AutoModelForSequenceClassification"),
)
STAGES = {
    "ppo": ("PPO against a reward model", ["ppo", "rlhf"], *CAUSAL),
    "reward": ("training a reward model", ["reward-model"], *SCALAR),
    "sft": ("supervised finetuning", ["sft"], *CAUSAL),
}
SCORE = (
    "Its logit is read at the conversation's last `<|im_end|>`; from it `score_offset` of `config.json` is subtracted. "
    "Rows end there, without the newline that follows. Scores compare answers to one prompt."
)


def model_card(run: Path, repository: str, *, model: Path | None = None, step: int | None = None) -> str:
    """Return the card of a finished run's `model/` for a repository of the hub.

    With `model` and `step` it is that of the folder which one of the run's checkpoints was written to.

    Raises RunError for the folder of a run that left no model, or that is too old to name its stage.
    """
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    stage = recipe.get("stage")
    if stage not in STAGES:
        raise RunError(f"{run}/recipe.yaml: stage is {show(stage)}; add the line stage: {' | '.join(STAGES)}")
    what, tags, task, loader = STAGES[stage]
    adapter = ((model or run / "model") / "adapter_config.json").exists()
    origins = ancestors(recipe["model"]["path"])
    head = {
        "library_name": "peft" if adapter else "transformers",
        "pipeline_tag": task,
        "tags": ["plumbline", "chatml", *tags],
        **({"base_model": origins[-1]} if is_hub_id(origins[-1]) else {}),
    }
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    best = {} if step is not None else finished(run).get("best", {})
    last = best.get("step", step)
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    return f"""---
{yaml.safe_dump(head, sort_keys=False)}# license: yours to choose, among those of {LICENSES}
---

# {repository}

The result of {what} with plumbline, the alignment pipeline of the [Qwen technical
report](https://arxiv.org/abs/2309.16609): {extent(run, step)} on
{environment["processes"]} × {environment["device"]}{finish_date(run, step)}.{chosen(best)}

`{loader}.from_pretrained("{repository}")` loads {"the adapter on its base" if adapter else "it"}; the tokenizer and its
ChatML template are beside it.{" " + SCORE if stage == "reward" else ""}

## Made from

{" ← ".join(f"`{path}`" for path in origins)}{rewards(recipe) if stage == "ppo" else ""}

## Data

{data_table(run, recipe)}

## Metrics at {"the end" if last is None else f"step {last:,}"}

The last value of each that the run logged. Names with `eval_` were measured on `data.eval`, names with `heldout_` on
`data.heldout`; all others on what was trained on, at that step.

{metrics_table(run, last)}

## Recipe

```yaml
{yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=120)}```

{packages}
"""


def extent(run: Path, step: int | None) -> str:
    """Return how long the run took, or took up to a checkpoint."""
    if step is None:
        return f"{finished(run)['steps']:,} steps, {finished(run)['seconds']:,.0f} s"
    seconds = max((row["elapsed_seconds"] for row in logged(run, step)), default=0)
    return f"its checkpoint after {step:,} steps, {seconds:,.0f} s"


def finish_date(run: Path, step: int | None) -> str:
    """Return when the run finished, in words; nothing for a checkpoint."""
    if step is not None:
        return ""
    return f", finished {finished(run)['at'][:10]}"


def finished(run: Path) -> dict[str, Any]:
    """Return what a run has written when it was finished."""
    return json.loads((run / "finished.json").read_text(encoding="utf-8"))


def chosen(best: dict[str, Any]) -> str:
    """Return the sentence that says which step the model is of; nothing where it is the last one's."""
    return f" The model is that of {in_words(best)}." if best else ""


def logged(run: Path, step: int | None) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, up to a step if one is given."""
    return [row for row in jsonl.read(run / "metrics.jsonl") if step is None or row["step"] <= step]


def ancestors(path: str) -> list[str]:
    """Return `path` and the models it was trained from, newest first: its run's start, that run's start, and so on."""
    recipe = Path(path).parent / "recipe.yaml"
    if not recipe.is_file():
        return [path]
    return [path, *ancestors(yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["path"])]


def rewards(recipe: dict[str, Any]) -> str:
    """Return the line that names what scored the responses of a PPO run, of a mix with the weights."""
    section = recipe["reward"]
    mix = section.get("mix") or {}
    parts = ", ".join(f"{name} `{source(part)}` × {weight(part):g}" for name, part in mix.items())
    return f"\n\nRewards: {parts or f'`{source(section)}`'}"


def source(scoring: Any) -> Any:
    """Return the models, the rule or the endpoint that a section names; a part of a mix may be the model itself."""
    if not isinstance(scoring, dict):
        return scoring
    return scoring.get("path") or scoring.get("rule") or (scoring.get("judge") or {}).get("url")


def weight(part: Any) -> float:
    """Return the weight of a part of a mix, by default 1."""
    return part.get("weight", 1.0) if isinstance(part, dict) else 1.0


def data_table(run: Path, recipe: dict[str, Any]) -> str:
    """Return a table of the records read, kept, cut and dropped of every data key."""
    reports = json.loads((run / "data.json").read_text(encoding="utf-8"))
    rows = [
        (f"`data.{name}`", sources(recipe["data"].get(name)), report["read"], report["kept"], report["cut"],
         sum(report["dropped"].values()), report["tokens"])
        for name, report in reports.items()
    ]  # fmt: skip
    return table(("key", "source", "records", "kept", "cut", "dropped", "tokens"), rows)


def sources(value: Any) -> str:
    """Return the names of a data key's sources."""
    each = value if isinstance(value, list) else [value]
    return ", ".join(f"`{one['path'] if isinstance(one, dict) else one}`" for one in each)


def metrics_table(run: Path, step: int | None = None) -> str:
    """Return a table of each metric's last value, up to a step if one is given, and its step."""
    last: dict[str, tuple[str, float, int]] = {}
    for row in logged(run, step):
        for name, value in row.items():
            if value is not None and name not in ("step", "epoch") and not TIMING.search(name):
                last[name] = (f"`{name}`", value, row["step"])
    return table(("metric", "value", "step"), list(last.values()))


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Return a Markdown table."""

    def text(cell: Any) -> str:
        return f"{cell:.5g}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell

    return "\n".join(f"| {' | '.join(map(text, row))} |" for row in (head, ("---",) * len(head), *rows))
