"""Answers of subjects: generate them, request them from an endpoint, compute their log-probabilities, read them back.

The item store has one row per item, {"answers": [{"text", "tokens", "ended", "ids"}, ...]}: n answers for best of n,
one for other subjects. `ids` are the generated tokens and `tokens` their number; both are null for an endpoint's
answers. `ended` is false for an answer that was cut off.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from transformers import PreTrainedTokenizerBase

from chatml import control
from config.sections import Sampling
from engine.errors import RunError
from engine.files import jsonl
from engine.forward.responses import TOKENS_PER_FORWARD, response_logprobs
from engine.generation.endpoint import ChatEndpoint, EndpointError, Reply, api_key_from_environment
from engine.generation.request import GenerationRequest, Response
from engine.generation.sampling import sample
from eval.item_store import ItemStore, Row, fingerprint, progress
from eval.items import Items
from eval.models import Load
from eval.subjects import Endpoint

CANDIDATES = "candidates.jsonl"
# Number of answers whose log-probabilities are computed, and then stored, together.
LOGPROBS_AT_ONCE = 256


def generate(
    store: ItemStore,
    keys: Sequence[str],
    request: GenerationRequest,
    load: Load,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
) -> list[Row]:
    """Generate the responses of `request` that are not in the store yet; return one row per prompt.

    `keys` are the prompts' keys in the store. `load` is called only if something is missing.
    """
    ids = control(tokenizer)
    end, stops = ids.im_end, [ids.im_end, ids.endoftext]
    at_once = max(1, sampling.batch_size // request.responses)

    def compute(part: slice) -> list[Row]:
        some = replace(request, prompts=request.prompts[part], query_ids=request.query_ids[part])
        groups = sample(load(), some, sampling, end=end, stops=stops)
        return [{"answers": [as_answer(response, tokenizer, stops) for response in group]} for group in groups]

    return store.complete(keys, compute, at_once)


def as_answer(response: Response, tokenizer: PreTrainedTokenizerBase, stops: Sequence[int]) -> Row:
    """Return a response as a stored answer. Its text leaves out the stop token; `tokens` and `ids` include it."""
    ids = list(response.tokens)
    text = tokenizer.decode(ids[:-1] if ids[-1] in stops else ids, skip_special_tokens=False)
    return {"text": text, "tokens": len(ids), "ended": response.ended, "ids": ids}


def ask_endpoint(
    store: ItemStore,
    keys: Sequence[str],
    chats: Sequence[Sequence[Mapping[str, str]]],
    name: str,
    endpoint: Endpoint,
    sampling: Sampling,
    seed: int,
) -> list[Row]:
    """Return an endpoint's answer to every chat, one row per chat, each stored as soon as it arrives.

    `keys` are the chats' keys in the store, `name` is the subject's name. Raise RunError if a request still fails after
    its retries; answers received so far are kept.
    """
    key = f"eval.subjects.{name}"
    chat = ChatEndpoint(
        endpoint.url,
        endpoint.model,
        api_key_from_environment(endpoint.key_from, f"{key}.key_from"),
        endpoint.timeout,
        endpoint.retries,
    )
    options = {"temperature": sampling.temperature, "top_p": sampling.top_p, "max_tokens": sampling.max_new_tokens}
    missing, writing = store.missing(keys), Lock()

    def answer(place: int) -> None:
        reply = chat.ask(chats[place], lambda reply: reply, **options, seed=seed)
        with writing:
            store.append([{"of": keys[place], "answers": [as_text_answer(reply)]}])
            advance(1)

    if missing:
        with progress(store.name, len(missing)) as advance:
            pool = ThreadPoolExecutor(endpoint.parallel)
            try:
                list(pool.map(answer, missing))
            except EndpointError as error:
                raise RunError(
                    f"{key}.url={endpoint.url}: {error}; check the endpoint and run the same command again: answers "
                    "received so far are kept"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)
    return store.rows(keys)


def as_text_answer(reply: Reply) -> Row:
    return {"text": reply.text, "tokens": None, "ended": not reply.cut_off, "ids": None}


def logprobs(
    store: ItemStore,
    items: Items,
    answers: Sequence[Row],
    load: Load,
    tokenizer: PreTrainedTokenizerBase,
    temperature: float,
) -> list[float]:
    """Return log π(y | x) in nats of each item's first answer, at `temperature`, without top-p.

    x are the prompt tokens and y the generated tokens, both by `tokenizer`, which must have generated the answers.
    """
    prompts, ids = items.prompts(tokenizer), [row["answers"][0]["ids"] for row in answers]

    def compute(part: slice) -> list[Row]:
        flat = response_logprobs(
            load(), prompts[part], ids[part], temperature, TOKENS_PER_FORWARD, with_entropy=False
        ).logprobs
        parts = flat.double().cpu().split([len(tokens) for tokens in ids[part]])
        return [{"logprob": float(each.sum())} for each in parts]

    keys = [fingerprint(prompt, answer) for prompt, answer in zip(prompts, ids, strict=True)]
    return [row["logprob"] for row in store.complete(keys, compute, LOGPROBS_AT_ONCE)]


def best_of_candidates(run_dir: str | Path, name: str) -> list[list[Row]]:
    """Read the n candidates per item of a best-of-n subject from the candidates.jsonl in `run_dir`.

    A candidate is {"text", "tokens", "ended", "scores": {REWARD: score or null}, "chosen": true for one of them, and
    with a gold scorer "gold": its parts}. The reward that picked them is in the recipe.
    """
    return [row["candidates"] for row in jsonl.read(Path(run_dir) / CANDIDATES) if row["subject"] == name]


def answer_settings(sampling: Sampling) -> Any:
    """Return the settings that determine answers: the section `sampling`, with its batch size set to 1."""
    return vars(replace(sampling, batch_size=1))
