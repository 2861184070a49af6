"""Stage 1: supervised finetuning (report, 3.1), and pretraining on plain text, which is the same without a mask.

    L = - mean over trained tokens of log p(token | tokens before it in the same conversation)        in nats

It runs trl.SFTTrainer on rows that are tokenised, masked and packed here. The mean is over the trained tokens of the
whole batch, so packing, gradient accumulation and the number of ranks do not change it.
"""

from itertools import accumulate
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from chatml import IGNORE
from engine.data import encoding
from engine.data.packing import pack_rows
from engine.data.rows import Limit, RowLoader, longest_sequence
from engine.dist import sharding
from engine.dist.collectives import max_over_ranks, take_share
from engine.dist.devices import compute_dtype
from engine.forward.logprobs import TokenLogProbs
from engine.forward.packed import pack
from engine.models.adapters import add_adapters
from engine.models.context_length import check_length
from engine.models.loading import load_causal
from engine.models.system_prompt import stage_tokenizer
from engine.run.batches import RankBatchTrainer
from engine.run.folder import RunFolder
from engine.run.lifecycle import Lifecycle
from engine.run.trainer import best_by, fit, refuse_without_gpu, training_arguments
from sft.recipe import SFT


def train(recipe: SFT) -> None:
    """Run the stage to its end, from its last checkpoint if there is one."""
    refuse_without_gpu(recipe.trainer)
    folder = RunFolder(recipe)
    tokenizer = stage_tokenizer(recipe.model, recipe.chatml)
    train_rows = conversation_rows("train", recipe, tokenizer, folder)
    eval_rows = conversation_rows("eval", recipe, tokenizer, folder) if recipe.data.eval else None
    base = load_causal(
        recipe.model.path, recipe.model, tokenizer, trained=True, in_4bit=recipe.lora.load_in_4bit,
        as_stored=sharding.sharding_requested(),
    )  # fmt: skip
    for name, rows in (("train", train_rows), ("eval", eval_rows)):
        if rows is not None:
            what = f"the longest record of data.{name}"
            check_length(base.config, longest_sequence(rows), what, "set data.max_length={limit}")
    model = add_adapters(base, recipe.lora, tokenizer, recipe.run.seed, compute_dtype(recipe.model))
    lifecycle = Lifecycle("sft", folder, recipe.run)
    trainer = PackedTrainer(
        model,
        training_arguments(
            SFTConfig,
            recipe,
            lifecycle,
            max_length=None,
            dataset_kwargs={"skip_prepare_dataset": True},
            **best_by("loss", recipe.sft, recipe.run),
        ),
        data_collator=collate,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=tokenizer,
    )
    fit(trainer, lifecycle, recipe, tokenizer, recipe.sft)


def conversation_rows(name: str, recipe: SFT, tokenizer: PreTrainedTokenizerBase, folder: RunFolder) -> Dataset:
    """Load the rows of `data.train` or `data.eval` (`name` is "train" or "eval"), packed if `data.packing` is set."""
    data = recipe.data
    loader = RowLoader(data, recipe.chatml, recipe.run.seed, tokenizer)
    limit = Limit("data.max_length", data.max_length)
    rows = folder.keep_report(name, *loader.load(encoding.conversations, name, limit))
    return pack_rows(rows, data.max_length) if data.packing else rows


class PackedTrainer(RankBatchTrainer, SFTTrainer):
    """SFTTrainer with our log-probabilities.

    These are computed at trained positions only, and are correct also if peft trains single embedding rows.
    """

    args: SFTConfig

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        if self.aux_loss_enabled or self.label_smoother is not None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        out = self.trained_tokens(model, inputs)
        loss = -out.logprobs
        if self.args.loss_type == "dft":
            loss = loss * out.logprobs.detach().exp()
        if num_items_in_batch is None:
            loss = loss.sum() / max(len(loss), 1)
        else:  # num_items_in_batch counts the trained tokens of all ranks, and DDP averages gradients over ranks.
            loss = loss.sum() / num_items_in_batch * self.accelerator.num_processes
        return (loss, out) if return_outputs else loss

    def trained_tokens(self, model: torch.nn.Module, inputs: dict[str, Any]) -> TokenLogProbs:
        """Return the log-probabilities, in nats, of the labels of one flat row at its trained positions: (trained,)."""
        labels = inputs["labels"][0, 1:]
        positions = (labels != IGNORE).nonzero()[:, 0]
        arguments = {name: value for name, value in inputs.items() if name != "labels"}
        return model(**arguments, logprob_positions=positions, logprob_targets=labels[positions], with_entropy=False)

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Dataset | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the mean loss over trained tokens, in nats; the Trainer's mean over batches depends on their size."""
        rows, size = self.eval_dataset if eval_dataset is None else eval_dataset, self.args.eval_batch_size
        mine = take_share(range(len(rows)))
        self.model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        # Ranks without rows left still run the model, since the forward pass of a sharded model is collective.
        for start in range(0, max_over_ranks(len(mine)), size):
            chosen = [rows[at] for at in mine[start : start + size]]
            logprobs = self.trained_tokens(self.model, self._prepare_inputs(self.data_collator(chosen))).logprobs
            total += torch.stack([-logprobs.double().sum(), total.new_tensor(len(logprobs))])
        nll, tokens = self.accelerator.reduce(total).tolist()
        metrics = {f"{metric_key_prefix}_loss": nll / max(tokens, 1)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Join rows, each with one or several (packed) sequences, into one flat row: inputs and labels are (1, total).

    An empty list gives one masked token.
    """
    if not rows:
        return collate([{"input_ids": [0], "labels": [IGNORE]}])
    sequences = []
    for row in rows:
        lengths = row.get("seq_lengths", [len(row["input_ids"])])
        ends = accumulate(lengths)
        sequences += [row["input_ids"][end - length : end] for length, end in zip(lengths, ends, strict=True)]
    return {**pack(sequences), "labels": torch.tensor([[label for row in rows for label in row["labels"]]])}
