"""Stage 2: the reward model (report, 3.2.1): preference-model pretraining (PMP), then finetuning on clean comparisons.

    L = mean over pairs of  -log σ(r(x, y_chosen) - r(x, y_rejected) - m) + c (r(x, y_chosen) + r(x, y_rejected))²

r(x, y) is the score of response y to prompt x: a base of the policy's size with a scalar head, read at the end token
(the report's pooling layer, 3.2.1). The report states no loss; -log σ of the difference is that of the work it cites
(Ouyang et al. 2022, eq. 1). Two terms are optional and not in the report: m = `reward.margin_coef` times the
comparison's margin (Touvron et al. 2023, eq. 2), and c = `trainer.center_rewards_coefficient`, which keeps scores near
0 (Eisenstein et al. 2023).

PMP and finetuning run this code with different recipes; finetuning starts from the PMP model.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl import RewardConfig, RewardTrainer

from engine.data import encoding
from engine.data.order import shuffled_positions
from engine.data.rows import Limit, RowLoader, longest_sequence
from engine.dist import sharding
from engine.dist.collectives import all_gather_items, take_share
from engine.dist.devices import compute_dtype
from engine.errors import RunError
from engine.forward.attention import use_shared_prefixes
from engine.forward.packed import pack
from engine.forward.pairs import pack_pairs, pair_scores
from engine.forward.responses import TOKENS_PER_FORWARD, micro_batches_on_all_ranks
from engine.models.adapters import add_adapters
from engine.models.context_length import check_length
from engine.models.loading import load_scalar, new_scalar, scalar_config
from engine.models.system_prompt import stage_tokenizer
from engine.run.batches import RankBatchTrainer
from engine.run.folder import RunFolder
from engine.run.lifecycle import Lifecycle
from engine.run.trainer import best_by, fit, refuse_without_gpu, training_arguments
from reward.recipe import Reward

SIDES = ("chosen_ids", "rejected_ids")
# The score offset is the mean score of at most this many training pairs.
MAX_OFFSET_PAIRS = 2048


def train(recipe: Reward) -> None:
    """Run the stage to the end; resume from the last checkpoint if there is one."""
    refuse_without_gpu(recipe.trainer)
    folder = RunFolder(recipe)
    tokenizer = stage_tokenizer(recipe.model, recipe.chatml)
    train_rows = pair_rows("train", recipe, tokenizer, folder)
    eval_rows = pair_rows("eval", recipe, tokenizer, folder) if recipe.data.eval else None
    base = load_model(recipe, tokenizer)
    for name, rows in (("train", train_rows), ("eval", eval_rows)):
        if rows is not None:
            what = f"the longest comparison of data.{name}"
            check_length(base.config, longest_sequence(rows), what, "set data.max_length={limit}")
    model = add_adapters(base, recipe.lora, tokenizer, recipe.run.seed, compute_dtype(recipe.model))
    lifecycle = Lifecycle("rm", folder, recipe.run)
    trainer = PairTrainer(
        model,
        training_arguments(
            RewardConfig, recipe, lifecycle, max_length=None, **best_by("accuracy", recipe.reward, recipe.run)
        ),
        data_collator=partial(collate, share=recipe.reward.share_prompts, margin_coef=recipe.reward.margin_coef),
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
    )
    trainer.lifecycle = lifecycle
    fit(
        trainer,
        lifecycle,
        recipe,
        tokenizer,
        recipe.reward,
        before_saving=lambda: centre(trainer, train_rows, recipe.run.seed),
    )


def pair_rows(name: str, recipe: Reward, tokenizer: PreTrainedTokenizerBase, folder: RunFolder) -> Dataset:
    """Load the pairs of data.train or data.eval, by `name`: "train" or "eval".

    Raises RunError if `reward.margin_coef` is set and no training pair has a margin.
    """
    data = recipe.data
    loader = RowLoader(data, recipe.chatml, recipe.run.seed, tokenizer)
    limit = Limit("data.max_length", data.max_length)
    rows = folder.keep_report(name, *loader.load(encoding.pairs, name, limit))
    if name == "train" and recipe.reward.margin_coef and not any(rows["margin"]):
        raise RunError(
            f"reward.margin_coef is {recipe.reward.margin_coef}, but no comparison of data.train has a margin; "
            "name the field with data.fields={theirs: margin}, or set reward.margin_coef=0"
        )
    return rows


def load_model(recipe: Reward, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Load a reward model with its head, or the body of a causal language model with a new head."""
    in_4bit, shared = recipe.lora.load_in_4bit, sharding.sharding_requested()
    if scalar_config(recipe.model.path, recipe.model) is not None:
        model = load_scalar(recipe.model.path, recipe.model, tokenizer, trained=True, in_4bit=in_4bit, as_stored=shared)
    else:
        model = new_scalar(recipe.model.path, recipe.model, tokenizer, recipe.run.seed, in_4bit=in_4bit)
    if recipe.reward.share_prompts:
        use_shared_prefixes(model)
    return model


