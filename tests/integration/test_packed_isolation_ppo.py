"""No sequence of a packed row sees another, where answers are judged, learnt from and evaluated."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator

import ppo.update
from config import load
from engine.forward.responses import response_logprobs, response_values, sequence_scores
from engine.generation.sampling import Response
from engine.models.tokenizer import load_tokenizer
from engine.run.folder import RunFolder
from eval.bench import set_up
from eval.evaluate import Answer, Findings, note_logprobs, read_text
from eval.recipe import Eval
from ppo.advantages import ScoreNormaliser
from ppo.models import load_models
from ppo.pretrain import PretrainStream
from ppo.rollout import Rollout, judge
from ppo.shared_base import load_shared
from ppo.update import update
from tests.integration.test_shared_base import paths, setting  # noqa: F401 - a fixture
from tests.support import eval_setting, ppo_setting
from tests.support.packed_neighbours import ATTENTIONS, MINE, NEIGHBOUR, OTHER, assert_unmoved

pytestmark = pytest.mark.parametrize("attention", ATTENTIONS)


@pytest.fixture(scope="module")
def ppo_recipe(tmp_path_factory):
    return ppo_setting.make_setting(tmp_path_factory.mktemp("ppo"))


@pytest.fixture
def four(ppo_recipe, tmp_path, attention):
    """PPO's recipe and its models, under `attention`."""
    recipe = ppo_setting.recipe_of(
        ppo_recipe, f"run.dir={tmp_path}/run", f"model.attention={attention}", "ppo.epochs=1", "ppo.minibatches=1"
    )
    accelerator = Accelerator()
    return recipe, load_models(recipe, load_tokenizer(recipe.model.path), accelerator), accelerator


def test_logprobs_values_and_scores(four):
    """What judges rollouts and evaluations, model by model."""
    _, models, _ = four

    def halves(function, model, *rest):
        def place(neighbour):
            found = function(model, [neighbour[:2], MINE[:2]], [neighbour[2:], MINE[2:]], *rest)
            found = getattr(found, "logprobs", found)
            return found[len(neighbour) - 2 :], found[: len(neighbour) - 2]

        return place

    for policy in (models.policy, models.reference):
        assert_unmoved(halves(response_logprobs, policy, 1.0, 10**6))
    assert_unmoved(halves(response_values, models.value, 10**6))
    for model in (*models.scorer.models, models.value):
        assert_unmoved(lambda neighbour, model=model: sequence_scores(model, [neighbour, MINE], 10**6).flip(0))


# PPO


def rollout(neighbour, end):
    responses = [Response([*tokens, end], ended=True) for tokens in (neighbour[2:], MINE[2:])]
    return Rollout([{"input_ids": tokens[:2], "record": "{}"} for tokens in (neighbour, MINE)], responses)


def test_what_a_rollout_is_judged_by(four):
    recipe, models, _ = four
    end = models.scorer.models[0].config.score_token_id

    def judged(neighbour):
        return judge(models, recipe, rollout(neighbour, end), ScoreNormaliser("none"), recipe.ppo.kl_coef)

    for name in ("old_logprobs", "ref_logprobs", "entropy", "old_values", "scores"):
        assert_unmoved(lambda neighbour, name=name: getattr(judged(neighbour), name).flip(0))


def test_ppo_updates(four, monkeypatch):
    """What a step's first losses are made of: log-probabilities, values, and the loss on pretraining text."""
    recipe, models, accelerator = four
    end, seen = models.scorer.models[0].config.score_token_id, {}
    for name in ("clipped_policy_loss", "clipped_value_loss"):
        loss = getattr(ppo.update, name)
        monkeypatch.setattr(ppo.update, name, noting(loss, lambda new, *_, name=name: seen.setdefault(name, new)))
    add = ppo.update.Sums.add
    monkeypatch.setattr(ppo.update.Sums, "add", noting(add, lambda _, name, values: seen.setdefault(name, values)))
    trained = models.policy, models.value
    start = [{name: weight.clone() for name, weight in model.state_dict().items()} for model in trained]

    def step(neighbour):
        for model, weights in zip(trained, start, strict=True):
            model.load_state_dict(weights)
        seen.clear()
        asked = rollout(neighbour, end)
        judged = judge(models, recipe, asked, ScoreNormaliser("none"), recipe.ppo.kl_coef)
        texts = PretrainStream([{"input_ids": neighbour}, {"input_ids": MINE}], seed=0, ratio=1.0)
        update(models, recipe, asked, judged, texts, 2, accelerator)
        return {name: values.detach().clone() for name, values in seen.items()}

    before, after = step(NEIGHBOUR), step(OTHER)
    for name, theirs in (("clipped_policy_loss", 4), ("clipped_value_loss", 4), ("pretrain_loss", 4)):
        moved = before[name] != after[name]
        assert moved.any()
        # The neighbour's tokens stand first or last, as the step has shuffled them.
        assert not moved[theirs:].any() or not moved[:-theirs].any()


def noting(function, note):
    """`function`, and a note taken of its arguments before each call."""

    def noted(*arguments):
        note(*arguments)
        return function(*arguments)

    return noted


def test_roles_of_one_base(setting, attention, tmp_path, monkeypatch):  # noqa: F811 - the fixture
    """The same where policy, value, reference and reward are adapters of one base."""
    overrides = [f"run.dir={tmp_path}/run", f"model.attention={attention}", "ppo.epochs=1", "ppo.minibatches=1"]
    recipe = ppo_setting.recipe_of(setting, *paths(setting), "models=shared", *overrides)
    accelerator = Accelerator()
    roles = recipe, load_shared(recipe, load_tokenizer(recipe.model.path), accelerator), accelerator
    test_logprobs_values_and_scores(roles)
    test_what_a_rollout_is_judged_by(roles)
    test_ppo_updates(roles, monkeypatch)


# Evaluation


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return eval_setting.make_setting(tmp_path_factory.mktemp("eval"))


def test_evaluation(evaluation, tmp_path, attention):
    recipe = load(Eval, evaluation, [f"run.dir={tmp_path}/run", f"model.attention={attention}"])
    bench = replace(set_up(recipe, RunFolder(recipe)), pairs={})
    policy = bench.policy(recipe.eval.ppo)

    def logprobs(neighbour):
        answers = [[Answer(Response(tokens[2:], ended=False), {})] for tokens in (MINE, neighbour)]
        asked = replace(bench, prompts=[{"input_ids": tokens[:2]} for tokens in (MINE, neighbour)])
        note_logprobs(asked, "ppo", policy, Findings(answers={"ppo": answers}))
        return [torch.tensor(group[0].known["logprob_ppo"]) for group in answers]

    def text_loss(*texts):
        found = Findings()
        read_text(replace(bench, texts=list(texts)), "ppo", policy, found)
        return torch.tensor(found.text_losses["ppo"][0])

    for named in bench.reward_models().values():
        assert_unmoved(lambda n, named=named: torch.tensor(bench.scores(*named, [MINE, n], [{}, {}])))
    assert_unmoved(logprobs)
    for neighbour in (NEIGHBOUR, OTHER):  # only the sum is told
        together, apart = text_loss(neighbour, MINE), text_loss(neighbour) + text_loss(MINE)
        assert together == pytest.approx(float(apart), abs=1e-4)
