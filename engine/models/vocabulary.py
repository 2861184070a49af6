"""A base model made ready for ChatML: embedding rows for the control tokens, and the tokens that end generation."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatml import control


def fit_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model an embedding row for every token, tied or not; new rows start as the mean of the old ones.

    A table that is large enough already (padded for speed, as Qwen's) keeps its size.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) <= rows:
        return
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = {id(m.weight): m.weight for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m}
    with torch.no_grad():
        for table in tables.values():
            table[rows:] = table[:rows].mean(0)


def knows_turns(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether <|im_start|> and <|im_end|> have embedding rows of their own.

    They are equal where the tokens were just added, and where both are still zero.
    """
    ids, table = control(tokenizer), model.get_input_embeddings().weight
    return not torch.equal(table[ids.im_start], table[ids.im_end])


def stop_at_end_of_turn(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make plain `generate` stop at <|im_end|> and <|endoftext|>, and what reads config.json at <|im_end|>."""
    ids = control(tokenizer)
    model.config.get_text_config().eos_token_id = ids.im_end
    model.generation_config.eos_token_id = [ids.im_end, ids.endoftext]
    model.generation_config.pad_token_id = tokenizer.pad_token_id


def same_vocabulary(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Return whether both tokenizers give every token the same id, the ChatML tokens included.

    Two models may exchange token ids only then; equal sizes are not enough.
    """
    return one.get_vocab() == other.get_vocab() and control(one) == control(other)
