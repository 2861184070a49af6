"""Inputs shared by the benchmarks: real data sets and a base model that is created locally, without a download.

The model is a Qwen2 of four layers with random weights. The ratio of its vocabulary to its hidden size is that of a 7B
model, so the output projection takes a similar share of the time.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from chatml import END_OF_TEXT, IM_END, IM_START, TEMPLATE
from config import RecipeError

VOCABULARY_SIZE, HIDDEN_SIZE, NUM_LAYERS, NUM_HEADS = 8192, 256, 4, 4
# Qwen's pre-tokenisation; each digit is a token of its own.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def real_file(data: Path, name: str) -> Path:
    """Return the path of the file `name` in the data folder. Raises RecipeError if it does not exist."""
    if not (data / name).exists():
        raise RecipeError(f"{data / name}: no such file; the benchmark needs real data: pass its folder with --data")
    return data / name


def base_model(data: Path, folder: Path) -> Path:
    """Return the folder of the base model and its tokenizer; the first call creates it."""
    base = folder / "base"
    if not base.exists():
        from engine.files import durable

        alpaca = json.loads(real_file(data, "alpaca_en.json").read_text(encoding="utf-8"))
        wikitext = real_file(data, "wikitext2_valid.txt").read_text()
        durable.write_folder(base, lambda partial: _write_base_model(partial, [*_alpaca_texts(alpaca), wikitext]))
    return base


def _alpaca_texts(records: list[dict[str, str]]) -> list[str]:
    return [text for record in records for text in record.values()]


def _write_base_model(folder: Path, texts: list[str]) -> None:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    control = [AddedToken(name, special=True, normalized=False) for name in (END_OF_TEXT, IM_START, IM_END)]
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(control),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.add_special_tokens(control)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, chat_template=TEMPLATE
    )
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=3 * HIDDEN_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
