"""Evaluate any number of subjects side by side.

    answers        every subject's answers to the same prompts, sampled with the same random numbers; their gold parts
                   and their score by every reward; their log-probability under the subject and under the reference
    perplexity     of held-out text under every subject
    comparisons    accuracy and calibration of every reward on held-out comparisons
    system_prompt  whether every subject obeys instructions in system turns, over several turns

One model is in memory at a time, and each is loaded once. Finished items are stored one by one (eval/item_store.py),
so an evaluation that was killed, or has a new subject, computes only what is missing. At the end the figures are
computed from the stored items (eval/summary.py), and these files are written: answers.jsonl, candidates.jsonl (best of
n), pairs.jsonl, texts.jsonl, system_prompt.jsonl and summary.json. Then `eval.require` is checked (eval/gate.py).
"""

import json
import sys
import time
from pathlib import Path

from rich.console import Console

from engine.errors import AlreadyFinishedError
from engine.files import durable, jsonl
from engine.run.folder import RunFolder
from engine.scoring.gold import load_gold
from engine.scoring.obedience import load_obeys
from eval.answers import CANDIDATES
from eval.closing_table import ClosingTable
from eval.gate import check_figures
from eval.measures import Evaluation
from eval.models import files_of
from eval.recipe import Eval
from eval.records import answer_records, candidate_records, candidates, conversation_records, pair_records, text_records
from eval.run_folders import seconds_by_stage
from eval.summary import RESERVED_FIGURE_NAMES, summarise


def evaluate(recipe: Eval) -> None:
    """Run all measures, write the files and print a table. Exit with code 1 if a condition of `eval.require` fails.

    A finished evaluation is not run again; its summary.json is checked against `eval.require`.
    """
    began = time.perf_counter()
    gold = load_gold(recipe.eval.gold, "eval.gold", RESERVED_FIGURE_NAMES) if recipe.eval.gold else None
    obeys = load_obeys(recipe.eval.obeys, "eval.obeys") if recipe.eval.obeys else None
    try:
        folder = RunFolder(recipe, accepts_changes=True, inputs={path: files_of(path) for _, path in recipe.inputs()})
    except AlreadyFinishedError as finished:
        print(finished)
        check_requirements(recipe)
        return
    work = Evaluation(recipe, folder)
    work.measure()

    items, subjects = work.items.items if work.items else [], work.subjects
    evaluated = work.evaluated_subjects()
    reward = recipe.eval.main_reward
    chosen_from = {
        name: candidates(work.found, name, subjects[name], reward, gold, items) for name in subjects if items
    }
    answers = list(answer_records(work.found, chosen_from, items, work.models.main_tokenizer))
    pairs, texts = list(pair_records(work.found, work.pairs)), list(text_records(work.found, list(subjects)))
    conversations = list(conversation_records(work.found, list(subjects), work.scripts, obeys))
    summary = summarise(answers, pairs, texts, evaluated, recipe.run.seed, conversations)
    seconds = round(time.perf_counter() - began, 1)
    summary["seconds"] = seconds_by_stage(recipe) | {"eval": seconds}

    for name, rows in (
        ("answers.jsonl", answers),
        (CANDIDATES, candidate_records(chosen_from, subjects)),
        ("pairs.jsonl", pairs),
        ("texts.jsonl", texts),
        ("system_prompt.jsonl", conversations),
    ):
        jsonl.write(folder.path / name, rows)
    durable.write_json(folder.path / "summary.json", summary)
    Console().print(ClosingTable(summary))
    folder.finish(len(answers) + len(pairs) + len(texts) + len(conversations), seconds, "items")
    check_requirements(recipe)


def check_requirements(recipe: Eval) -> None:
    """Check summary.json against `eval.require`, print every condition and write require.json.

    Exit with code 1 if one fails.
    """
    folder, requirements = Path(recipe.run.dir), recipe.eval.requirements()
    if not requirements:
        return
    verdicts = check_figures(requirements, json.loads((folder / "summary.json").read_text(encoding="utf-8")))
    durable.write_json(folder / "require.json", [verdict.as_dict() for verdict in verdicts])
    for verdict in verdicts:
        print(verdict, file=sys.stdout if verdict.ok else sys.stderr, flush=True)
    if not all(verdict.ok for verdict in verdicts):
        sys.exit(1)
