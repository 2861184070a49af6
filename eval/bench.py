"""What the measures stand on: held-out rows, the tokenizer they were written with, and models, one at a time."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatml import control
from config.data import Source
from config.scoring import Scoring
from config.sections import Model
from engine.data.report import Report
from engine.data.rows import pair_rows, prompt_rows, text_rows
from engine.models.loading import load_causal
from engine.models.tokenizer import load_tokenizer
from engine.run.folder import RunFolder
from engine.scoring.scorer import score_sequences
from eval.recipe import Eval

# Tokens in one forward.
BUDGET = 16384
# What summary.json calls the models of these keys.
MODEL_NAMES = {"eval.pmp": "pmp", "eval.reward": "rm"}


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

    def reward_models(self) -> dict[str, tuple[str, Scoring]]:
        """pmp, rm and the recipe's own names -> key and what scores; only those that the recipe names."""
        named = self.recipe.eval.reward_models().items()
        return {MODEL_NAMES.get(key, key.rpartition(".")[2]): (key, scoring) for key, scoring in named}

    def scores(
        self, key: str, scoring: Scoring, sequences: Sequence[Sequence[int]], records: Sequence[dict[str, Any]]
    ) -> list[float]:
        """(sequences,) scores as in PPO, by what the recipe names at `key`; its models are loaded one at a time."""
        folder = Path(self.recipe.run.dir)
        return score_sequences(scoring, key, sequences, records, self._model, self.tokenizer, folder, self.device)

    def _model(self, path: str) -> Model:
        return Model(path=path, dtype=self.recipe.model.dtype, attention=self.recipe.model.attention)


def set_up(recipe: Eval, folder: RunFolder) -> Bench:
    """Read what the recipe's data keys name; what was kept of it is printed and noted in the folder."""
    data, limits = recipe.data, {"max_length": recipe.data.max_length}
    tokenizer = load_tokenizer(recipe.tokenizer_path)

    def rows(name: str, read: Callable[..., tuple[Dataset, Report]], named: list[Source], **limit: int) -> list[Any]:
        key = f"data.{name}" if name in data.source_keys() else f"data.comparisons.{name}"
        return list(folder.keep_report(name, *read(named, recipe, tokenizer, key=key, **limit)))

    asked = []
    if data.prompts is not None:
        asked = rows("prompts", prompt_rows, data.sources("prompts"), max_prompt_tokens=data.max_prompt_tokens)
    prompts = [
        row | {name: json.loads(row[name]) for name in ("messages", "record")}
        for row in asked[: recipe.eval.prompts_limit]
    ]
    pairs = {name: rows(name, pair_rows, named, **limits) for name, named in data.compared().items()}
    texts = rows("pretrain", text_rows, data.sources("pretrain"), **limits) if data.pretrain is not None else []
    return Bench(recipe, tokenizer, prompts, pairs, [row["input_ids"] for row in texts])
