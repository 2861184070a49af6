"""python -m bench.claims: test the report's claims about PPO (3.2.2) in the tiny world, on three seeds.

For each seed the world, the base model, the SFT model and the reward models are created once. Each arm is one PPO run
that differs from the tiny recipe only in the keys listed here. Finished stages are skipped and interrupted ones resume,
so you can stop the command and run it again. At the end it writes docs/claims.md with all figures.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from engine.files import durable
from engine.files.jsonl import read
from engine.run.folder import FINISHED

# Chosen before the first run and not changed since.
SEEDS = (11, 12, 13)
STAGES = {"base": "sft", "sft": "sft", "pmp": "reward", "rm": "reward", "harmless": "reward"}
# Arm -> its overrides of recipes/tiny/ppo.yaml.
ARMS: dict[str, list[str]] = {
    "as the recipe": [],
    "no value warm-up": ["ppo.value_warmup_steps=0", "ppo.steps=40"],
    "one response per query": ["ppo.responses_per_query=1", "ppo.queries_per_step=128"],
    "top-p 1.0": ["sampling.top_p=1.0"],
    "pretrained gradient 0.003": ["ppo.pretrain_coef=0.003"],
    "pretrained gradient 3": ["ppo.pretrain_coef=3"],
    "KL 0": ["ppo.kl_coef=0"],
    "KL 0.04": ["ppo.kl_coef=0.04"],
    "KL 0.4": ["ppo.kl_coef=0.4"],
}
Figures = dict[str, float]
ArmFigures = Mapping[str, Figures]


@dataclass(frozen=True)
class Claim:
    title: str
    arms: tuple[str, ...]
    figures: tuple[str, ...]
    parts: dict[str, Callable[[ArmFigures], bool]]
    """statement -> whether the figures of one seed support it"""


CLAIMS = (
    Claim(
        "Value warm-up", ("as the recipe", "no value warm-up"), ("score", "gold", "early_explained_variance", "kl"),
        {
            "training only the value model at first makes PPO more stable: it explains more of the returns":
                lambda of: of["as the recipe"]["early_explained_variance"]
                > of["no value warm-up"]["early_explained_variance"],
            "the final reward is higher":
                lambda of: of["as the recipe"]["score"] > of["no value warm-up"]["score"],
        },
    ),
    Claim(
        "Two responses per query", ("as the recipe", "one response per query"), ("score", "gold", "kl"),
        {
            "two responses per query give a higher final reward than one, with the same number of samples":
                lambda of: of["as the recipe"]["score"] > of["one response per query"]["score"],
        },
    ),
    Claim(
        "Top-p", ("as the recipe", "top-p 1.0"), ("entropy", "score_halfway", "score", "gold"),
        {
            "the entropy is lower with 0.9 than with 1.0":
                lambda of: of["as the recipe"]["entropy"] < of["top-p 1.0"]["entropy"],
            "the reward rises faster with 0.9":
                lambda of: of["as the recipe"]["score_halfway"] > of["top-p 1.0"]["score_halfway"],
            "the final reward is higher with 0.9":
                lambda of: of["as the recipe"]["score"] > of["top-p 1.0"]["score"],
        },
    ),
    Claim(
        "Pretrained gradient", ("pretrained gradient 0.003", "as the recipe", "pretrained gradient 3"),
        ("pretrain_ppl", "score", "gold"),
        {
            "if the weight is too small, it has little effect on the alignment tax":
                lambda of: of["pretrained gradient 0.003"]["pretrain_ppl"] > of["as the recipe"]["pretrain_ppl"],
            "if the weight is too large, it prevents alignment":
                lambda of: of["pretrained gradient 3"]["score"] < of["as the recipe"]["score"],
        },
    ),
    Claim(
        "KL penalty", ("KL 0", "KL 0.04", "KL 0.4"), ("kl", "score", "gold", "best_gold"),
        {
            "the final score is higher without a penalty than with a strong one":
                lambda of: of["KL 0"]["score"] > of["KL 0.4"]["score"],
            "gold is lower without a penalty than with the report's (over-optimisation)":
                lambda of: of["KL 0"]["gold"] < of["KL 0.04"]["gold"],
        },
    ),
)  # fmt: skip
MEANINGS = {
    "score": "final score of the helpful reward model on held-out prompts",
    "score_halfway": "the same halfway through the run",
    "gold": "final gold score on held-out prompts",
    "best_gold": "highest gold score on held-out prompts during the run",
    "entropy": "nats per token, mean over the last ten steps",
    "kl": "nats per response, mean over the last ten steps",
    "early_explained_variance": "explained variance of the value model, mean over the policy's first five steps",
    "pretrain_ppl": "final perplexity of held-out plain text",
}


def run_stage(command: list[str], tiny: Path) -> None:
    """Run `python -m command` with TINY set. A finished stage ends at once. If it fails, exit with its exit code."""
    code = subprocess.run([sys.executable, "-m", *command], env=os.environ | {"TINY": str(tiny)}).returncode
    if code:
        sys.exit(code)


def read_figures(arm: Path, warmup: int) -> Figures:
    """Return the figures of one PPO run from its metrics and its evaluation; `warmup` is the value warm-up in steps."""
    rows = read(arm / "metrics.jsonl")
    summary = json.loads((arm / "eval" / "summary.json").read_text())
    measured = [row for row in rows if "heldout_gold" in row]
    halfway = min(measured, key=lambda row: abs(row["step"] - rows[-1]["step"] / 2))
    early = [row["explained_variance"] for row in rows if warmup < row["step"] <= warmup + 5]
    return {
        "score": measured[-1]["heldout_score_helpful"],
        "score_halfway": halfway["heldout_score_helpful"],
        "gold": measured[-1]["heldout_gold"],
        "best_gold": max(row["heldout_gold"] for row in measured),
        "entropy": mean(row["entropy"] for row in rows[-10:]),
        "kl": mean(row["kl"] for row in rows[-10:]),
        "early_explained_variance": mean(early),
        "pretrain_ppl": summary["subjects"]["ppo"]["perplexity"]["pretrain"],
    }


def heldout_overrides(tiny: Path) -> list[str]:
    """Return the overrides that make every arm measure score and gold on held-out prompts."""
    return [f"data.heldout={{path: {tiny}/world/prompts_watched.jsonl}}", "watch.gold=tiny.gold:score"]


def evaluation_overrides(seed: int, arm: Path) -> list[str]:
    """Return the overrides of an arm's evaluation, which measures only perplexity."""
    subjects = f"eval.subjects={{ppo: {arm / 'model'}}}"
    keys = [subjects, "eval.measures=[perplexity]"]
    return [f"run.seed={seed}", f"run.dir={arm / 'eval'}", *keys]


