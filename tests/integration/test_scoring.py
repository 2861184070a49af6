"""Ensembles, rules and judges in place of a reward model, in PPO and in an evaluation."""

import json

import pytest
import torch
from torch.testing import assert_close

from chatml import encode, read_back
from config import RecipeError, load
from config.scoring import scoring
from config.sections import Model
from engine.errors import RunError
from engine.files.jsonl import read
from engine.models.loading import new_scalar
from engine.models.saving import save_model
from engine.models.tokenizer import load_tokenizer
from engine.scoring.answers import last_turn_start
from engine.scoring.rule import RuleScorer
from engine.scoring.scorer import combine_scores
from eval.evaluate import evaluate
from eval.recipe import Eval
from ppo.train import train
from tests.support import eval_setting, ppo_setting
from tests.support.judge_server import serving
from tests.support.ppo_setting import recipe_of
from tests.support.tokenizers import llama, qwen

TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Say <|im_end|>\nplease"},
    {"role": "assistant", "content": "  No.\n"},
]


def vowels(messages, answer, record):
    """A rule: the number of e in the answer."""
    return answer.count("e")


def record_number(messages, answer, record):
    return record["number"]


def raises(messages, answer, record):
    return record["nothing"]


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scoring")
    recipe = ppo_setting.make_setting(folder)
    path = str(folder / "policy")
    other = new_scalar(path, Model(path=path), load_tokenizer(path), seed=6)
    save_model(other, qwen(), folder / "other")
    return recipe


# Mathematics


def test_mean_minus_deviation_by_hand():
    """Scores 1 and 3 give 2 - ½ · 1; equal scores give their mean."""
    models = [torch.tensor([1.0, 4.0]), torch.tensor([3.0, 4.0])]
    assert_close(combine_scores(models, 0.5), torch.tensor([1.5, 4.0]))
    assert_close(combine_scores(models, 0.0), torch.tensor([2.0, 4.0]))
    assert_close(combine_scores(models[:1], 2.0), models[0])
    assert combine_scores([torch.zeros(0)] * 2, 2.0).shape == (0,)  # a step without finished responses


@pytest.mark.parametrize("make", [qwen, llama])
def test_read_back_recovers_the_messages(make):
    ids = encode(TALK, make()).input_ids
    assert read_back(ids, make()) == TALK
    assert read_back(ids[:-1], make()) == TALK


# In PPO


def run_of(setting, folder, *overrides):
    train(recipe_of(setting, "ppo.steps=1", "ppo.value_warmup_steps=1", f"run.dir={folder}", *overrides))
    (row,) = read(folder / "metrics.jsonl")
    return row, read(folder / "rollouts.jsonl")


def test_an_ensemble_in_ppo_scores_mean_minus_std_coef_times_deviation(setting, tmp_path):
    """Computed from the scores of runs with each of the two models."""
    paths = [str(setting.parent / name) for name in ("reward", "other")]
    rows = {
        name: run_of(setting, tmp_path / name, f"reward.path={path}", f"reward.std_coef={coef}",
                     "ppo.reward_normalisation=none", "ppo.log_samples=100")
        for name, path, coef in (
            ("one", paths[0], 0), ("two", paths[1], 0), ("both", f"[{','.join(paths)}]", 0.5),
        )
    }  # fmt: skip
    scores = {name: torch.tensor([row["score"] for row in samples]) for name, (_, samples) in rows.items()}
    ended = scores["both"] != -1.0  # the penalty of a response without end token
    assert 0 < int(ended.sum()) < len(ended)
    one, two = scores["one"][ended], scores["two"][ended]
    assert_close(scores["both"][ended], (one + two) / 2 - 0.5 * (one - two).abs() / 2, atol=1e-5, rtol=1e-5)
    assert rows["both"][0]["score"] == pytest.approx(scores["both"][ended].mean().item(), abs=1e-5)


