"""Prepare a base model for ChatML: embedding rows for the control tokens, and the tokens that end generation."""

import copy
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatml import END_OF_TEXT, control


def embedding_table(model: PreTrainedModel) -> torch.Tensor:
    """Return the table of input embeddings, (rows, hidden_size)."""
    return cast(torch.Tensor, model.get_input_embeddings().weight)


def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Extend the embedding table and output head, tied or not, to a row for every token of `tokenizer`.

    New rows and biases are initialised with the mean of the existing ones. A table that is large enough already (Qwen's
    are padded for speed) keeps its size.
    """
    rows = len(embedding_table(model))
    if len(tokenizer) <= rows:
        return
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    modules = [m for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m]
    found = [m.weight for m in modules] + [m.bias for m in modules if getattr(m, "bias", None) is not None]
    tables: dict[int, Any] = {id(table): table for table in found}
    with torch.no_grad():
        for table in tables.values():
            table[rows:] = table[:rows].mean(0)


def knows_chatml_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether <|im_start|> and <|im_end|> have different embedding rows, as after training.

    The two rows are equal if the tokens were just added, and if both are still zero.
    """
    ids, table = control(tokenizer), embedding_table(model)
    return not torch.equal(table[ids.im_start], table[ids.im_end])


def stop_at_end_of_turn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make `generate` stop at <|im_end|> and <|endoftext|>, and programs that read config.json at <|im_end|>."""
    ids = control(tokenizer)
    model.config.get_text_config().eos_token_id = ids.im_end
    model.generation_config.eos_token_id = [ids.im_end, ids.endoftext]
    model.generation_config.pad_token_id = tokenizer.pad_token_id


def same_vocabulary(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Return whether both tokenizers give every token the same id, the ChatML tokens included.

    Two models can exchange token ids only if they do; equal sizes are not enough.
    """
    return one.get_vocab() == other.get_vocab() and control(one) == control(other)


def set_padding_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Set a reward model's padding token, and return the tokenizer to save with it.

    transformers' pooling reads the score at the last token that is not padding. If <|im_end|> is the padding token, as
    in SmolLM2, it would read one token too early, so <|endoftext|> becomes the padding token. Our forward ignores
    padding.
    """
    if tokenizer.pad_token_id == model.config.score_token_id:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.pad_token = END_OF_TEXT
    model.config.get_text_config().pad_token_id = model.config.pad_token_id = tokenizer.pad_token_id
    return tokenizer
