"""python -m bench.claims: what the report says of PPO (3.2.2), tried in the tiny world, three seeds fixed beforehand.

For each seed the world, base, SFT and reward model are made once; each arm is one PPO run that differs from the tiny
recipe in the keys named here and in nothing else. Finished stages are skipped and stopped ones resume, so the command
may be stopped and given again. At the end docs/claims.md is written, with every figure.
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

# Chosen before anything was run, and not changed after.
SEEDS = (11, 12, 13)
STAGES = {"base": "sft", "sft": "sft", "pmp": "reward", "rm": "reward", "harmless": "reward"}
# Arm -> what it changes in recipes/tiny/ppo.yaml.
ARMS: dict[str, list[str]] = {
    "as the recipe": [],
    "no value warm-up": ["ppo.value_warmup_steps=0", "ppo.steps=40"],
    "one response a query": ["ppo.responses_per_query=1", "ppo.queries_per_step=128"],
    "top-p 1.0": ["sampling.top_p=1.0"],
    "pretrained gradient 0.003": ["ppo.pretrain_coef=0.003"],
    "pretrained gradient 3": ["ppo.pretrain_coef=3"],
    "KL 0": ["ppo.kl_coef=0"],
    "KL 0.04": ["ppo.kl_coef=0.04"],
    "KL 0.4": ["ppo.kl_coef=0.4"],
}
Figures = dict[str, float]
OfArms = Mapping[str, Figures]


@dataclass(frozen=True)
class Claim:
    title: str
    arms: tuple[str, ...]
    figures: tuple[str, ...]
    parts: dict[str, Callable[[OfArms], bool]]
    """what is claimed, in words -> whether one seed's figures say so"""


CLAIMS = (
    Claim(
        "Value warm-up", ("as the recipe", "no value warm-up"), ("score", "gold", "early_explained_variance", "kl"),
        {
            "updating the value model alone at first makes PPO steadier: it explains more of the returns":
                lambda of: of["as the recipe"]["early_explained_variance"]
                > of["no value warm-up"]["early_explained_variance"],
            "and the reward ends higher":
                lambda of: of["as the recipe"]["score"] > of["no value warm-up"]["score"],
        },
    ),
    Claim(
        "Two responses a query", ("as the recipe", "one response a query"), ("score", "gold", "kl"),
        {
            "two responses to each query end with a higher reward than one, at equal samples":
                lambda of: of["as the recipe"]["score"] > of["one response a query"]["score"],
        },
    ),
    Claim(
        "Top-p", ("as the recipe", "top-p 1.0"), ("entropy", "score_halfway", "score", "gold"),
        {
            "0.9 has lower entropy than 1.0": lambda of: of["as the recipe"]["entropy"] < of["top-p 1.0"]["entropy"],
            "its reward rises faster":
                lambda of: of["as the recipe"]["score_halfway"] > of["top-p 1.0"]["score_halfway"],
            "and ends higher": lambda of: of["as the recipe"]["score"] > of["top-p 1.0"]["score"],
        },
    ),
    Claim(
        "Pretrained gradient", ("pretrained gradient 0.003", "as the recipe", "pretrained gradient 3"),
        ("pretrain_ppl", "score", "gold"),
        {
            "too small a weight has little effect on the alignment tax":
                lambda of: of["pretrained gradient 0.003"]["pretrain_ppl"] > of["as the recipe"]["pretrain_ppl"],
            "too large a one blocks alignment":
                lambda of: of["pretrained gradient 3"]["score"] < of["as the recipe"]["score"],
        },
    ),
    Claim(
        "KL penalty", ("KL 0", "KL 0.04", "KL 0.4"), ("kl", "score", "gold", "best_gold"),
        {
            "without it the score ends higher than with a strong one":
                lambda of: of["KL 0"]["score"] > of["KL 0.4"]["score"],
            "but gold lower than with the report's: the reward model is over-optimised":
                lambda of: of["KL 0"]["gold"] < of["KL 0.04"]["gold"],
        },
    ),
)  # fmt: skip
MEANINGS = {
    "score": "the helpful reward model's score on held-out prompts at the end",
    "score_halfway": "the same halfway",
    "gold": "gold on held-out prompts at the end",
    "best_gold": "the best gold on the way",
    "entropy": "nats a token, mean over the last ten steps",
    "kl": "nats a response, mean over the last ten steps",
    "early_explained_variance": "of the value model, mean over the policy's first five steps",
    "pretrain_ppl": "perplexity of held-out plain text at the end",
}


def run(command: list[str], tiny: Path) -> None:
    """Run a stage in a process of its own; one that is finished takes a second. Exit with its code where it fails."""
    code = subprocess.run([sys.executable, "-m", *command], env=os.environ | {"TINY": str(tiny)}).returncode
    if code:
        sys.exit(code)


