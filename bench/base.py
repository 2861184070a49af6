"""What the parts share: real data, and a base model made on the spot, so that nothing has to be downloaded.

The model is a Qwen2 of four layers and random weights. Its vocabulary has the proportion to its width that a 7B's has,
so that projecting onto it takes a like share of the time.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from chatml import END_OF_TEXT, IM_END, IM_START, TEMPLATE
from config import RecipeError

VOCABULARY, WIDTH, LAYERS, HEADS = 8192, 256, 4, 4
# Qwen's splitting: every digit a piece of its own.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def real(data: Path, name: str) -> Path:
    """A file of the real data. Raises RecipeError where it is not there."""
    if not (data / name).exists():
        raise RecipeError(
            f"{data / name}: no such file; the benchmark measures on real data: name its folder with --data"
        )
    return data / name


def made_base(data: Path, folder: Path) -> Path:
    """The folder of the base model and its tokenizer, made at the first call."""
    base = folder / "base"
    if not base.exists():
        from engine.files import durable

        texts = real(data, "alpaca_en.json").read_text(encoding="utf-8"), real(data, "wikitext2_valid.txt").read_text()
        durable.write_folder(base, lambda partial: _write(partial, [*_said(json.loads(texts[0])), texts[1]]))
    return base


def _said(records: list[dict[str, str]]) -> list[str]:
    return [text for record in records for text in record.values()]


def _write(folder: Path, texts: list[str]) -> None:
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
        vocab_size=VOCABULARY - len(control),
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
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
