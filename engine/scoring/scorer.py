"""The interface of everything that scores answers, and its implementation by reward models.

Reward models trained with different seeds agree where they have learned something and disagree where an answer exploits
one of them: mean - λ · standard deviation is a more careful score (after Coste et al. 2024, who subtract the variance).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from chatml import control
from config.scoring import Scoring
from config.sections import Model
from engine.errors import RunError
from engine.forward.responses import TOKENS_PER_FORWARD, Tokens, sequence_scores
from engine.models.loading import load_scalar, scalar_config
from engine.models.tokenizer import load_tokenizer
from engine.models.vocabulary import same_vocabulary
from engine.scoring.answers import last_turn_start
from engine.scoring.judge import LLMJudge
from engine.scoring.rule import RuleScorer

Record = Mapping[str, Any]


class Scorer(Protocol):
    """Scores answers: a reward model or several, a rule, or a judge."""

    def __call__(
        self, sequences: Sequence[Tokens], starts: Sequence[int], records: Sequence[Record], budget: int
    ) -> torch.Tensor:
        """Return (sequences,) float32 scores of whole conversations, each ending with its answer's <|im_end|>.

        Args:
            sequences: token ids.
            starts: for each sequence the index of its answer's first token.
            records: for each sequence the record that its prompt was read from; {} if unknown.
            budget: tokens per forward pass, where there is one.
        """


@dataclass(frozen=True)
class RewardModels:
    """A Scorer by one reward model, or by several that `combine_scores` combines."""

    models: Sequence[torch.nn.Module]
    std_coef: float
    """λ: weight of the standard deviation over models"""

    def __call__(
        self, sequences: Sequence[Tokens], starts: Sequence[int], records: Sequence[Record], budget: int
    ) -> torch.Tensor:
        return combine_scores([sequence_scores(model, sequences, budget) for model in self.models], self.std_coef)


def combine_scores(scores: Sequence[torch.Tensor], std_coef: float) -> torch.Tensor:
    """Return mean - std_coef · standard deviation (dividing by n, not n - 1) over models; all are (sequences,)."""
    stacked = torch.stack(list(scores))
    if not stacked.numel():  # no answer has ended; torch warns about the deviation of an empty tensor
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
    """Return the scores of conversations by the reward that a recipe names at `key`.

    Reward models are loaded one at a time.

    Args:
        sequences: token ids of conversations that `tokenizer` encoded from messages, each ending with its answer's
            <|im_end|>.
        records: for each sequence the record that its prompt was read from; {} if unknown.
        model_of: returns the model section with which to load the reward model of a path.
        folder: where a judge caches its scores.
    """
    if not sequences:
        return []
    if not scoring.paths:
        scorer = rule_or_judge(scoring, key, tokenizer, folder, torch.device("cpu"))
        starts = [last_turn_start(sequence, tokenizer) for sequence in sequences]
        return scorer(sequences, starts, records, TOKENS_PER_FORWARD).tolist()
    by_model = []
    for path in scoring.paths:
        refuse_other_vocabulary(path, key, model_of(path), tokenizer)
        model = load_scalar(path, model_of(path), tokenizer, trained=False, device=device)
        by_model.append(sequence_scores(model, sequences, TOKENS_PER_FORWARD).double().cpu())
    return combine_scores(by_model, scoring.std_coef).tolist()


def refuse_other_vocabulary(path: str, key: str, model: Model, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise RunError unless the reward model in `path` has the vocabulary of `tokenizer`, id by id.

    It must also read its score at the <|im_end|> of `tokenizer`. Vocabularies of equal size may still number their
    tokens differently, and a model with another vocabulary scores at random.
    """
    own = load_tokenizer(path, model.revision)
    known, other = tokenizer.get_vocab(), own.get_vocab()
    config = scalar_config(path, model)
    score_token = None if config is None else config.score_token_id
    if not same_vocabulary(own, tokenizer):
        differing = sum(other.get(token) != number for token, number in known.items())
        raise RunError(
            f"{key}={path} has another vocabulary than {tokenizer.name_or_path}: of {len(known):,} tokens "
            f"{differing:,} have another id, or none, in its vocabulary of {len(other):,}; both models must come from "
            "the same base"
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
    """Return the rule or judge that a recipe names at `key`; a judge caches its scores in `folder` as `cache_name`."""
    if scoring.rule is not None:
        return RuleScorer(scoring.rule, f"{key}.rule", tokenizer, device)
    return LLMJudge(scoring.judge, f"{key}.judge", tokenizer, folder, device, cache_name)
