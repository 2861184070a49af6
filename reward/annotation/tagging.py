"""The tags of a prompt: from fields of its record, or from a model that is asked for them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from chatml import RecordError, control, encode
from engine.dist.devices import default_device
from engine.generation.request import GenerationRequest
from engine.generation.sampling import sample
from engine.generation.streams import RandomStream
from engine.models.loading import load_causal
from engine.models.tokenizer import load_tokenizer
from reward.annotation.recipe import CONVERSATION, SelectPrompts
from reward.annotation.selection import Tags


def of_fields(record: Mapping[str, Any], fields: Sequence[str]) -> Tags:
    """Tags that stand in a record; a field that is not there or null holds none. Raises RecordError."""
    return frozenset(tag for name in fields for tag in _in_field(record, name))


def _in_field(record: Mapping[str, Any], name: str) -> list[str]:
    value: Any = record
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    given = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(tag, str) for tag in given):
        raise RecordError(f"{name!r} is {value!r}; tags are a text or a list of texts")
    return given


def of_reply(reply: str) -> Tags:
    """Tags that a tagger named, separated by commas or lines, its bullets, numbers and quotes taken off."""
    parts = (re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", part).strip(" \t.\"'`") for part in re.split(r"[,\n;]", reply))
    return frozenset(" ".join(part.lower().split()) for part in parts if part)


def of_tagger(recipe: SelectPrompts, conversations: Sequence[Sequence[Mapping[str, Any]]]) -> list[Tags]:
    """What the recipe's tagger names for each conversation; one that is not finished loses its last, half-said tag."""
    path, sampling = recipe.select.tagger, recipe.sampling
    device = default_device()
    tokenizer = load_tokenizer(path)
    model = load_causal(path, recipe.model.model(path), tokenizer, trained=False, device=device)
    end, stops = control(tokenizer).im_end, model.generation_config.eos_token_id
    questions = [recipe.select.question.replace(CONVERSATION, as_text(each)) for each in conversations]
    prompts = [
        encode([{"role": "user", "content": question}], tokenizer, add_generation_prompt=True).input_ids
        for question in questions
    ]
    request = GenerationRequest(
        prompts=prompts,
        query_ids=range(len(prompts)),
        responses=1,
        stream=RandomStream.named(recipe.run.seed, "tags"),
    )
    replies = sample(model, request, sampling, end=end, stops=stops)
    tags = []
    for (reply,) in replies:
        said = tokenizer.decode([token for token in reply.tokens if token not in stops])
        if not reply.ended:
            said = said[: max(said.rfind(","), said.rfind("\n"), 0)]
        tags.append(of_reply(said))
    return tags


def as_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """A conversation as a tagger reads it."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
