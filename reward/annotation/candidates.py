"""Step 2: answers of several models under several sampling settings, with where each comes from, into candidates.jsonl.

Every answer's random numbers are a function of seed, setting, prompt and number, so a run that was killed goes on where
its file ends and writes what it would have written.
"""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from chatml import control
from engine.data.prompt_rows import PromptRow
from engine.data.rows import Limit, load_prompts
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
from reward.annotation.recipe import WriteCandidates

Place = tuple[str, int, int]
"""model, number of the setting, number of the prompt"""


def write_candidates(recipe: WriteCandidates) -> None:
    """All candidates of all prompts, model by model."""
    began, folder, data = time.perf_counter(), RunFolder(recipe), recipe.data
    tokenizer = shared_tokenizer(recipe.candidates.models)
    prompts, report = load_prompts(
        data.sources("prompts"),
        data=data,
        chatml=recipe.chatml,
        seed=recipe.run.seed,
        tokenizer=tokenizer,
        key="data.prompts",
        limit=Limit("data.max_prompt_tokens", data.max_prompt_tokens),
    )
    rows = list(folder.keep_report("prompts", prompts, report))
    path = folder.path / "candidates.jsonl"
    done = take_up(path, recipe.candidates.responses)
    total = len(rows) * len(recipe.candidates.models) * len(recipe.settings)
    steps = Steps("candidates", total, len(done))
    steps.start()
    try:
        for name, model_path in recipe.candidates.models.items():
            for batch in written(recipe, name, model_path, tokenizer, rows, done):
                jsonl.append(path, batch)
                done |= set(map(place, batch))
                steps.show(len(done))
    finally:
        steps.stop()
    folder.finish(total * recipe.candidates.responses, time.perf_counter() - began, "answers")


def shared_tokenizer(models: dict[str, str]) -> PreTrainedTokenizerBase:
    """The tokenizer of all models; RunError where one reads other tokens than the first."""
    (first, path), *others = models.items()
    tokenizer = load_tokenizer(path)
    for name, other in others:
        if load_tokenizer(other).get_vocab() != tokenizer.get_vocab():
            raise RunError(
                f"candidates.models.{name}={other} reads other tokens than candidates.models.{first}; "
                "let it write candidates in a run of its own, and name both files in data.candidates"
            )
    return tokenizer


def place(line: dict[str, Any]) -> Place:
    return line["model"], line["setting"], line["prompt"]


def take_up(path: Path, responses: int) -> set[Place]:
    """What a file holds all answers of already; those of a prompt that was cut off by a kill are taken out of it."""
    lines = jsonl.read_and_repair(path)
    counts = Counter(map(place, lines))
    kept = [line for line in lines if counts[place(line)] == responses]
    if len(kept) < len(lines):
        jsonl.write(path, kept)
    return set(map(place, kept))


def written(
    recipe: WriteCandidates,
    name: str,
    path: str,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[PromptRow],
    done: set[Place],
) -> Iterator[list[dict[str, Any]]]:
    """The lines of one model that are not there yet, some prompts at a time; the model is loaded if there are any."""
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
