"""Load an evaluation's models and tokenizers, and identify models by the state of their files."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chatml import control
from config.sections import Compute
from engine.dist.devices import default_device
from engine.errors import RunError
from engine.models.adapters import base_of, is_adapter
from engine.models.loading import load_causal, load_config, load_scalar
from engine.models.tokenizer import load_tokenizer
from eval.subjects import LocalModel

Load = Callable[[], PreTrainedModel]
"""returns a model and loads it on the first call, so a model whose results are all stored is never loaded"""


class Models:
    """Loads a recipe's models with the settings in `compute`. Subjects with equal vocabularies share one tokenizer."""

    def __init__(self, compute: Compute, main: LocalModel) -> None:
        self.compute, self.device = compute, default_device()
        self._by_path: dict[tuple[str, str | None], PreTrainedTokenizerBase] = {}
        self._by_vocabulary: dict[str, PreTrainedTokenizerBase] = {}
        self.main_tokenizer = self.tokenizer_of(main)
        """the tokenizer that prompts and comparisons are read with"""

    def tokenizer_at(self, path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
        """Return the tokenizer of a model, prepared for ChatML. Equal vocabularies give the same object."""
        if (path, revision) not in self._by_path:
            own = path if not is_adapter(path) or (Path(path) / "tokenizer_config.json").exists() else base_of(path)
            loaded = load_tokenizer(own, revision)
            self._by_path[path, revision] = self._by_vocabulary.setdefault(vocabulary(loaded), loaded)
        return self._by_path[path, revision]

    def tokenizer_of(self, subject: LocalModel) -> PreTrainedTokenizerBase:
        return self.tokenizer_at(subject.path, subject.revision)

    def causal(self, subject: LocalModel) -> PreTrainedModel:
        """Load a subject's causal language model, frozen."""
        model = replace(self.compute.model(subject.path), revision=subject.revision)
        return load_causal(subject.path, model, self.tokenizer_of(subject), trained=False, device=self.device)

    def scalar(self, path: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
        """Load a reward model, frozen. Raise RunError if it does not read its score at `tokenizer`'s <|im_end|>."""
        model = load_scalar(path, self.compute.model(path), tokenizer, trained=False, device=self.device)
        if model.config.score_token_id != control(tokenizer).im_end:
            raise RunError(
                f"{path} does not read its score at the <|im_end|> of {tokenizer.name_or_path}; "
                "both must come from the same base"
            )
        return model

    def context(self, path: str, revision: str | None = None) -> int | None:
        """Return a model's context in tokens; None if its configuration has no max_position_embeddings."""
        model = replace(self.compute.model(path), revision=revision)
        return getattr(load_config(base_of(path), model).get_text_config(), "max_position_embeddings", None)

    def identity(self, path: str, revision: str | None = None) -> list[Any]:
        """Return what determines a model's results besides its input: path, revision, files and compute settings."""
        return [path, revision, files_of(path), files_of(base_of(path)), asdict(self.compute)]


def files_of(path: str) -> str:
    """Return a hash of names, sizes and modification times of a file or of a folder's files; "" for a hub id."""
    place = Path(path)
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16] if facts else ""


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash that is equal for tokenizers that encode every conversation to the same tokens."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    splitting = {name: backend[name] for name in ("model", "normalizer", "pre_tokenizer")}
    ids = control(tokenizer)
    known = [sorted(tokenizer.get_vocab().items()), ids.bos, ids.im_start, ids.im_end, sorted(ids.markers.items())]
    return hashlib.sha256(json.dumps([splitting, known], default=str).encode()).hexdigest()