def collate(rows: list[dict[str, Any]], share: bool, margin_coef: float) -> dict[str, Any]:
    """Pack both sides of all pairs into one row for one forward pass.

    Args:
        rows: pairs of token ids, from `pair_rows`. None give a row of one token at which no score is read.
        share: compute the prefix that both sides of a pair have in common only once; the scores stay the same.
        margin_coef: factor of the pairs' margins.

    Returns the arguments of the model's forward pass. `score_positions`, (2 · pairs,), are the positions of the sides'
    last tokens, all chosen sides first, as in RewardTrainer. `margin`, (pairs,) in score units, is present if
    `margin_coef` is not 0; `compute_loss` subtracts it from the difference of the scores.
    """
    if not rows:
        return {**pack([[0]]), "score_positions": torch.zeros(0, dtype=torch.long)}
    inputs = pack_pairs([sides(row) for row in rows]) if share else pack([row[side] for side in SIDES for row in rows])
    if margin_coef:
        inputs["margin"] = margin_coef * torch.tensor([row["margin"] for row in rows])
    return {"score_positions": inputs["cu_seq_lens_q"][1:].long() - 1, **inputs}


def sides(row: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Return the token ids of the chosen and of the rejected side."""
    return row[SIDES[0]], row[SIDES[1]]


class PairTrainer(RankBatchTrainer, RewardTrainer):
    """RewardTrainer whose loss and metrics are means over all pairs of a step, or of an evaluation.

    TRL's are means over the pairs of one forward pass on one rank, so they depend on the micro-batch size.
    """

    args: RewardConfig
    loss_is_scaled_for_ga = True

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """Return this rank's micro-batches of a step and the number of pairs on all ranks (collective)."""
        self.step_scores.append([])
        parts, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        pairs = sum(len(part["score_positions"]) for part in parts) // 2
        return parts, self.accelerator.reduce(torch.tensor(pairs, device=device))

    @cached_property
    def step_scores(self) -> list[list[torch.Tensor]]:
        """This rank's scores since the last log: [step][micro-batch] -> (2, pairs), chosen first."""
        return []

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        assert num_items_in_batch is not None  # `get_batch_samples` counts the pairs
        margin = inputs.pop("margin", 0.0)
        chosen, rejected = scores = model(**inputs).logits.view(2, -1)
        self.step_scores[-1].append(scores.detach())
        losses = -F.logsigmoid(chosen - rejected - margin)
        if self.args.center_rewards_coefficient is not None:
            losses = losses + self.args.center_rewards_coefficient * (chosen + rejected) ** 2
        # DDP averages the gradient over ranks.
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            own = [torch.cat(parts, 1).T.tolist() for parts in self.step_scores]
            steps = zip(*gather_object([own]), strict=True)  # [step][rank]
            each = [score_metrics(torch.tensor([pair for part in step for pair in part])) for step in steps]
            logs.update({name: sum(step[name] for step in each) / len(each) for name in each[0]})
            self.step_scores.clear()
        super().log(logs, start_time)

    def evaluate(
        self, eval_dataset: Dataset | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        chosen, rejected = self.scores(self.eval_dataset if eval_dataset is None else eval_dataset, "evaluation").T
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in pair_metrics(chosen - rejected).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @torch.no_grad()
    def scores(self, rows: Any, name: str) -> torch.Tensor:
        """Return the scores of `rows`, (pairs, 2), chosen first, on every rank (collective: every rank must call it).

        `name` labels the progress on the console. Scores are float32, with the model's score offset subtracted.
        """
        self.model.eval()
        mine, own = take_share(range(len(rows))), []
        lifecycle: Lifecycle | None = getattr(self, "lifecycle", None)
        console = lifecycle.console if lifecycle else None
        with console.part(name, len(rows)) if console else nullcontext(lambda done: None) as show:
            for run in micro_batches_on_all_ranks([sum(map(len, sides(rows[at]))) for at in mine], TOKENS_PER_FORWARD):
                if chosen := mine[run]:
                    own += pair_scores(self.model, [sides(rows[at]) for at in chosen]).tolist()
                    show(min(len(rows), len(own) * self.accelerator.num_processes))
                else:
                    self.model(**self._prepare_inputs(self.data_collator([])))
        return torch.tensor(all_gather_items(own))


def score_metrics(scores: torch.Tensor) -> dict[str, float]:
    """Return the metrics of a training step from its scores, (pairs, 2), chosen first."""
    chosen, rejected = scores.T
    return {
        "min_reward": scores.min().item(),
        "mean_reward": scores.mean().item(),
        "max_reward": scores.max().item(),
        "accuracy": (chosen > rejected).float().mean().item(),
        "margin": (chosen - rejected).mean().item(),
    }


def pair_metrics(margins: torch.Tensor) -> dict[str, float]:
    """Return the evaluation metrics of margins, (pairs,): chosen minus rejected score.

    These are the loss without its optional terms, the pairwise accuracy (a tie counts half) and the mean margin.
    """
    return {
        "loss": -F.logsigmoid(margins).mean().item(),
        "accuracy": ((margins > 0).float() + 0.5 * (margins == 0).float()).mean().item(),
        "margin": margins.mean().item(),
    }


def centre(trainer: PairTrainer, rows: Sequence[dict[str, Any]], seed: int) -> None:
    """Centre the model's scores: add the mean score of training pairs, over both sides, to its score offset.

    The pairs are the first ones of the training order: at most `MAX_OFFSET_PAIRS`, and only pairs that the run has
    trained on (collective: every rank must call it).
    """
    count = min(len(rows), MAX_OFFSET_PAIRS, trainer.state.global_step * trainer.batch)
    chosen = [rows[at] for at in shuffled_positions(seed, len(rows), 0, count)]
    mean = trainer.scores(chosen, "score offset").double().mean().item()
    trainer.accelerator.unwrap_model(trainer.model).config.score_offset += mean