def figures(arm: Path, warmup: int) -> Figures:
    """Return the figures of one PPO run, from its metrics and its evaluation; `warmup` is in steps."""
    rows = read(arm / "metrics.jsonl")
    summary = json.loads((arm / "eval" / "summary.json").read_text())
    measured = [row for row in rows if "heldout_gold" in row]
    halfway = min(measured, key=lambda row: abs(row["step"] - rows[-1]["step"] / 2))
    early = [row["explained_variance"] for row in rows if warmup < row["step"] <= warmup + 5]
    return {
        "score": measured[-1]["heldout_score_helpful"], "score_halfway": halfway["heldout_score_helpful"],
        "gold": measured[-1]["heldout_gold"], "best_gold": max(row["heldout_gold"] for row in measured),
        "entropy": mean(row["entropy"] for row in rows[-10:]), "kl": mean(row["kl"] for row in rows[-10:]),
        "early_explained_variance": mean(early),
        "pretrain_ppl": summary["subjects"]["ppo"]["perplexity"]["pretrain"],
    }  # fmt: skip


def watched(tiny: Path) -> list[str]:
    """Return the keys for what every arm measures as well: on held-out prompts, without training on it."""
    return [f"data.heldout={{path: {tiny}/world/prompts_watched.jsonl}}", "watch.gold=tiny.gold:score"]


def evaluation(seed: int, arm: Path) -> list[str]:
    """Return the keys of an arm's evaluation: perplexity alone is read of it."""
    subjects = f"eval.subjects={{ppo: {arm / 'model'}}}"
    keys = [subjects, "eval.measures=[perplexity]"]
    return [f"run.seed={seed}", f"run.dir={arm / 'eval'}", *keys]


def seed_figures(seed: int, folder: Path, recipes: Path) -> dict[str, Figures]:
    """Run what is missing of one seed and return arm -> figures."""
    tiny = folder / str(seed)
    if not (tiny / "world").exists():
        run(["tiny", str(tiny / "world"), "--seed", str(seed)], tiny)
    for name, stage in STAGES.items():
        run([stage, str(recipes / f"{name}.yaml"), f"run.seed={seed}"], tiny)
    found = {}
    for at, (name, changes) in enumerate(ARMS.items()):
        arm = tiny / f"ppo-{at}"
        run(["ppo", str(recipes / "ppo.yaml"), f"run.seed={seed}", f"run.dir={arm}", *watched(tiny), *changes], tiny)
        if not (arm / "eval" / "summary.json").exists():
            run(["eval", str(recipes / "eval.yaml"), *evaluation(seed, arm)], tiny)
        found[name] = figures(arm, 0 if any(c.startswith("ppo.value_warmup") for c in changes) else 10)
    return found


def minutes(folder: Path) -> float:
    """Return how long all runs in the folder took, however often the command was stopped."""
    return sum(json.loads(path.read_text())["seconds"] for path in folder.rglob(FINISHED)) / 60


def document(by_seed: Mapping[int, OfArms], took: float) -> str:
    """docs/claims.md."""
    lines = [
        "# The report's claims about PPO, in the tiny world", "",
        f"Written by `make claims` (seeds {', '.join(map(str, by_seed))}, fixed beforehand; its runs took {took:.0f} "
        "minutes together). Each arm differs from `recipes/tiny/ppo.yaml` in the keys shown and in nothing else. A "
        "figure is the mean over seeds, with each seed's in brackets. A model of this size in a world of this kind "
        "need not "
        "behave as the report's: where a claim does not show, that is said.", "",
    ]  # fmt: skip
    for claim in CLAIMS:
        lines += [f"## {claim.title}", ""]
        for says, holds in claim.parts.items():
            shown = sum(map(holds, by_seed.values()))
            verdict = "shows" if shown == len(by_seed) else "does not show" if not shown else "is not clear"
            lines.append(f"- Claimed: {says}. **It {verdict}: {shown} of {len(by_seed)} seeds.**")
        lines.append("")
        lines += ["| arm | " + " | ".join(claim.figures) + " |", "| --- " * (1 + len(claim.figures)) + "|"]
        for arm in claim.arms:
            cells = [_cell([of[arm][name] for of in by_seed.values()]) for name in claim.figures]
            keys = f" (`{' '.join(ARMS[arm])}`)" if ARMS[arm] else ""
            lines.append(f"| {arm}{keys} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["## The figures", "", *(f"- `{name}`: {meaning}" for name, meaning in MEANINGS.items()), ""]
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    return f"{mean(values):.3g} ({', '.join(f'{value:.3g}' for value in values)})"


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="make claims", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs/claims"))
    parser.add_argument("--recipes", type=Path, default=Path("recipes/tiny"))
    parser.add_argument("--out", type=Path, default=Path("docs/claims.md"))
    given: Any = parser.parse_args(arguments)
    by_seed = {seed: seed_figures(seed, given.folder, given.recipes) for seed in SEEDS}
    durable.write_text(given.out, document(by_seed, minutes(given.folder)))
    print(f"{given.out}: written")


if __name__ == "__main__":
    main(sys.argv[1:])
