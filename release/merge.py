"""`python -m release.merge ADAPTER OUT`: merge an adapter into its base and write a model folder.

Works for policies and reward models; the result loads with `from_pretrained`.
"""

import sys
from dataclasses import replace
from pathlib import Path

from config.sections import Model
from engine.errors import RunError
from engine.files import durable
from engine.models.adapters import is_adapter
from engine.models.loading import load_causal, load_scalar, scalar_config
from engine.models.saving import save_model
from engine.models.system_prompt import default_system_prompt, keep_system_prompt
from engine.models.tokenizer import prepare_tokenizer, published_tokenizer
from engine.run.entry import run


def merge(arguments: list[str]) -> None:
    """Merge an adapter into its base and write the model folder, from the arguments ADAPTER OUT.

    Raises RunError for bad arguments, if ADAPTER is not an adapter folder, or if OUT exists.
    """
    if len(arguments) != 2:
        raise RunError('two folders are needed: make merge ARGS="ADAPTER OUT"')
    adapter, out = arguments
    if not is_adapter(adapter):
        raise RunError(f"{adapter} is not an adapter (no adapter_config.json); a model folder needs no merging")
    if Path(out).exists():
        raise RunError(f"{out} already exists; name a new folder")
    model = Model(path=adapter, dtype="float32")
    tokenizer = published_tokenizer(adapter)
    system = default_system_prompt(tokenizer)
    prepare_tokenizer(tokenizer)
    if system is not None:
        keep_system_prompt(tokenizer, system)
    load = load_causal if scalar_config(adapter, model) is None else load_scalar
    try:
        merged = load(adapter, model, tokenizer, trained=False)
    except RunError:  # packed attention may not support this model; merging does not depend on the attention
        merged = load(adapter, replace(model, attention="eager"), tokenizer, trained=False)
    durable.write_folder(Path(out), lambda folder: save_model(merged, tokenizer, folder))
    print(f"{out}: merged")


if __name__ == "__main__":
    run(merge, sys.argv[1:])
