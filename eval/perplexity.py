"""Perplexity of held-out text: the negative log-likelihood of every document, so that differences can be paired.

Documents are read once and encoded by each subject's tokenizer. Bits per byte compare subjects with different
tokenizers.
"""

from collections.abc import Sequence
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from chatml import control, plain_encoder
from engine.data import plain_text
from engine.data.rows import Limit, RowLoader
from engine.forward.responses import TOKENS_PER_FORWARD, response_logprobs
from engine.run.folder import RunFolder
from eval.item_store import ItemStore, Row, fingerprint
from eval.models import Load, Models
from eval.recipe import Eval

# Number of documents whose losses are computed, and then stored, together.
DOCUMENTS_AT_ONCE = 64


def read_texts(recipe: Eval, models: Models, folder: RunFolder) -> dict[str, list[str]]:
    """Load the documents of data.texts: {set name: documents}."""
    data, found = recipe.data, {}
    loader = RowLoader(data, recipe.chatml, recipe.run.seed, models.main_tokenizer)
    limit = Limit("data.max_length", data.max_length)
    for name, sources in data.sets("texts").items():
        rows = loader.load(plain_text.documents, f"texts.{name}", limit, sources)
        found[name] = list(folder.keep_report(name, *rows)["text"])
    return found


def text_losses(
    store: ItemStore, documents: Sequence[str], load: Load, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[Row]:
    """Return {"nll": in nats, "tokens": number predicted, "bytes": size in UTF-8} of every document under one model.

    A document is read in chunks of at most `max_length` tokens. The first token of a chunk is not predicted.
    """

    def compute(part: slice) -> list[Row]:
        chunks = [split_into_chunks(text, tokenizer, max_length) for text in documents[part]]
        flat = [chunk for each in chunks for chunk in each]
        found = response_logprobs(
            load(),
            [chunk[:1] for chunk in flat],
            [chunk[1:] for chunk in flat],
            1.0,
            TOKENS_PER_FORWARD,
            with_entropy=False,
        )
        counts = [sum(len(chunk) - 1 for chunk in each) for each in chunks]
        losses = [-float(logprobs.sum()) for logprobs in found.logprobs.double().cpu().split(counts)]
        return [
            {"nll": loss, "tokens": count, "bytes": len(text.encode())}
            for loss, count, text in zip(losses, counts, documents[part], strict=True)
        ]

    return store.complete(
        [fingerprint(number, text) for number, text in enumerate(documents)], compute, DOCUMENTS_AT_ONCE
    )


def split_into_chunks(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> list[list[int]]:
    """Encode a document as in pretraining, ending with <|endoftext|>; return chunks of equal length (within one)."""
    ids = control(tokenizer)
    document = [*([] if ids.bos is None else [ids.bos]), *plain_encoder(tokenizer)(text), ids.endoftext]
    count = -(-len(document) // max_length)
    edges = [len(document) * number // count for number in range(count + 1)]
    return [document[start:stop] for start, stop in pairwise(edges)]
