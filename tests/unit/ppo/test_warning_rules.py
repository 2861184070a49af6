"""PPO's warnings, from made-up metrics."""

import re

import pytest

from ppo.warning_rules import RULES, warnings_of
from tests.support.paths import ROOT
from tests.support.ppo_setting import make_setting, recipe_of

DOC = ROOT / "docs" / "ppo.md"
HEALTHY = {
    "first_ratio_error": 1e-6, "engine_mismatch": 1e-6, "kl": 1.0, "entropy": 1.0, "response_tokens": 10.0,
    "without_end": 0.0, "control_tokens": 0.0, "explained_variance": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return make_setting(tmp_path_factory.mktemp("setting"))


def rows(steps, **changes):
    """Return metrics of a healthy run with `changes` in its second half."""
    return [{"step": n + 1, **HEALTHY, **(changes if n >= steps // 2 else {})} for n in range(steps)]


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("ratio", {"first_ratio_error": 0.5}, "before the first update the probability ratio differs from 1 by 0.5"),
        ("engine_mismatch", {"engine_mismatch": 0.38},
         "the engine's log-probabilities differ from the trainer's by 0.38 nats per token on average"),
        ("control_tokens", {"control_tokens": 0.25}, "25% of the responses have control tokens before their end"),
        ("kl_negative", {"kl": -0.5}, "kl is -0.5 nats per response over the last steps"),
        ("kl_high", {"kl": 31.0}, "kl is 31 nats per response, above watch.kl=30"),
        ("entropy_collapse", {"entropy": 0.2}, "entropy is 0.2 nats per token, 20% of its mean over the first steps"),
        ("length_growth", {"response_tokens": 25.0},
         "responses have 25 tokens, 2.5 times their mean over the first steps"),
        ("without_end", {"without_end": 0.5}, "50% of the responses have no end token"),
        ("value_useless", {"explained_variance": -0.25},
         "values explain none of the variance of the returns (explained_variance -0.25)"),
    ],
)  # fmt: skip
def test_each_metric_out_of_range_causes_its_warning(setting, name, changes, text):
    recipe = recipe_of(setting)
    assert warnings_of(rows(40, **changes), recipe) == {name: f"{text}; see docs/ppo.md"}
    assert warnings_of(rows(40), recipe) == {}
    assert warnings_of([], recipe) == {}


def test_a_step_without_finished_responses_is_warned_of_immediately(setting):
    text = "no response has ended, so none has a score: the policy is trained on penalties only; see docs/ppo.md"
    assert warnings_of([{"step": 1, **HEALTHY, "without_end": 1.0}], recipe_of(setting)) == {"none_ended": text}
    assert warnings_of([{"step": 1, **HEALTHY, "without_end": 0.9}], recipe_of(setting)) == {}


def test_rounding_of_bfloat16_causes_no_warning(setting):
    history = rows(4, engine_mismatch=0.02, first_ratio_error=0.02)
    assert warnings_of(history, recipe_of(setting, "model.dtype=bfloat16")) == {}
    assert set(warnings_of(history, recipe_of(setting))) == {"engine_mismatch", "ratio"}


def test_missing_and_nan_metrics_cause_no_warning(setting):
    assert warnings_of(rows(40, explained_variance=None, kl=float("nan"), without_end=None), recipe_of(setting)) == {}


def measured(step, score, gold):
    return {"step": step, **HEALTHY, "heldout_score": score, "heldout_gold": gold, "heldout_gold_error": 0.05}


def test_a_rising_reward_with_falling_gold_is_warned_of_as_overoptimisation(setting):
    history = [measured(1, 0.0, 0.5), {"step": 2, **HEALTHY}, measured(10, 2.0, 1.0)]
    # Gold must fall by more than two standard errors: 2 · √(0.05² + 0.05²) = 0.14.
    assert warnings_of([*history, measured(20, 3.0, 0.87)], recipe_of(setting)) == {}
    assert warnings_of([*history, measured(20, 1.0, 0.5)], recipe_of(setting)) == {}
    assert warnings_of([*history, measured(20, 3.0, 0.8), {"step": 21, **HEALTHY}], recipe_of(setting)) == {
        "overoptimised": "since step 10 the reward rose from 2 to 3 and gold fell from 1 to 0.8 on held-out prompts; "
        "see docs/ppo.md"
    }


def test_every_warning_is_documented():
    section = DOC.read_text(encoding="utf-8").partition("## Warnings")[2]
    assert re.findall(r"^\| `(\w+)`", section, flags=re.MULTILINE) == list(RULES)
