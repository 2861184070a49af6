"""Perplexity of held-out text: negative log-likelihood of every document, so that subjects are compared pairwise.

Documents are read once and encoded by each subject's tokenizer; bits per byte make different tokenizers comparable.
"""

from collections.abc import Sequence
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from chatml import control, plain_encoder
from engine.data import encoding
from engine.data.rows import Limit, load_rows
from engine.forward.responses import TOKENS_A_FORWARD, response_logprobs
from engine.run.folder import RunFolder
from eval.item_store import ItemStore, Row, fingerprint
from eval.models import Load, Models
from eval.recipe import Eval

# Documents whose losses are computed and kept together.
AT_ONCE = 64


def read_texts(recipe: Eval, models: Models, folder: RunFolder) -> dict[str, list[str]]:
    """SET -> the documents that data.texts names."""
    data, found = recipe.data, {}
    for name, named in data.sets("texts").items():
        rows = load_rows(
            encoding.documents,
            named,
            data=data,
            chatml=recipe.chatml,
            seed=recipe.run.seed,
            tokenizer=models.main_tokenizer,
            key=f"data.texts.{name}",
            limit=Limit("data.max_length", data.max_length),
        )
        found[name] = list(folder.keep_report(name, *rows)["text"])
    return found


def text_losses(
    store: ItemStore,
    documents: Sequence[str],
    load: Load,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
) -> list[Row]:
    """{"nll": nats, "tokens": predicted, "bytes": of the text} of every document under one model.

    A document is read in pieces of at most `max_length` tokens; the first token of a piece is not predicted.
    """

    def compute(part: slice) -> list[Row]:
        pieces = [pieces_of(text, tokenizer, max_length) for text in documents[part]]
        flat = [piece for each in pieces for piece in each]
        found = response_logprobs(
            load(),
            [piece[:1] for piece in flat],
            [piece[1:] for piece in flat],
            1.0,
            TOKENS_A_FORWARD,
            with_entropy=False,
        )
        counts = [sum(len(piece) - 1 for piece in each) for each in pieces]
        losses = [-float(logprobs.sum()) for logprobs in found.logprobs.double().cpu().split(counts)]
        return [
            {"nll": loss, "tokens": count, "bytes": len(text.encode())}
            for loss, count, text in zip(losses, counts, documents[part], strict=True)
        ]

    return store.complete([fingerprint(number, text) for number, text in enumerate(documents)], compute, AT_ONCE)


def pieces_of(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    """A document with its <|endoftext|> as token ids, in pieces of equal length (up to one), as pretraining has it."""
    ids = control(tokenizer)
    document = [*([] if ids.bos is None else [ids.bos]), *plain_encoder(tokenizer)(text), ids.endoftext]
    count = -(-len(document) // max_length)
    edges = [len(document) * number // count for number in range(count + 1)]
    return [document[start:stop] for start, stop in pairwise(edges)]
