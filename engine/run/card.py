"""Render a model card from a run folder: base models, data, recipe and metrics."""

import json
from pathlib import Path
from typing import Any

import yaml

from config.schema import show
from config.sections import is_hub_id
from engine.errors import RunError
from engine.files import jsonl
from engine.run.best import describe_best
from engine.run.metrics import TIMING

LICENSES_URL = "https://huggingface.co/docs/hub/repositories-licenses"
# Stage -> (description of the training, tags, task on the hub, class that loads the model).
CAUSAL, SCALAR = (
    ("text-generation", "AutoModelForCausalLM"),
    ("text-classification", "AutoModelForSequenceClassification"),
)
STAGES = {
    "ppo": ("PPO against a reward model", ["ppo", "rlhf"], *CAUSAL),
    "reward": ("training a reward model", ["reward-model"], *SCALAR),
    "sft": ("supervised finetuning", ["sft"], *CAUSAL),
}
SCORE_NOTE = (
    "The score is the logit at the conversation's last `<|im_end|>` minus `score_offset` of `config.json`. "
    "The input ends there, without the newline that follows. Scores compare responses to the same prompt."
)


def model_card(run: Path, repository: str, *, model: Path | None = None, step: int | None = None) -> str:
    """Return the card (Markdown with a YAML header) of a finished run's model, for the hub repository `repository`.

    To describe a checkpoint instead, pass the folder that it was exported to as `model`, and its `step`.

    Raises RunError if the run's recipe has no `stage`, or one that trains no model.
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
    best = {} if step is not None else read_finished(run).get("best", {})
    last = best.get("step", step)
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    return f"""---
{yaml.safe_dump(head, sort_keys=False)}# license: yours to choose, among those of {LICENSES_URL}
---

# {repository}

The result of {what} with plumbline, the alignment pipeline of the [Qwen technical
report](https://arxiv.org/abs/2309.16609): {run_length(run, step)} on
{environment["processes"]} × {environment["device"]}{finish_date(run, step)}.{best_sentence(best)}

`{loader}.from_pretrained("{repository}")` loads {"the adapter on its base" if adapter else "it"}; the tokenizer and its
ChatML template are beside it.{" " + SCORE_NOTE if stage == "reward" else ""}

## Trained from

{" ← ".join(f"`{path}`" for path in origins)}{rewards_line(recipe) if stage == "ppo" else ""}

## Data

{data_table(run, recipe)}

## Metrics at {"the end" if last is None else f"step {last:,}"}

The last logged value of each metric. Names with `eval_` were measured on `data.eval`, names with `heldout_` on
`data.heldout`; all others on the training data of that step.

{metrics_table(run, last)}

## Recipe

```yaml
{yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=120)}```

{packages}
"""


def run_length(run: Path, step: int | None) -> str:
    """Return the steps and seconds of the run, or of the run up to the checkpoint of `step`."""
    if step is None:
        return f"{read_finished(run)['steps']:,} steps, {read_finished(run)['seconds']:,.0f} s"
    seconds = max((row["elapsed_seconds"] for row in read_metrics(run, step)), default=0)
    return f"its checkpoint after {step:,} steps, {seconds:,.0f} s"


def finish_date(run: Path, step: int | None) -> str:
    """Return the clause with the date on which the run finished; "" for a checkpoint."""
    if step is not None:
        return ""
    return f", finished {read_finished(run)['at'][:10]}"


def read_finished(run: Path) -> dict[str, Any]:
    """Return the content of finished.json."""
    return json.loads((run / "finished.json").read_text(encoding="utf-8"))


def best_sentence(best: dict[str, Any]) -> str:
    """Return the sentence that names the best step; "" if the model is that of the last step."""
    return f" The model is that of {describe_best(best)}." if best else ""


def read_metrics(run: Path, step: int | None) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl, up to `step` if it is given."""
    return [row for row in jsonl.read(run / "metrics.jsonl") if step is None or row["step"] <= step]


def ancestors(path: str) -> list[str]:
    """Return `path` and the models it was trained from, newest first, by following `model.path` from run to run."""
    recipe = Path(path).parent / "recipe.yaml"
    if not recipe.is_file():
        return [path]
    return [path, *ancestors(yaml.safe_load(recipe.read_text(encoding="utf-8"))["model"]["path"])]


def rewards_line(recipe: dict[str, Any]) -> str:
    """Return the line that lists the rewards of a PPO run, with their weights if they are mixed."""
    section = recipe["reward"]
    mix = section.get("mix") or {}
    parts = ", ".join(f"{name} `{reward_source(part)}` × {mix_weight(part):g}" for name, part in mix.items())
    return f"\n\nRewards: {parts or f'`{reward_source(section)}`'}"


def reward_source(scoring: Any) -> Any:
    """Return the models, the rule or the endpoint of a reward section; a part of a mix may be just a model path."""
    if not isinstance(scoring, dict):
        return scoring
    return scoring.get("path") or scoring.get("rule") or (scoring.get("judge") or {}).get("url")


def mix_weight(part: Any) -> float:
    """Return the weight of one reward of a mix (default 1)."""
    return part.get("weight", 1.0) if isinstance(part, dict) else 1.0


def data_table(run: Path, recipe: dict[str, Any]) -> str:
    """Return a table with the records read, kept, cut and dropped for each data key."""
    reports = json.loads((run / "data.json").read_text(encoding="utf-8"))
    rows = [
        (f"`data.{name}`", source_names(recipe["data"].get(name)), report["read"], report["kept"], report["cut"],
         sum(report["dropped"].values()), report["tokens"])
        for name, report in reports.items()
    ]  # fmt: skip
    return markdown_table(("key", "source", "records", "kept", "cut", "dropped", "tokens"), rows)


def source_names(value: Any) -> str:
    """Return the paths of a data key's sources as Markdown."""
    each = value if isinstance(value, list) else [value]
    return ", ".join(f"`{one['path'] if isinstance(one, dict) else one}`" for one in each)


def metrics_table(run: Path, step: int | None) -> str:
    """Return a table with each metric's last value and its step, up to `step` if it is given."""
    last: dict[str, tuple[str, float, int]] = {}
    for row in read_metrics(run, step):
        for name, value in row.items():
            if value is not None and name not in ("step", "epoch") and not TIMING.search(name):
                last[name] = (f"`{name}`", value, row["step"])
    return markdown_table(("metric", "value", "step"), list(last.values()))


def markdown_table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Return a Markdown table."""

    def text(cell: Any) -> str:
        return f"{cell:.5g}" if isinstance(cell, float) else f"{cell:,}" if isinstance(cell, int) else cell

    return "\n".join(f"| {' | '.join(map(text, row))} |" for row in (head, ("---",) * len(head), *rows))
