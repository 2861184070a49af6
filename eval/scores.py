"""Scores by reward models, rules and judges: of answers, and of both sides of comparisons.

A reward of several models is scored model by model, one in memory at a time, and combined at the end, so what one model
has scored is kept whatever happens to the next.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from chatml import control, plain_encoder
from config.scoring import Scoring
from engine.data import encoding
from engine.data.report import TOO_LONG
from engine.data.rows import Limit, load_rows
from engine.errors import RunError
from engine.forward.responses import TOKENS_A_FORWARD, sequence_scores
from engine.run.folder import RunFolder
from engine.scoring.scorer import combine_scores, rule_or_judge
from eval.item_store import ItemStore, Row, fingerprint
from eval.items import Items
from eval.models import Models, files_of
from eval.recipe import Eval

# Sequences that are scored and kept together.
AT_ONCE = 256
ScoreSequences = Callable[[Sequence[Sequence[int]], Sequence[Mapping[str, Any]]], list[float]]


@dataclass(frozen=True)
class Batch:
    """Sequences that are scored together: a subject's answers, or a set of comparisons."""

    name: str
    sequences: Sequence[Sequence[int]]
    """whole conversations, each ended by <|im_end|>"""
    records: Sequence[Mapping[str, Any]]
    """what their prompts were read from; {} where that is not known"""


def score(name: str, scoring: Scoring, batches: Sequence[Batch], models: Models, run_dir: Path) -> list[list[float]]:
    """For each batch the scores by the reward called `name`; its models are loaded only where something is missing."""
    tokenizer = reward_tokenizer(scoring, models)
    if not scoring.paths:
        identity = _identity_without_model(scoring)
        return _complete(name, identity, batches, run_dir, lambda: _rule_or_judge(name, scoring, models, run_dir))

    by_model = []
    for number, path in enumerate(scoring.paths, 1):
        member = name if len(scoring.paths) == 1 else f"{name}.{number}"

        def load(path: str = path) -> ScoreSequences:
            model = models.scalar(path, tokenizer)
            return lambda sequences, _: sequence_scores(model, sequences, TOKENS_A_FORWARD).double().tolist()

        by_model.append(_complete(member, models.identity(path), batches, run_dir, load))
    return [
        combine_scores([torch.tensor(scores, dtype=torch.float64) for scores in batch], scoring.std_coef).tolist()
        for batch in zip(*by_model, strict=True)
    ]


def reward_tokenizer(scoring: Scoring, models: Models) -> PreTrainedTokenizerBase:
    """The tokenizer that a reward reads conversations with: its first model's; of rules and judges the main one."""
    return models.tokenizer_at(scoring.paths[0]) if scoring.paths else models.main_tokenizer


def reward_context(scoring: Scoring, models: Models) -> int | None:
    """Tokens that all models of a reward can read; None where they do not say, and for rules and judges."""
    return min((limit for path in scoring.paths if (limit := models.context(path))), default=None)


def _complete(
    name: str, identity: Any, batches: Sequence[Batch], run_dir: Path, load: Callable[[], ScoreSequences]
) -> list[list[float]]:
    """The scores of all batches by one model, rule or judge, which `load` returns once it is needed."""
    loaded: list[ScoreSequences] = []

    def compute(batch: Batch, part: slice) -> list[Row]:
        if not loaded:
            loaded.append(load())
        return [{"score": value} for value in loaded[0](batch.sequences[part], batch.records[part])]

    found = []
    for batch in batches:
        store = ItemStore(run_dir, f"{batch.name} scores {name}", identity)
        keys = [fingerprint(*each) for each in zip(batch.sequences, batch.records, strict=True)]
        rows = store.complete(keys, lambda part, batch=batch: compute(batch, part), AT_ONCE)
        found.append([row["score"] for row in rows])
    return found


def _rule_or_judge(name: str, scoring: Scoring, models: Models, run_dir: Path) -> ScoreSequences:
    """A rule or a judge as a function of sequences and records."""
    scorer = rule_or_judge(scoring, f"eval.rewards.{name}", models.main_tokenizer, run_dir, torch.device("cpu"))
    return lambda sequences, records: scorer(sequences, records, TOKENS_A_FORWARD).tolist()


def _identity_without_model(scoring: Scoring) -> Any:
    """What decides the scores of a rule (the file that its function is in, too) or of a judge."""
    if scoring.rule is None:
        judge = asdict(scoring.judge)
        return [judge[name] for name in ("url", "model", "question", "score_pattern")]
    try:
        module = importlib.import_module(scoring.rule.partition(":")[0])
    except ImportError:
        return scoring.rule  # loading it says what is wrong
    return [scoring.rule, files_of(getattr(module, "__file__", None) or "")]


# Answers


def answer_batch(
    subject: str,
    items: Items,
    answers: Sequence[Row],
    own: PreTrainedTokenizerBase | None,
    tokenizer: PreTrainedTokenizerBase,
    context: int | None,
) -> tuple[Batch, list[tuple[int, int]]]:
    """The conversations of a subject's answers for a reward with `tokenizer`, and (item, answer) of each.

    Answers that have not ended, or do not fit into the reward's context, are left out: they have no score. `own` is the
    tokenizer that the answers were generated with; where it is another one, or None, their text is encoded.
    """
    end, plain = control(tokenizer).im_end, plain_encoder(tokenizer)
    places, sequences = [], []
    for number, (prompt, row) in enumerate(zip(items.prompts(tokenizer), answers, strict=True)):
        for at, answer in enumerate(row["answers"]):
            if not answer["ended"]:
                continue
            sequence = [*prompt, *(answer["ids"] if own is tokenizer else [*plain(answer["text"], "inside"), end])]
            if context is None or len(sequence) <= context:
                places.append((number, at))
                sequences.append(sequence)
    return Batch(subject, sequences, [items.items[number].record for number, _ in places]), places


# Comparisons


def read_pairs(
    recipe: Eval, tokenizer: PreTrainedTokenizerBase, models: Models, folder: RunFolder
) -> dict[str, Dataset]:
    """SET -> rows of the comparisons that data.comparisons names, by one tokenizer."""
    data, found = recipe.data, {}
    for name, named in data.sets("comparisons").items():
        settings = {
            "data": data,
            "chatml": recipe.chatml,
            "seed": recipe.run.seed,
            "key": f"data.comparisons.{name}",
            "limit": Limit("data.max_length", data.max_length),
        }
        rows, report = load_rows(encoding.pairs, named, tokenizer=tokenizer, **settings)
        if tokenizer is models.main_tokenizer:
            folder.keep_report(name, rows, report)
        elif (
            report.dropped[TOO_LONG]
            or load_rows(encoding.pairs, named, tokenizer=models.main_tokenizer, **settings)[1].dropped[TOO_LONG]
        ):
            raise RunError(
                f"data.comparisons.{name}: some are longer than data.max_length={data.max_length:,}, and not the same "
                f"ones by the tokenizers of {models.main_tokenizer.name_or_path} and {tokenizer.name_or_path}; raise "
                "data.max_length"
            )
        found[name] = rows
    return found


def pair_batch(name: str, rows: Dataset) -> Batch:
    """Both sides of every comparison of a set, chosen first."""
    sides = [side for row in rows for side in (row["chosen_ids"], row["rejected_ids"])]
    return Batch(name, sides, [{}] * len(sides))
