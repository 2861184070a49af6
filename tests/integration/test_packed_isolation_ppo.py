"""No sequence of a packed row attends to another, when responses are assessed, trained on and evaluated."""

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
from tests.support.packed_rows import ATTENTIONS, NEIGHBOUR, OTHER_NEIGHBOUR, SEQUENCE, assert_isolated

pytestmark = pytest.mark.parametrize("attention", ATTENTIONS)


@pytest.fixture(scope="module")
def ppo_recipe(tmp_path_factory):
    return ppo_setting.make_setting(tmp_path_factory.mktemp("ppo"))


@pytest.fixture
def four(ppo_recipe, tmp_path, attention):
    """Return PPO's recipe, its four models under `attention`, and the accelerator."""
    recipe = ppo_setting.recipe_of(
        ppo_recipe, f"run.dir={tmp_path}/run", f"model.attention={attention}", "ppo.epochs=1", "ppo.minibatches=1"
    )
    accelerator = Accelerator()
    return recipe, load_models(recipe, load_tokenizer(recipe.model.path), accelerator), accelerator


def test_logprobs_values_and_scores_do_not_depend_on_the_neighbour(four):
    """For each model on its own: policy, reference, value and reward model."""
    _, models, _ = four

    def halves(function, model, *rest):
        def compute(neighbour):
            found = function(model, [neighbour[:2], SEQUENCE[:2]], [neighbour[2:], SEQUENCE[2:]], *rest)
            found = getattr(found, "logprobs", found)
            return found[len(neighbour) - 2 :], found[: len(neighbour) - 2]

        return compute

    for policy in (models.policy, models.reference):
        assert_isolated(halves(response_logprobs, policy, 1.0, 10**6))
    assert_isolated(halves(response_values, models.value, 10**6))
    for model in (*models.rewards[0].scorer.models, models.value):
        assert_isolated(lambda neighbour, model=model: sequence_scores(model, [neighbour, SEQUENCE], 10**6).flip(0))


# PPO


def rollout(neighbour, end):
    responses = [Response([*tokens, end], ended=True) for tokens in (neighbour[2:], SEQUENCE[2:])]
    return Rollout([PromptRow(tokens[:2], [], {}) for tokens in (neighbour, SEQUENCE)], responses)


def test_the_assessment_of_a_rollout_does_not_depend_on_the_neighbour(four):
    recipe, models, _ = four
    end = models.rewards[0].scorer.models[0].config.score_token_id

    def assessment(neighbour):
        return ppo_setting.assess_by(recipe, models, rollout(neighbour, end), RewardMix(recipe.reward.parts, "none"))

    for name in ("old_logprobs", "ref_logprobs", "entropy", "old_values", "scores"):
        assert_isolated(lambda neighbour, name=name: getattr(assessment(neighbour), name).flip(0))


def test_logprobs_values_and_pretraining_losses_of_an_update_do_not_depend_on_the_neighbour(four, monkeypatch):
    """Recorded at a step's first losses."""
    recipe, models, accelerator = four
    end, seen = models.rewards[0].scorer.models[0].config.score_token_id, {}
    for name in ("clipped_policy_loss", "clipped_value_loss"):
        loss = getattr(ppo.update, name)
        monkeypatch.setattr(ppo.update, name, recording(loss, lambda new, *_, name=name: seen.setdefault(name, new)))
    add = TokenMeans.add
    monkeypatch.setattr(TokenMeans, "add", recording(add, lambda _, name, values: seen.setdefault(name, values)))
    trained = models.policy, models.value
    start = [{name: weight.clone() for name, weight in model.state_dict().items()} for model in trained]

    def step(neighbour):
        for model, weights in zip(trained, start, strict=True):
            model.load_state_dict(weights)
        seen.clear()
        asked = rollout(neighbour, end)
        assessment = ppo_setting.assess_by(recipe, models, asked, RewardMix(recipe.reward.parts, "none"))
        texts = PretrainStream([{"input_ids": neighbour}, {"input_ids": SEQUENCE}], seed=0, ratio=1.0)
        ppo_setting.updater_of(recipe, models, texts, accelerator).update(asked, assessment, 2)
        return {name: values.detach().clone() for name, values in seen.items()}

    before, after = step(NEIGHBOUR), step(OTHER_NEIGHBOUR)
    for name, positions in (("clipped_policy_loss", 4), ("clipped_value_loss", 4), ("pretrain_loss", 4)):
        changed = before[name] != after[name]
        assert changed.any()
        # The neighbour's tokens are first or last, depending on how the step has shuffled the sequences.
        assert not changed[positions:].any() or not changed[:-positions].any()


def recording(function, record):
    """Return `function` with a call of `record` with the same arguments before each call."""

    def recorded(*arguments):
        record(*arguments)
        return function(*arguments)

    return recorded


def test_roles_of_a_shared_base_do_not_depend_on_the_neighbour(setting, attention, tmp_path, monkeypatch):  # noqa: F811 - the fixture
    """The three tests above, with policy, value, reference and reward model as adapters of one base."""
    overrides = [f"run.dir={tmp_path}/run", f"model.attention={attention}", "ppo.epochs=1", "ppo.minibatches=1"]
    recipe = ppo_setting.recipe_of(setting, *paths(setting), "models=shared", *overrides)
    accelerator = Accelerator()
    roles = recipe, load_shared(recipe, load_tokenizer(recipe.model.path), accelerator), accelerator
    test_logprobs_values_and_scores_do_not_depend_on_the_neighbour(roles)
    test_the_assessment_of_a_rollout_does_not_depend_on_the_neighbour(roles)
    test_logprobs_values_and_pretraining_losses_of_an_update_do_not_depend_on_the_neighbour(roles, monkeypatch)


# Evaluation


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    return eval_setting.make_setting(tmp_path_factory.mktemp("eval"))


def test_the_measures_of_an_evaluation_do_not_depend_on_the_neighbour(evaluation, tmp_path, attention, monkeypatch):
    recipe = load(Eval, evaluation, [f"model.attention={attention}"])
    models, numbers = Models(recipe.model, recipe.main_tokenizer), count()
    tokenizer, policy = models.main_tokenizer, models.causal(recipe.eval.subject_kinds()["ppo"])

    def new_folder():
        """Return a folder without stored items, so that both sequences are computed in one row."""
        return tmp_path / str(next(numbers))

    def answer_logprobs(neighbour):
        both = (SEQUENCE, neighbour)
        items = [Item(number, tokens[:2], [], {}) for number, tokens in enumerate(both)]
        answers = [{"answers": [{"ids": tokens[2:]}]} for tokens in both]
        store, asked = ItemStore(new_folder(), "x"), Items(items, tokenizer, recipe.chatml, {})
        return [torch.tensor(value) for value in logprobs(store, asked, answers, lambda: policy, tokenizer, 1.0)]

    monkeypatch.setattr(perplexity, "split_into_chunks", lambda text, *_: [json.loads(text)])

    def document_losses(neighbour):
        documents = [json.dumps(SEQUENCE), json.dumps(neighbour)]
        rows = perplexity.text_losses(ItemStore(new_folder(), "x"), documents, lambda: policy, tokenizer, 128)
        return [torch.tensor(row["nll"]) for row in rows]

    for name, scoring in recipe.eval.reward_models().items():

        def scores(neighbour, name=name, scoring=scoring):
            (found,) = score(name, scoring, [Batch("x", [SEQUENCE, neighbour], [1, 1], [{}, {}])], models, new_folder())
            return [torch.tensor(value) for value in found]

        assert_isolated(scores)
    assert_isolated(answer_logprobs)
    assert_isolated(document_losses)
