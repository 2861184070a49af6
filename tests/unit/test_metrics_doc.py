"""docs/metrics.md defines what the code writes: no name more, none less."""

import re

import pytest

from engine.run.metrics import read
from eval.summary import summarise
from tests.support.paths import ROOT

DOC = ROOT / "docs" / "metrics.md"
# Metrics of a data key or a coefficient that a run need not have,
OPTIONAL = {"eval_loss", "eval_accuracy", "eval_margin",
            "heldout_score", "heldout_gold", "heldout_gold_error", "heldout_seconds"}  # fmt: skip
# and those of several processes.
OPTIONAL |= {"straggler_seconds", "forward_seconds"} | {
    f"{phase}_mean_seconds" for phase in ("forward", "sample", "score", "learn", "heldout")
}


def documented(title):
    """The names in the first columns of a section's tables."""
    sections = re.split(r"^## ", DOC.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith(title)]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert len(names) == len(set(names))
    return set(names)


def written(*folders):
    names = set()
    for folder in folders:
        for row in read(folder / "metrics.jsonl"):
            names |= row.keys()
    return names


@pytest.mark.parametrize(
    ("title", "stages"),
    [("SFT", ("base", "sft")), ("Reward model", ("pmp", "rm")), ("PPO", ("ppo",))],
)
def test_every_metric_is_defined(mini, title, stages):
    names = written(*(mini / stage for stage in stages))
    assert names <= documented(title)
    assert documented(title) - names <= OPTIONAL


def test_every_figure_is_defined():
    gold = dict.fromkeys(("gold", "correct", "manner", "length", "instruction"), 0.0)
    answer = {"text": "", "tokens": 1, "ended": True, "score": 0.0, "gold": gold, "logprob_ppo": 0, "logprob_sft": 0}
    scores, sets = {"pmp": [1, 0], "rm": [1, 0]}, ("pairs", "correctness_pairs")
    pairs = [{"data": data, "scores": scores, "tokens": [3, 2]} for data in sets]
    losses = dict.fromkeys(("base", "sft", "ppo"), (1.0, 1))
    sample = {"answers": {"sft": [answer, answer], "ppo": [answer]}, "record": {"task": "sum"}}
    figures = summarise([sample], pairs, losses, seed=0)
    assert figures.keys() | {"seconds"} == documented("Evaluation")
    assert figures["reward_models"]["rm"]["pairs"].keys() == documented("Trust")