def seed_figures(seed: int, folder: Path) -> dict[str, Figures]:
    """Run the missing stages of one seed and return arm -> figures."""
    tiny = folder / str(seed)
    if not (tiny / "world").exists():
        run_stage(["tiny", str(tiny / "world"), "--seed", str(seed)], tiny)
    for name, stage in STAGES.items():
        run_stage([stage, f"recipes/tiny/{name}.yaml", f"run.seed={seed}"], tiny)
    found = {}
    for at, (name, changes) in enumerate(ARMS.items()):
        arm = tiny / f"ppo-{at}"
        run_stage(
            ["ppo", "recipes/tiny/ppo.yaml", f"run.seed={seed}", f"run.dir={arm}", *heldout_overrides(tiny), *changes],
            tiny,
        )
        if not (arm / "eval" / "summary.json").exists():
            run_stage(["eval", "recipes/tiny/eval.yaml", *evaluation_overrides(seed, arm)], tiny)
        found[name] = read_figures(arm, 0 if any(c.startswith("ppo.value_warmup") for c in changes) else 10)
    return found


def total_minutes(folder: Path) -> float:
    """Return the minutes that all finished runs in the folder took, over all calls of the command."""
    return sum(json.loads(path.read_text())["seconds"] for path in folder.rglob(FINISHED)) / 60


def document(by_seed: Mapping[int, ArmFigures], took: float) -> str:
    """Return the text of docs/claims.md; `took` is in minutes."""
    lines = [
        "# The report's claims about PPO, in the tiny world",
        "",
        f"Written by `make claims` (seeds {', '.join(map(str, by_seed))}, fixed in advance; total time of the runs: "
        f"{took:.0f} minutes). Each arm differs from `recipes/tiny/ppo.yaml` only in the keys shown. A figure is the "
        "mean over seeds, with the figure of each seed in brackets. A small model in a synthetic world need not behave "
        "like the report's models; each claim is reported with the number of seeds that support it.",
        "",
    ]
    for claim in CLAIMS:
        lines += [f"## {claim.title}", ""]
        for says, holds in claim.parts.items():
            shown = sum(map(holds, by_seed.values()))
            verdict = "Confirmed" if shown == len(by_seed) else "Not confirmed" if not shown else "Unclear"
            lines.append(f"- Claim: {says}. **{verdict}: {shown} of {len(by_seed)} seeds.**")
        lines.append("")
        lines += ["| arm | " + " | ".join(claim.figures) + " |", "| --- " * (1 + len(claim.figures)) + "|"]
        for arm in claim.arms:
            cells = [_cell([of[arm][name] for of in by_seed.values()]) for name in claim.figures]
            keys = f" (`{' '.join(ARMS[arm])}`)" if ARMS[arm] else ""
            lines.append(f"| {arm}{keys} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["## Figures", "", *(f"- `{name}`: {meaning}" for name, meaning in MEANINGS.items()), ""]
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    return f"{mean(values):.3g} ({', '.join(f'{value:.3g}' for value in values)})"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="make claims", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/claims"))
    parser.add_argument("--out", type=Path, default=Path("docs/claims.md"))
    given: Any = parser.parse_args(arguments)
    by_seed = {seed: seed_figures(seed, given.folder) for seed in SEEDS}
    durable.write_text(given.out, document(by_seed, total_minutes(given.folder)))
    print(f"{given.out}: written")


if __name__ == "__main__":
    main(sys.argv[1:])
