"""The one interface behind which everything that scores answers stands, and reward models behind it.

Reward models of different seeds agree where they have learnt something and disagree where an answer fools one of them:
mean - λ deviation is the more careful score (after Coste et al. 2024, who subtract the variance).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatml import control
from config.scoring import Scoring
from config.sections import Model
from engine.errors import RunError
from engine.forward.responses import TOKENS_A_FORWARD, Tokens, sequence_scores
from engine.models.loading import load_scalar, scalar_config
from engine.models.tokenizer import load_tokenizer
from engine.models.vocabulary import same_vocabulary
from engine.scoring.answers import last_turn
from engine.scoring.judge import LLMJudge
from engine.scoring.rule import RuleScorer

Record = Mapping[str, Any]


class Scorer(Protocol):
    def __call__(
        self, sequences: Sequence[Tokens], starts: Sequence[int], records: Sequence[Record], budget: int
    ) -> torch.Tensor:
        """(sequences,) scores of whole conversations, each ended by its answer's <|im_end|>.

        `starts` are the positions at which the answers begin; `records` are what their prompts were read from ({} where
        that is not known); `budget` tokens a forward.
        """


@dataclass(frozen=True)
class RewardModels:
    models: list[PreTrainedModel]
    std_coef: float

    def __call__(
        self, sequences: Sequence[Tokens], starts: Sequence[int], records: Sequence[Record], budget: int
    ) -> torch.Tensor:
        return combine_scores([sequence_scores(model, sequences, budget) for model in self.models], self.std_coef)


def combine_scores(scores: Sequence[torch.Tensor], std_coef: float) -> torch.Tensor:
    """Mean minus `std_coef` times the deviation (with n, not n - 1) over models, each (sequences,)."""
    stacked = torch.stack(list(scores))
    if not stacked.numel():  # no answer has ended; a deviation of nothing warns
        return stacked.mean(0)
    return stacked.mean(0) - std_coef * stacked.std(0, correction=0)


def score_sequences(
    scoring: Scoring,
    key: str,
    sequences: Sequence[Tokens],
    records: Sequence[Record],
    model_of: Callable[[str], Model],
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    device: torch.device,
) -> list[float]:
    """Scores by what a recipe names at `key`, its models loaded one at a time, each as `model_of` its path says.

    `sequences` are conversations that `tokenizer` encoded from messages, each ended by its answer's <|im_end|>.
    """
    if not sequences:
        return []
    if not scoring.paths:
        scorer = rule_or_judge(scoring, key, tokenizer, folder, torch.device("cpu"))
        starts = [last_turn(sequence, tokenizer) for sequence in sequences]
        return scorer(sequences, starts, records, TOKENS_A_FORWARD).tolist()
    by_model = []
    for path in scoring.paths:
        refuse_other_vocabulary(path, key, model_of(path), tokenizer)
        model = load_scalar(path, model_of(path), tokenizer, trained=False, device=device)
        by_model.append(sequence_scores(model, sequences, TOKENS_A_FORWARD).double().cpu())
    return combine_scores(by_model, scoring.std_coef).tolist()


def refuse_other_vocabulary(path: str, key: str, model: Model, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise RunError unless the reward model in `path` reads the same tokens as `tokenizer`, id by id.

    It must read its score at the <|im_end|> of `tokenizer` too. Vocabularies of equal size may still number their
    tokens differently, and a model that reads other tokens scores at random.
    """
    own = load_tokenizer(path, model.revision)
    known, other = tokenizer.get_vocab(), own.get_vocab()
    config = scalar_config(path, model)
    score_token = None if config is None else config.score_token_id
    if not same_vocabulary(own, tokenizer):
        differing = sum(other.get(token) != number for token, number in known.items())
        raise RunError(
            f"{key}={path} reads other tokens than {tokenizer.name_or_path}: of {len(known):,} tokens {differing:,} "
            f"have another id, or none, in its vocabulary of {len(other):,}; both models must come from the same base"
        )
    if score_token not in (None, control(tokenizer).im_end):
        raise RunError(
            f"{key}={path} reads its score at token {score_token}, not at <|im_end|>, which is "
            f"{control(tokenizer).im_end} for {tokenizer.name_or_path}; both models must come from the same base"
        )


def rule_or_judge(
    scoring: Scoring,
    key: str,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    device: torch.device,
    cache_name: str = "judge.jsonl",
) -> Scorer:
    """The rule or the judge that a recipe names at `key`; a judge's scores are kept in `folder`, as `cache_name`."""
    if scoring.rule is not None:
        return RuleScorer(scoring.rule, f"{key}.rule", tokenizer, device)
    return LLMJudge(scoring.judge, f"{key}.judge", tokenizer, folder, device, cache_name)