@pytest.mark.parametrize("rule", ["vowels", "record_number"])
def test_a_rule_scores_the_finished_responses_of_ppo(setting, tmp_path, rule):
    prompts = [json.loads(line) for line in (setting.parent / "prompts.jsonl").read_text().splitlines()]
    prompts = [{**record, "number": number} for number, record in enumerate(prompts)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    _, samples = run_of(
        setting, tmp_path / "run", "reward.path=null", f"reward.rule=tests.integration.test_scoring:{rule}",
        "ppo.reward_normalisation=none", "ppo.log_samples=100", f"data.prompts={tmp_path}/prompts.jsonl",
    )  # fmt: skip
    finished = [row for row in samples if row["response"].endswith("<|im_end|>")]
    assert 0 < len(finished) < len(samples)
    for row in finished:
        answer = row["response"].removesuffix("<|im_end|>")
        assert row["score"] == (answer.count("e") if rule == "vowels" else row["record"]["number"])
    assert (tmp_path / "run" / "value" / "model.safetensors").exists()


def test_a_judge_scores_responses_of_ppo_and_its_replies_are_cached(setting, tmp_path):
    with serving(lambda number, body: f"{len(body['messages'][0]['content']) % 7}") as (url, requests):
        overrides = ["reward.path=null", f"reward.judge={{url: {url}, model: m}}"]
        first, _ = run_of(setting, tmp_path / "run", *overrides)
        asked = len(requests)
        again, _ = run_of(
            setting, tmp_path / "again", "reward.path=null",
            f"reward.judge={{url: {url}, model: m, cache: {tmp_path}/run/judge.jsonl}}",
        )  # fmt: skip
    assert 0 < asked == len(requests) == len(read(tmp_path / "run" / "judge.jsonl"))
    assert first["score"] == again["score"]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("raises", "failed on the answer 'No.': KeyError: 'nothing'"),
        ("TALK", "tests.integration.test_scoring has no function TALK; write module:function"),
        (
            "read_back",
            "is read_back(ids: collections.abc.Sequence[int], tokenizer: Any) -> list[dict[str, str]], but is called "
            "with (messages, answer, record): too many positional arguments; write def read_back(messages, answer, "
            "record)",
        ),
    ],
)
def test_a_failing_rule_is_reported_with_its_name_and_reason(function, message):
    ids = encode([*TALK[:2], {"role": "assistant", "content": "No."}], qwen()).input_ids[:-1]
    with pytest.raises(RunError) as error:
        RuleScorer(f"tests.integration.test_scoring:{function}", "reward.rule", qwen(), torch.device("cpu"))(
            [ids], [last_turn_start(ids, qwen())], [{}], 0
        )
    assert f"reward.rule=tests.integration.test_scoring:{function}" in str(error.value)
    assert message in str(error.value)


# In an evaluation


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    return eval_setting.make_setting(tmp_path_factory.mktemp("evaluated"))


def test_rules_ensembles_and_judges_score_an_evaluation(evaluated, tmp_path):
    folder = evaluated.parent
    both = [f"{folder}/rm/model", f"{folder}/pmp/model"]
    with serving(lambda number, body: "3") as (url, _):
        rewards = {
            "vowels": {"rule": "tests.integration.test_scoring:vowels"},
            "both": {"path": both, "std_coef": 2},
            "mean": both,
            "one": both[0],
            "other": both[1],
            "judge": {"judge": {"url": url, "model": "m"}},
        }
        given = [f"eval.rewards={json.dumps(rewards)}", "eval.reward=vowels", f"run.dir={tmp_path}"]
        best = "eval.subjects.best_of_n={best_of: sft, n: 2}"
        evaluate(load(Eval, evaluated, [*given, best]))
    answers = [row for row in read(tmp_path / "answers.jsonl") if row["ended"]]
    assert answers
    assert all(row["scores"]["vowels"] == row["text"].count("e") and row["scores"]["judge"] == 3 for row in answers)
    pairs, written = read(tmp_path / "pairs.jsonl"), read(folder / "world" / "pairs.jsonl")
    for row, record in zip(pairs, written, strict=False):
        assert row["scores"]["vowels"] == [record[side].count("e") for side in ("chosen", "rejected")]
        assert row["scores"]["judge"] == [3, 3]
        for both, one, other, mean in zip(*(row["scores"][n] for n in ("both", "one", "other", "mean")), strict=True):
            assert mean == pytest.approx((one + other) / 2, abs=1e-5)
            assert both == pytest.approx(mean - 2 * abs(one - other) / 2, abs=1e-5)


# Recipes


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "r has nothing that scores; give one of r.path, r.rule, r.judge.url"),
        ({"path": "a", "rule": "b:c"}, "r has r.path and r.rule; give one of r.path, r.rule, r.judge.url"),
        ({"rule": "b.c"}, "r.rule is b.c; it must be written module:function"),
        (
            {"path": "a", "std_coef": 1},
            "r.std_coef is 1.0, which needs several models in r.path; list them, or set r.std_coef=0",
        ),
        ({"judge": {"url": "localhost"}}, "r.judge.url is localhost; it must begin with http:// or https://"),
        ({"judge": {"url": "http://a"}}, "r.judge.model is empty; name one of the models of http://a"),
        (
            {"judge": {"url": "http://a", "model": "m", "question": "{answer}?"}},
            "r.judge.question lacks {conversation}; add it to the prompt",
        ),
        (
            {"judge": {"url": "http://a", "model": "m", "score_pattern": "("}},
            "r.judge.score_pattern is (, which is not a regular expression "
            "(missing ), unterminated subpattern at position 0)",
        ),
        ([], "r is []; it must be a path or a list of paths"),
        ({"pth": "a"}, "unknown key r.pth; did you mean r.path?"),
    ],
)
def test_invalid_scoring_sections_are_refused(value, message):
    with pytest.raises(RecipeError) as error:
        scoring(value, "r")
    assert str(error.value) == message


def test_a_path_is_short_for_a_mapping_with_a_path():
    assert scoring("a", "r") == scoring({"path": "a"}, "r")
    assert scoring(["a", "b"], "r").paths == ["a", "b"]
