"""No sequence of a packed row attends to another, where responses are assessed, trained on and evaluated."""

import json
from itertools import count

import pytest
import torch
from accelerate import Accelerator

import ppo.update
from config import load
from engine.data.prompt_rows import PromptRow
from engine.forward.responses import response_logprobs, response_values, sequence_scores
from engine.generation.request import Response
from engine.models.tokenizer import load_tokenizer
from eval import perplexity
from eval.answers import logprobs
from eval.item_store import ItemStore
from eval.items import Item, Items
from eval.models import Models
from eval.recipe import Eval
from eval.scores import Batch, score
from ppo.models import load_models
from ppo.pretrain import PretrainStream
from ppo.reward_mix import RewardMix
from ppo.rollout import Rollout
from ppo.shared_base import load_shared
from ppo.token_means import TokenMeans
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
    """The models that rollouts and evaluations are measured by, one by one."""
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
    for model in (*models.rewards[0].scorer.models, models.value):
        assert_unmoved(lambda neighbour, model=model: sequence_scores(model, [neighbour, MINE], 10**6).flip(0))


# PPO


def rollout(neighbour, end):
    responses = [Response([*tokens, end], ended=True) for tokens in (neighbour[2:], MINE[2:])]
    return Rollout([PromptRow(tokens[:2], [], {}) for tokens in (neighbour, MINE)], responses)


def test_a_rollouts_assessment(four):
    recipe, models, _ = four
    end = models.rewards[0].scorer.models[0].config.score_token_id

    def assessment(neighbour):
        return ppo_setting.assess_by(recipe, models, rollout(neighbour, end), RewardMix(recipe.reward.parts, "none"))

    for name in ("old_logprobs", "ref_logprobs", "entropy", "old_values", "scores"):
        assert_unmoved(lambda neighbour, name=name: getattr(assessment(neighbour), name).flip(0))


def test_ppo_updates(four, monkeypatch):
    """The inputs of a step's first losses: log-probabilities, values, and the loss on pretraining text."""
    recipe, models, accelerator = four
    end, seen = models.rewards[0].scorer.models[0].config.score_token_id, {}
    for name in ("clipped_policy_loss", "clipped_value_loss"):
        loss = getattr(ppo.update, name)
        monkeypatch.setattr(ppo.update, name, noting(loss, lambda new, *_, name=name: seen.setdefault(name, new)))
    add = TokenMeans.add
    monkeypatch.setattr(TokenMeans, "add", noting(add, lambda _, name, values: seen.setdefault(name, values)))
    trained = models.policy, models.value
    start = [{name: weight.clone() for name, weight in model.state_dict().items()} for model in trained]

    def step(neighbour):
        for model, weights in zip(trained, start, strict=True):
            model.load_state_dict(weights)
        seen.clear()
        asked = rollout(neighbour, end)
        assessment = ppo_setting.assess_by(recipe, models, asked, RewardMix(recipe.reward.parts, "none"))
        texts = PretrainStream([{"input_ids": neighbour}, {"input_ids": MINE}], seed=0, ratio=1.0)
        ppo_setting.updater_of(recipe, models, texts, accelerator).update(asked, assessment, 2)
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
    test_a_rollouts_assessment(roles)
    test_ppo_updates(roles, monkeypatch)


# Evaluation


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return eval_setting.make_setting(tmp_path_factory.mktemp("eval"))


def test_evaluation(evaluation, tmp_path, attention, monkeypatch):
    recipe = load(Eval, evaluation, [f"model.attention={attention}"])
    models, numbers = Models(recipe.model, recipe.main_tokenizer), count()
    tokenizer, policy = models.main_tokenizer, models.causal(recipe.eval.subject_kinds()["ppo"])

    def new_folder():
        """Nothing is found in it, so both sequences are computed together."""
        return tmp_path / str(next(numbers))

    def answer_logprobs(neighbour):
        both = (MINE, neighbour)
        items = [Item(number, tokens[:2], [], {}) for number, tokens in enumerate(both)]
        answers = [{"answers": [{"ids": tokens[2:]}]} for tokens in both]
        store, asked = ItemStore(new_folder(), "x"), Items(items, tokenizer, recipe.chatml, {})
        return [torch.tensor(value) for value in logprobs(store, asked, answers, lambda: policy, tokenizer, 1.0)]

    monkeypatch.setattr(perplexity, "split_into_chunks", lambda text, *_: [json.loads(text)])

    def document_losses(neighbour):
        documents = [json.dumps(MINE), json.dumps(neighbour)]
        rows = perplexity.text_losses(ItemStore(new_folder(), "x"), documents, lambda: policy, tokenizer, 128)
        return [torch.tensor(row["nll"]) for row in rows]

    for name, scoring in recipe.eval.reward_models().items():

        def scores(neighbour, name=name, scoring=scoring):
            (found,) = score(name, scoring, [Batch("x", [MINE, neighbour], [1, 1], [{}, {}])], models, new_folder())
            return [torch.tensor(value) for value in found]

        assert_unmoved(scores)
    assert_unmoved(answer_logprobs)
    assert_unmoved(document_losses)
