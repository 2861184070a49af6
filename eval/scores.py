"""Score answers and both sides of comparisons with reward models, rules and judges.

A reward of several models is scored model by model, with one in memory at a time, and combined at the end. The scores
of each model are stored separately, so a failure of a later model does not lose them.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from chatml import control, plain_encoder
from config.scoring import Scoring
from engine.data import encoding
from engine.data.report import TOO_LONG
from engine.data.rows import Limit, RowLoader
from engine.errors import RunError
from engine.forward.responses import TOKENS_PER_FORWARD, sequence_scores
from engine.run.folder import RunFolder
from engine.scoring.answers import last_turn_start
from engine.scoring.scorer import combine_scores, rule_or_judge
from eval.item_store import ItemStore, Row, fingerprint
from eval.items import Items
from eval.models import Models, files_of
from eval.recipe import Eval

# Number of sequences that are scored, and then stored, together.
SEQUENCES_AT_ONCE = 256
ScoreSequences = Callable[[Sequence[Sequence[int]], Sequence[int], Sequence[Mapping[str, Any]]], list[float]]


@dataclass(frozen=True)
class Batch:
    """Sequences that are scored together: a subject's answers, or a set of comparisons."""

    name: str
    sequences: Sequence[Sequence[int]]
    """token ids of whole conversations, each ending with <|im_end|>"""
    starts: Sequence[int]
    """index of the first token of the answer to score, per sequence"""
    records: Sequence[Mapping[str, Any]]
    """records that the prompts were read from; {} where unknown"""


def score(name: str, scoring: Scoring, batches: Sequence[Batch], models: Models, run_dir: Path) -> list[list[float]]:
    """Return the scores of each batch by the reward called `name`, in the order of its sequences.

    Models are loaded only if scores are missing from the item store in `run_dir`.
    """
    tokenizer = reward_tokenizer(scoring, models)
    if not scoring.paths:
        identity = _identity_without_model(scoring)
        return _complete(name, identity, batches, run_dir, lambda: _rule_or_judge(name, scoring, models, run_dir))

    by_model = []
    for number, path in enumerate(scoring.paths, 1):
        member = name if len(scoring.paths) == 1 else f"{name}.{number}"

        def load(path: str = path) -> ScoreSequences:
            model = models.scalar(path, tokenizer)
            return lambda sequences, *_: sequence_scores(model, sequences, TOKENS_PER_FORWARD).double().tolist()

        by_model.append(_complete(member, models.identity(path), batches, run_dir, load))
    return [
        combine_scores([torch.tensor(scores, dtype=torch.float64) for scores in batch], scoring.std_coef).tolist()
        for batch in zip(*by_model, strict=True)
    ]


def reward_tokenizer(scoring: Scoring, models: Models) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a reward's first model; the main tokenizer for rules and judges."""
    return models.tokenizer_at(scoring.paths[0]) if scoring.paths else models.main_tokenizer


def reward_context(scoring: Scoring, models: Models) -> int | None:
    """Return the smallest context of a reward's models in tokens; None if unknown, and for rules and judges."""
    return min((limit for path in scoring.paths if (limit := models.context(path))), default=None)


def _complete(
    name: str, identity: Any, batches: Sequence[Batch], run_dir: Path, load: Callable[[], ScoreSequences]
) -> list[list[float]]:
    """Return the scores of all batches by one model, rule or judge; `load` is called only if scores are missing."""
    loaded: list[ScoreSequences] = []

    def compute(batch: Batch, part: slice) -> list[Row]:
        if not loaded:
            loaded.append(load())
        return [{"score": value} for value in loaded[0](batch.sequences[part], batch.starts[part], batch.records[part])]

    found = []
    for batch in batches:
        store = ItemStore(run_dir, f"{batch.name} scores {name}", identity)
        keys = [fingerprint(*each) for each in zip(batch.sequences, batch.records, strict=True)]
        rows = store.complete(keys, partial(compute, batch), SEQUENCES_AT_ONCE)
        found.append([row["score"] for row in rows])
    return found


def _rule_or_judge(name: str, scoring: Scoring, models: Models, run_dir: Path) -> ScoreSequences:
    """Load a rule or a judge as a function of (sequences, starts, records)."""
    scorer = rule_or_judge(scoring, f"eval.rewards.{name}", models.main_tokenizer, run_dir, torch.device("cpu"))
    return lambda sequences, starts, records: scorer(sequences, starts, records, TOKENS_PER_FORWARD).tolist()


def _identity_without_model(scoring: Scoring) -> Any:
    """Return what determines the scores of a rule (its name and its source file) or of a judge."""
    if scoring.rule is None:
        judge = asdict(scoring.judge)
        return [judge[name] for name in ("url", "model", "question", "score_pattern")]
    try:
        module = importlib.import_module(scoring.rule.partition(":")[0])
    except ImportError:
        return scoring.rule  # loading the rule later reports the error
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
    """Return a subject's answers as conversations for a reward with `tokenizer`, and (item, answer) indices of each.

    Answers that have not ended, or do not fit into the reward's `context` (in tokens), are left out: they have no
    score. `own` is the tokenizer that generated the answers, or None for an endpoint. If it is not `tokenizer`, the
    answers' text is encoded instead of reusing their tokens.
    """
    end, plain = control(tokenizer).im_end, plain_encoder(tokenizer)
    places, sequences, starts = [], [], []
    for number, (prompt, row) in enumerate(zip(items.prompts(tokenizer), answers, strict=True)):
        for at, answer in enumerate(row["answers"]):
            if not answer["ended"]:
                continue
            sequence = [*prompt, *(answer["ids"] if own is tokenizer else [*plain(answer["text"], "inside"), end])]
            if context is None or len(sequence) <= context:
                places.append((number, at))
                sequences.append(sequence)
                starts.append(len(prompt))
    return Batch(subject, sequences, starts, [items.items[number].record for number, _ in places]), places


# Comparisons


def read_pairs(
    recipe: Eval, tokenizer: PreTrainedTokenizerBase, models: Models, folder: RunFolder
) -> dict[str, Dataset]:
    """Load the comparisons of data.comparisons, encoded by `tokenizer`: {set name: rows}.

    Raise RunError if length limits drop other comparisons than with the main tokenizer, since rewards must be measured
    on the same ones.
    """
    data, found = recipe.data, {}
    loader = RowLoader(data, recipe.chatml, recipe.run.seed, tokenizer)
    limit = Limit("data.max_length", data.max_length)
    main = replace(loader, tokenizer=models.main_tokenizer)
    for name, sources in data.sets("comparisons").items():
        wanted = encoding.pairs, f"comparisons.{name}", limit, sources
        rows, report = loader.load(*wanted)
        if tokenizer is models.main_tokenizer:
            folder.keep_report(name, rows, report)
        elif report.dropped[TOO_LONG] or main.load(*wanted)[1].dropped[TOO_LONG]:
            raise RunError(
                f"data.comparisons.{name}: some are longer than data.max_length={data.max_length:,}, but not the same "
                f"ones with the tokenizers of {models.main_tokenizer.name_or_path} and {tokenizer.name_or_path}; raise "
                "data.max_length"
            )
        found[name] = rows
    return found


def pair_batch(name: str, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Return both sides of every comparison of a set, chosen first. `tokenizer` must have encoded `rows`."""
    sides = [side for row in rows for side in (row["chosen_ids"], row["rejected_ids"])]
    return Batch(name, sides, [last_turn_start(side, tokenizer) for side in sides], [{}] * len(sides))
