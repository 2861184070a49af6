"""No sequence of a packed row sees another: every place that runs a packed forward, a neighbour perturbed.

Each test asks a place for what it makes of one sequence and of its neighbour, twice; between, another neighbour of the
same length takes the first one's place. What was made of the sequence must be the same to the last bit, and what was
made of the neighbour must not, or nothing was tested.
"""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset
from transformers.utils import is_flash_attn_2_available

import ppo.update
import reward.train
import sft.train
from chatml import IGNORE
from engine.models.responses import response_logprobs, response_values, sequence_scores
from engine.models.sampling import Response
from engine.models.tokenizer import load_tokenizer
from engine.run.folder import RunFolder
from eval.bench import set_up
from eval.evaluate import Answer, Findings, note_logprobs, read_text
from eval.recipe import Eval
from ppo.advantages import ScoreNormaliser
from ppo.models import load_models
from ppo.pretrain import PretrainStream
from ppo.rollout import Rollout, judge
from ppo.update import update
from recipes import load
from reward.recipe import Reward
from sft.recipe import SFT
from tests import eval_setting, ppo_setting
from tests.stage_runs import write_base, write_jsonl

ON_A_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available() or not is_flash_attn_2_available(), reason="needs a GPU and flash-attn"
    ),
]
ATTENTIONS = ["packed", "sdpa", "eager", pytest.param("flash_attention_2", marks=ON_A_GPU)]
MINE, NEIGHBOUR, OTHER = [5, 6, 7, 8, 9, 10], [20, 21, 22, 23, 24], [30, 31, 32, 33, 34]

pytestmark = pytest.mark.parametrize("attention", ATTENTIONS)


def assert_unmoved(place):
    """`place(neighbour)` returns what it makes of MINE and of the neighbour."""
    (mine, theirs), (again, moved) = place(NEIGHBOUR), place(OTHER)
    assert torch.equal(mine, again)
    assert not torch.equal(theirs, moved)


# Supervised finetuning


def packed_row(neighbour, *, trained):
    """A packed row of both, in which only one is trained on; nothing precedes a sequence's first token."""
    sides = {"mine": [IGNORE] * len(neighbour) + [IGNORE, *MINE[1:]], "theirs": [IGNORE, *neighbour[1:]]}
    labels = sides[trained] + [IGNORE] * (len(neighbour) + len(MINE) - len(sides[trained]))
    return {"input_ids": [*neighbour, *MINE], "labels": labels, "seq_lengths": [len(neighbour), len(MINE)]}


@pytest.fixture
def sft_trainer(tmp_path, monkeypatch, attention):
    """A function from overrides to the trainer that the stage builds."""
    write_base(tmp_path / "base")
    data = write_jsonl(tmp_path / "train.jsonl", [{"prompt": "Hi", "response": "Yes."}])
    (tmp_path / "sft.yaml").write_text("")
    common = [f"model.path={tmp_path}/base", f"data.train={data}", f"run.dir={tmp_path}/run", "trainer.max_steps=1"]
    built = []
    monkeypatch.setattr(sft.train, "fit", lambda trainer, *_: built.append(trainer))

    def build(*overrides):
        sft.train.train(load(SFT, tmp_path / "sft.yaml", [*common, f"model.attention={attention}", *overrides]))
        return built.pop()

    return build


@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_sft_loss(sft_trainer, checkpointing):
    trainer = sft_trainer(f"trainer.gradient_checkpointing={checkpointing}")

    def loss_and_gradient(neighbour, trained):
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, sft.train.collate([packed_row(neighbour, trained=trained)]))
        loss.backward()
        weight = trainer.model.get_parameter("model.layers.0.self_attn.k_proj.weight")
        return torch.cat([loss.detach()[None], weight.grad.flatten()])

    assert_unmoved(lambda neighbour: [loss_and_gradient(neighbour, trained) for trained in ("mine", "theirs")])


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated:FutureWarning")
def test_sft_loss_that_trl_computes(sft_trainer):
    trainer = sft_trainer("trainer.label_smoothing_factor=0.1")

    def loss(neighbour, trained):
        inputs = sft.train.collate([packed_row(neighbour, trained=trained)])
        return trainer.compute_loss(trainer.model, inputs).detach()

    assert_unmoved(lambda neighbour: [loss(neighbour, trained) for trained in ("mine", "theirs")])


