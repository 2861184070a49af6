"""No sequence of a packed row attends to another, in the losses and evaluations of SFT and reward models."""

import pytest
import torch
from datasets import Dataset

import reward.train
import sft.train
from chatml import IGNORE
from config import load
from engine.forward.pairs import pair_scores
from reward.recipe import Reward
from sft.recipe import SFT
from tests.support.packed_rows import ATTENTIONS, SEQUENCE, assert_isolated
from tests.support.stage_runs import write_base, write_jsonl

pytestmark = pytest.mark.parametrize("attention", ATTENTIONS)


# Supervised finetuning


def packed_row(neighbour, *, trained):
    """Return a packed row of both in which only one is trained on; the first token of each has no label."""
    sides = {"sequence": [IGNORE] * len(neighbour) + [IGNORE, *SEQUENCE[1:]], "neighbour": [IGNORE, *neighbour[1:]]}
    labels = sides[trained] + [IGNORE] * (len(neighbour) + len(SEQUENCE) - len(sides[trained]))
    return {"input_ids": [*neighbour, *SEQUENCE], "labels": labels, "seq_lengths": [len(neighbour), len(SEQUENCE)]}


@pytest.fixture
def sft_trainer(tmp_path, monkeypatch, attention):
    """Return a function from overrides to the trainer that the stage builds."""
    write_base(tmp_path / "base")
    data = write_jsonl(tmp_path / "train.jsonl", [{"prompt": "Hi", "response": "Yes."}])
    (tmp_path / "sft.yaml").write_text("stage: sft\n")
    common = [f"model.path={tmp_path}/base", f"data.train={data}", f"run.dir={tmp_path}/run", "trainer.max_steps=1"]
    built = []
    monkeypatch.setattr(sft.train, "fit", lambda trainer, *_: built.append(trainer))

    def build(*overrides):
        sft.train.train(load(SFT, tmp_path / "sft.yaml", [*common, f"model.attention={attention}", *overrides]))
        return built.pop()

    return build


@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_sft_loss_and_gradient_do_not_depend_on_the_neighbour(sft_trainer, checkpointing):
    trainer = sft_trainer(f"trainer.gradient_checkpointing={checkpointing}")

    def loss_and_gradient(neighbour, trained):
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, sft.train.collate([packed_row(neighbour, trained=trained)]))
        loss.backward()
        weight = trainer.model.get_parameter("model.layers.0.self_attn.k_proj.weight")
        return torch.cat([loss.detach()[None], weight.grad.flatten()])

    assert_isolated(lambda neighbour: [loss_and_gradient(neighbour, trained) for trained in ("sequence", "neighbour")])


@pytest.mark.filterwarnings("ignore:`label_smoothing_factor` is deprecated:FutureWarning")
def test_sft_loss_computed_by_trl_does_not_depend_on_the_neighbour(sft_trainer):
    trainer = sft_trainer("trainer.label_smoothing_factor=0.1")

    def loss(neighbour, trained):
        inputs = sft.train.collate([packed_row(neighbour, trained=trained)])
        return trainer.compute_loss(trainer.model, inputs).detach()

    assert_isolated(lambda neighbour: [loss(neighbour, trained) for trained in ("sequence", "neighbour")])


def test_sft_evaluation_loss_does_not_depend_on_the_neighbour(sft_trainer, monkeypatch):
    trainer = sft_trainer()
    monkeypatch.setattr(trainer, "log", lambda *_: None)

    def loss(neighbour, trained):
        rows = Dataset.from_list([packed_row(neighbour, trained=trained)])
        return torch.tensor(trainer.evaluate(rows)["eval_loss"])

    assert_isolated(lambda neighbour: [loss(neighbour, trained) for trained in ("sequence", "neighbour")])


# Reward models


def test_pair_scores_do_not_depend_on_another_pair_or_the_other_side(tmp_path, monkeypatch, attention):
    """In training and evaluation, for two pairs in a row; with shared prompts also between the sides of a pair."""
    write_base(tmp_path / "base")
    data = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "Hi", "chosen": "Yes.", "rejected": "No."}])
    (tmp_path / "rm.yaml").write_text("stage: reward\n")
    common = [f"model.path={tmp_path}/base", f"data.train={data}", f"model.attention={attention}"]
    shared = SEQUENCE[:2]
    tested = [*shared, 11, 12], [*shared, 13]
    built = []
    monkeypatch.setattr(reward.train, "fit", lambda trainer, *_, **__: built.append(trainer))
    for share in ("false", "true") if attention == "packed" else ("false",):
        overrides = [*common, f"run.dir={tmp_path}/{share}", f"reward.share_prompts={share}"]
        reward.train.train(load(Reward, tmp_path / "rm.yaml", overrides))
        trainer = built.pop()

        def trained(*pairs, trainer=trainer):
            inputs = trainer.data_collator([dict(zip(reward.train.SIDES, pair, strict=True)) for pair in pairs])
            trainer.step_scores.append([])
            trainer.compute_loss(trainer.model, inputs, num_items_in_batch=len(pairs))
            return trainer.step_scores.pop()[0].T  # (pairs, sides)

        def evaluated(*pairs, trainer=trainer):
            return pair_scores(trainer.model, pairs)

        for scores in (trained, evaluated):
            assert_isolated(lambda n, scores=scores: scores(([*shared, *n], [*shared, *n[::-1]]), tested).flip(0))
            assert_isolated(lambda n, scores=scores: scores(([*shared, *SEQUENCE], [*shared, *n]))[0])
