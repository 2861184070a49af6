"""What the measures stand on: held-out rows, the tokenizer they were written with, and models, one at a time."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatml import control
from engine.data.report import Report
from engine.data.rows import pair_rows, prompt_rows, text_rows
from engine.models.loading import load_causal, load_scalar
from engine.models.responses import sequence_scores
from engine.models.tokenizer import load_tokenizer
from engine.run.folder import RunError, RunFolder
from eval.recipe import Eval
from recipes.sections import Model, model_paths

# Tokens in one forward.
BUDGET = 16384


@dataclass(frozen=True)
class Bench:
    recipe: Eval
    tokenizer: PreTrainedTokenizerBase
    prompts: list[dict[str, Any]]
    """rows of `prompt_rows`, their JSON read"""
    pairs: dict[str, list[dict[str, Any]]]
    """data key -> rows of `pair_rows`; only keys that the recipe names"""
    texts: list[list[int]]
    """pieces of pretraining text; none where the recipe names none"""

    @property
    def end(self) -> int:
        """The token that ends an answer well."""
        return control(self.tokenizer).im_end

    @property
    def device(self) -> torch.device:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def policy(self, path: str) -> PreTrainedModel:
        """A frozen causal LM."""
        return load_causal(path, self._model(path), self.tokenizer, trained=False, device=self.device)

    def reward_models(self) -> dict[str, list[str]]:
        """pmp and rm -> paths; only those that the recipe names."""
        subjects = {"pmp": self.recipe.eval.pmp, "rm": self.recipe.eval.reward}
        return {name: model_paths(value, f"eval.{name}") for name, value in subjects.items() if value is not None}

    def scores(self, paths: Sequence[str], sequences: Sequence[Sequence[int]]) -> list[float]:
        """(sequences,) centred scores; of several models their mean, as in PPO."""
        totals = torch.zeros(len(sequences), dtype=torch.float64)
        for path in paths if sequences else ():
            model = load_scalar(path, self._model(path), self.tokenizer, trained=False, device=self.device)
            if model.config.score_token_id != self.end:
                raise RunError(
                    f"{path} reads its score at another token than the <|im_end|> of eval.sft={self.recipe.eval.sft}; "
                    "both must come from the same base"
                )
            totals += sequence_scores(model, sequences, BUDGET).double().cpu()
        return (totals / len(paths)).tolist()

    def _model(self, path: str) -> Model:
        return Model(path=path, dtype=self.recipe.model.dtype, attention=self.recipe.model.attention)


def set_up(recipe: Eval, folder: RunFolder) -> Bench:
    """Read what the recipe's data keys name; what was kept of it is printed and noted in the folder."""
    data, tokenizer = recipe.data, load_tokenizer(recipe.eval.sft)

    def rows(name: str, read: Callable[..., tuple[Dataset, Report]], **limit: int) -> list[dict[str, Any]]:
        named = data.sources(name)
        return list(folder.keep_report(name, *read(named, recipe, tokenizer, key=f"data.{name}", **limit)))

    asked = rows("prompts", prompt_rows, max_prompt_tokens=data.max_prompt_tokens)[: recipe.eval.prompts_limit]
    prompts = [row | {name: json.loads(row[name]) for name in ("messages", "record")} for row in asked]
    compared = [name for name in ("pairs", "correctness_pairs") if getattr(data, name) is not None]
    pairs = {name: rows(name, pair_rows, max_length=data.max_length) for name in compared}
    texts = rows("pretrain", text_rows, max_length=data.max_length) if data.pretrain is not None else []
    return Bench(recipe, tokenizer, prompts, pairs, [row["input_ids"] for row in texts])
