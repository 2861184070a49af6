"""docs/metrics.md defines exactly the metrics and figures that the code writes."""

import re

import pytest

from engine.files.jsonl import read
from eval.summary import EvaluatedSubjects, summarise
from ppo.train import train
from tests.support.paths import ROOT
from tests.support.ppo_setting import make_setting, recipe_of

DOC = ROOT / "docs" / "metrics.md"
# Metrics that a run need not have: those of optional data keys and coefficients,
OPTIONAL = {"eval_loss", "eval_accuracy", "eval_margin",
            "heldout_score", "heldout_gold", "heldout_gold_error", "heldout_seconds", "running_mean"}  # fmt: skip
# those of a reward mix, which are tested below,
OPTIONAL |= {f"{kind}_NAME" for kind in ("score", "normalised_score", "running_mean", "heldout_score")}
# and those of runs on several ranks.
OPTIONAL |= {"straggler_seconds", "forward_seconds"} | {
    f"{phase}_mean_seconds" for phase in ("forward", "sample", "score", "learn", "heldout")
}


def documented(title):
    """Return the names in the first columns of a section's tables."""
    sections = re.split(r"^## ", DOC.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (section,) = [text for text in sections if text.startswith(title)]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]
    assert len(names) == len(set(names))
    return set(names)


def logged(*folders):
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
    names = {re.sub("_(helpful|harmless)$", "_NAME", name) for name in logged(*(mini / stage for stage in stages))}
    assert names <= documented(title)
    assert documented(title) - names <= OPTIONAL


def test_every_metric_of_a_mix_is_defined(tmp_path):
    setting = make_setting(tmp_path)
    mix = f"reward.mix={{one: {tmp_path}/reward, other: {tmp_path}/reward}}"
    heldout = f"data.heldout={tmp_path}/prompts.jsonl"
    train(recipe_of(setting, "reward.path=null", mix, heldout, "ppo.steps=2", f"run.dir={tmp_path}/run"))
    names = logged(tmp_path / "run")
    of_parts = {name for name in names if name.endswith(("_one", "_other"))}
    assert {name.replace("_one", "_NAME") for name in of_parts if name.endswith("_one")} == {
        name for name in documented("PPO") if name.endswith("_NAME")
    }
    assert names - of_parts <= documented("PPO") - {"running_mean"}


def test_every_figure_is_defined():
    gold = dict.fromkeys(("total", "correct", "manner", "length", "instruction"), 0.0)
    known = {"text": "", "tokens": 1, "ended": True, "scores": {"rm": 0.0}, "gold": gold, "record": {"task": "sum"}}
    known |= {"item": 0, "logprob": 0.0, "reference_logprob": 0.0}
    names = ("sft", "ppo", "other")
    answers = [known | {"subject": name} for name in names]
    pairs = [{"set": "pairs", "subset": "chat", "scores": {"rm": [1, 0]}, "tokens": [3, 2]}]
    texts = [{"set": "pretrain", "item": 0, "subject": name, "nll": 1.0, "tokens": 1, "bytes": 1} for name in names[:2]]
    why = {"other": {"perplexity": "none"}}
    conversations = [{"item": 0, "subject": name, "obeyed": [], "stopped": "too_long"} for name in names]
    summary = summarise(answers, pairs, texts, EvaluatedSubjects(names, "sft", "rm", why), 0, conversations)
    assert summary.keys() | {"seconds"} == documented("Evaluation")
    assert summary["subjects"]["ppo"]["answers"].keys() == documented("Answers")
    assert summary["subjects"]["other"]["perplexity"].keys() == documented("Perplexity")
    assert summary["subjects"]["ppo"]["system_prompt"].keys() == documented("System turns")
    win_rate = summary["differences"]["ppo"]["answers"]["win_rate"]
    assert win_rate.keys() | {"win_rate", "win_rates"} == documented("Differences")
    assert summary["rewards"]["rm"]["comparisons"]["pairs"].keys() == documented("Comparisons")