def test_sft_evaluation(sft_trainer, monkeypatch):
    trainer = sft_trainer()
    monkeypatch.setattr(trainer, "log", lambda *_: None)

    def loss(neighbour, trained):
        rows = Dataset.from_list([packed_row(neighbour, trained=trained)])
        return torch.tensor(trainer.evaluate(rows)["eval_loss"])

    assert_unmoved(lambda neighbour: [loss(neighbour, trained) for trained in ("mine", "theirs")])


# Reward models


def test_reward_loss(tmp_path, monkeypatch, attention):
    write_base(tmp_path / "base")
    data = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "Hi", "chosen": "Yes.", "rejected": "No."}])
    (tmp_path / "rm.yaml").write_text("")
    overrides = [f"model.path={tmp_path}/base", f"data.train={data}", f"run.dir={tmp_path}/run"]
    built = []
    monkeypatch.setattr(reward.train, "fit", lambda trainer, *_: built.append(trainer))
    reward.train.train(load(Reward, tmp_path / "rm.yaml", [*overrides, f"model.attention={attention}"]))
    trainer = built[0]

    def scores(*pairs):
        inputs = reward.train.collate([dict(zip(reward.train.SIDES, pair, strict=True)) for pair in pairs])
        _, out = trainer.compute_loss(trainer.model, inputs, return_outputs=True)
        return out.logits.detach()[:, 0].view(2, -1).T  # (pairs, sides)

    shared = MINE[:2]
    other_pair = [[*shared, 11, 12], [*shared, 13]]
    assert_unmoved(lambda neighbour: scores([[*shared, *neighbour], [*shared, *neighbour[::-1]]], other_pair).flip(0))
    assert_unmoved(lambda neighbour: scores([[*shared, *MINE], [*shared, *neighbour]])[0])


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
    for model in (*models.rewards, models.value):
        assert_unmoved(lambda neighbour, model=model: sequence_scores(model, [neighbour, MINE], 10**6).flip(0))


# PPO


def rollout(neighbour, end):
    responses = [Response([*tokens, end], ended=True) for tokens in (neighbour[2:], MINE[2:])]
    return Rollout([{"input_ids": neighbour[:2]}, {"input_ids": MINE[:2]}], responses)


def test_what_a_rollout_is_judged_by(four):
    recipe, models, _ = four
    end = models.rewards[0].config.score_token_id

    def judged(neighbour):
        return judge(models, recipe, rollout(neighbour, end), ScoreNormaliser("none"), lambda x: x)

    for name in ("old_logprobs", "ref_logprobs", "entropy", "old_values", "scores"):
        assert_unmoved(lambda neighbour, name=name: getattr(judged(neighbour), name).flip(0))


def test_ppo_updates(four, monkeypatch):
    """What a step's first losses are made of: log-probabilities, values, and the loss on pretraining text."""
    recipe, models, accelerator = four
    end, seen = models.rewards[0].config.score_token_id, {}
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
        judged = judge(models, recipe, asked, ScoreNormaliser("none"), lambda x: x)
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

    for paths in bench.reward_models().values():
        assert_unmoved(lambda neighbour, paths=paths: torch.tensor(bench.scores(paths, [MINE, neighbour])))
    assert_unmoved(logprobs)
    for neighbour in (NEIGHBOUR, OTHER):  # only the sum is told
        together, apart = text_loss(neighbour, MINE), text_loss(neighbour) + text_loss(MINE)
        assert together == pytest.approx(float(apart), abs=1e-4)
