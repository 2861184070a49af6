"""Step 2: generate responses with several models and sampling settings; writes candidates.jsonl, with their origin.

The random numbers of a response depend on (seed, setting, prompt, number) only, so a run that was killed resumes at the
end of its file and generates the same responses.
"""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from chatml import control
from engine.data.prompt_rows import PromptRow
from engine.data.rows import Limit, RowLoader
from engine.dist.devices import default_device
from engine.errors import RunError
from engine.files import jsonl
from engine.generation.request import GenerationRequest
from engine.generation.sampling import sample
from engine.generation.streams import RandomStream
from engine.models.loading import load_causal
from engine.models.tokenizer import load_tokenizer
from engine.run.console import Steps
from engine.run.folder import RunFolder
from reward.annotation.recipe import GenerateCandidates

GroupKey = tuple[str, int, int]
"""model, index of the setting, index of the prompt: identifies a group of `candidates.responses` responses"""


def generate_candidates(recipe: GenerateCandidates) -> None:
    """Generate the candidates of all prompts, model by model; resumes where candidates.jsonl ends.

    Raises RunError if the models' tokenizers have different vocabularies.
    """
    began, folder, data = time.perf_counter(), RunFolder(recipe), recipe.data
    tokenizer = shared_tokenizer(recipe.candidates.models)
    loader = RowLoader(data, recipe.chatml, recipe.run.seed, tokenizer)
    found = loader.load_prompts("prompts", Limit("data.max_prompt_tokens", data.max_prompt_tokens))
    rows = list(folder.keep_report("prompts", *found))
    path = folder.path / "candidates.jsonl"
    done = read_complete_groups(path, recipe.candidates.responses)
    total = len(rows) * len(recipe.candidates.models) * len(recipe.settings)
    steps = Steps("candidates", total, len(done))
    steps.start()
    try:
        for name, model_path in recipe.candidates.models.items():
            for batch in missing_candidates(recipe, name, model_path, tokenizer, rows, done):
                jsonl.append(path, batch)
                done |= set(map(group_key, batch))
                steps.show(len(done))
    finally:
        steps.stop()
    folder.finish(total * recipe.candidates.responses, time.perf_counter() - began, "answers")


def shared_tokenizer(models: dict[str, str]) -> PreTrainedTokenizerBase:
    """Load the tokenizer of the first model. Raises RunError if another model's vocabulary differs from it."""
    (first, path), *others = models.items()
    tokenizer = load_tokenizer(path)
    for name, other in others:
        if load_tokenizer(other).get_vocab() != tokenizer.get_vocab():
            raise RunError(
                f"candidates.models.{name}={other} has a different vocabulary than candidates.models.{first}; "
                "generate its candidates in a separate run, and list both files in data.candidates"
            )
    return tokenizer


def group_key(line: dict[str, Any]) -> GroupKey:
    return line["model"], line["setting"], line["prompt"]


def read_complete_groups(path: Path, responses: int) -> set[GroupKey]:
    """Return the groups that have all their responses in the file; those of incomplete groups are removed from it."""
    lines = jsonl.read_and_repair(path)
    counts = Counter(map(group_key, lines))
    kept = [line for line in lines if counts[group_key(line)] == responses]
    if len(kept) < len(lines):
        jsonl.write(path, kept)
    return set(map(group_key, kept))


def missing_candidates(
    recipe: GenerateCandidates,
    name: str,
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[PromptRow],
    done: set[GroupKey],
) -> Iterator[list[dict[str, Any]]]:
    """Yield the missing lines of one model, a batch of prompts at a time; loads the model only if any are missing."""
    model, per_prompt = None, recipe.candidates.responses
    for number, sampling in enumerate(recipe.settings):
        left = [at for at in range(len(rows)) if (name, number, at) not in done]
        size = max(1, sampling.batch_size // per_prompt)
        for start in range(0, len(left), size):
            if model is None:
                device = default_device()
                model = load_causal(path, recipe.model.model(path), tokenizer, trained=False, device=device)
                stops = model.generation_config.eos_token_id
            asked = left[start : start + size]
            request = GenerationRequest(
                prompts=[rows[at].input_ids for at in asked],
                query_ids=asked,
                responses=per_prompt,
                stream=RandomStream.named(recipe.run.seed, "candidates", number),
            )
            answers = sample(model, request, sampling, end=control(tokenizer).im_end, stops=stops)
            yield [
                {
                    "prompt": at,
                    "messages": rows[at].messages,
                    "answer": tokenizer.decode([token for token in answer.tokens if token not in stops]),
                    "ended": answer.ended,
                    "tokens": len(answer.tokens),
                    "model": name,
                    "path": path,
                    "setting": number,
                    "temperature": sampling.temperature,
                    "top_p": sampling.top_p,
                    "number": k,
                    "seed": recipe.run.seed,
                    "record": rows[at].record,
                }
                for at, group in zip(asked, answers, strict=True)
                for k, answer in enumerate(group)
            ]
