"""Step 3: make comparisons from scored candidates (report, 3.2.1: annotators score answers, pairs follow from scores).

Unfinished and duplicate responses are dropped. Two responses to a prompt form a comparison if their scores differ by at
least `pairs.min_margin` and are not equal; `pairs.per_prompt` of them are kept, drawn at random with the seed. All
comparisons of a prompt go to train.jsonl, or all to test.jsonl.
"""

import json
import math
import random
import time
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import xxhash

from chatml import RecordError, encode
from engine.data.sources import read_source
from engine.dist.devices import default_device
from engine.errors import RunError
from engine.files import durable, jsonl
from engine.models.tokenizer import load_tokenizer
from engine.run.folder import RunFolder
from engine.scoring.scorer import score_sequences
from reward.annotation.recipe import MakePairs, Pairing

Candidate = dict[str, Any]


def make_pairs(recipe: MakePairs) -> None:
    """Read and score the candidates, compare those of each prompt, and write train.jsonl, test.jsonl and pairs.json.

    Raises RunError for a bad record (unless data.on_bad_record skips it), or if no candidate or training pair is left.
    """
    began, folder = time.perf_counter(), RunFolder(recipe)
    counts: Counter[str] = Counter()
    candidates = read_candidates(recipe, counts)
    if not candidates:
        raise RunError("data.candidates has no finished responses; check the file that make candidates wrote")
    for candidate, score in zip(candidates, candidate_scores(recipe, candidates, folder), strict=True):
        candidate["score"] = score
    by_prompt: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        by_prompt.setdefault(json.dumps(candidate["messages"], sort_keys=True), []).append(candidate)
    parts: dict[str, list[dict[str, Any]]] = {"train": [], "test": []}
    for name, group in by_prompt.items():
        made = prompt_comparisons(group, name, recipe.pairs, recipe.run.seed, counts)
        parts["test" if is_test(name, recipe.pairs.test_share) else "train"] += made
        counts["prompts without a pair"] += not made
    if not parts["train"] and parts["test"]:
        raise RunError(
            f"all comparisons are in the test part; lower pairs.test_share={recipe.pairs.test_share}, or add prompts"
        )
    if not parts["train"]:
        raise RunError(f"no comparisons: each prompt's scores are within pairs.min_margin={recipe.pairs.min_margin}")
    for part, rows in parts.items():
        jsonl.write(folder.path / f"{part}.jsonl", rows)
        counts[f"{part} pairs"] = len(rows)
    report = {"prompts": len(by_prompt), "candidates": len(candidates), **counts}
    durable.write_json(folder.path / "pairs.json", report)
    print(", ".join(f"{name} {count:,}" for name, count in report.items()))
    folder.finish(sum(map(len, parts.values())), time.perf_counter() - began, "pairs")


def read_candidates(recipe: MakePairs, counts: Counter[str]) -> list[Candidate]:
    """Return the finished candidates without duplicates; dropped ones are counted in `counts`."""
    found: list[Candidate] = []
    seen: set[tuple[str, str]] = set()
    for source in recipe.data.sources("candidates"):
        for where, line in read_source(source):
            problem = line if isinstance(line, RecordError) else candidate_problem(line, recipe.pairs.score_field)
            if isinstance(line, RecordError) or problem is not None:
                if recipe.data.on_bad_record == "error":
                    raise RunError(f"{where}: {problem}")
                counts["bad records"] += 1
                continue
            name = json.dumps(line["messages"], sort_keys=True), line["answer"]
            if not line.get("ended", True):
                counts["unfinished answers"] += 1
            elif name in seen:
                counts["repeated answers"] += 1
            else:
                seen.add(name)
                found.append(line)
    return found


def candidate_problem(line: Candidate, score_field: str | None) -> str | None:
    """Return the error message for a bad candidate, None for a good one."""
    if not isinstance(line.get("messages"), list) or not isinstance(line.get("answer"), str):
        return "a candidate needs 'messages', a list, and 'answer', a text"
    if score_field is None:
        return None
    score = line.get(score_field)
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
        return f"{score_field!r} is {score!r}; a score is a number"
    return None


def candidate_scores(recipe: MakePairs, candidates: Sequence[Candidate], folder: RunFolder) -> list[float]:
    """Return one score per candidate, from `pairs.score_field` or from the recipe's scorer."""
    if recipe.pairs.score_field is not None:
        return [float(candidate[recipe.pairs.score_field]) for candidate in candidates]
    scoring = recipe.pairs.scoring("pairs")
    assert scoring is not None  # `Pairing.check`: one of score_field and score
    tokenizer = load_tokenizer(recipe.tokenizer or scoring.paths[0])
    sequences = []
    for candidate in candidates:
        conversation = [*candidate["messages"], {"role": "assistant", "content": candidate["answer"]}]
        tools = candidate.get("record", {}).get("tools")
        try:
            encoded = encode(
                conversation,
                tokenizer,
                tools=tools,
                tool_format=recipe.chatml.tools,
                parse_text=recipe.chatml.parse_text,
                up_to_end=True,
            )
        except RecordError as error:
            raise RunError(f"{error}, in the response {candidate['answer'][:80]!r}") from None
        sequences.append(encoded.input_ids)
    records = [candidate.get("record", {}) for candidate in candidates]
    device = default_device()
    model_of = recipe.model.model
    return score_sequences(scoring, "pairs.score", sequences, records, model_of, tokenizer, folder.path, device)


def prompt_comparisons(
    group: Sequence[Candidate], prompt: str, pairing: Pairing, seed: int, counts: Counter[str]
) -> list[dict[str, Any]]:
    """Return at most `per_prompt` comparisons of one prompt's candidates; dropped pairs are counted in `counts`."""
    apart = []
    for one, other in combinations(group, 2):
        better, worse = (one, other) if one["score"] > other["score"] else (other, one)
        margin = better["score"] - worse["score"]
        if margin == 0:
            counts["ties"] += 1
        elif margin < pairing.min_margin:
            counts["below the margin"] += 1
        else:
            apart.append((better, worse, margin))
    random.Random(f"{seed}/{prompt}").shuffle(apart)
    counts["beyond per_prompt"] += max(0, len(apart) - pairing.per_prompt)
    return [comparison(*pair) for pair in apart[: pairing.per_prompt]]


def comparison(better: Candidate, worse: Candidate, margin: float) -> dict[str, Any]:
    """Return a line of train.jsonl or test.jsonl, with tools, tags, task and gold of the prompt's record, if any."""
    record = better.get("record", {})
    kept = {name: record[name] for name in ("tools", "tags", "task", "gold") if name in record}
    origin = ("model", "setting", "number", "score")
    return {
        "prompt": better["messages"],
        "chosen": better["answer"],
        "rejected": worse["answer"],
        "margin": margin,
        **kept,
        "from": [{name: side[name] for name in origin if name in side} for side in (better, worse)],
    }


def is_test(prompt: str, share: float) -> bool:
    """Return whether a prompt's comparisons go to test.jsonl; this depends on its text only, not on its position."""
    return xxhash.xxh3_64_intdigest(prompt.encode()) < share * 2**64
