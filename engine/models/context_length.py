"""Check before the first step that a model can read the longest sequence of a run."""

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig

from engine.dist.ranks import is_main_process
from engine.errors import RunError


def check_length(model_config: PretrainedConfig, longest: int, what: str, way_out: str) -> None:
    """Compare the length of a run's longest sequence with the positions that a model has.

    Prints a warning for rotary positions beyond `max_position_embeddings`, which the model can still compute.

    Args:
        model_config: the model's configuration; of a multimodal one the text part is used.
        longest: length of the longest sequence in tokens.
        what: the subject of the message, such as "the longest row of data.train".
        way_out: what to change; "{limit}" in it is replaced by the number of tokens that the model can read.

    Raises RunError if the model has no positions for the sequence (learned or tabulated positions), or if its rotary
    positions would depend on the other sequences in the batch (rope types dynamic and longrope).
    """
    config = model_config.get_text_config()
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or getattr(config, "alibi", False):
        return
    ropes = list(_ropes(getattr(config, "rope_parameters", None)))
    for rope in ropes:
        kind = rope.get("rope_type")
        bound = (rope.get("original_max_position_embeddings") or limit) if kind == "longrope" else limit
        if kind in ("dynamic", "longrope") and longest > bound:
            raise RunError(
                f"{what} has {longest:,} tokens, and beyond {bound:,} the model's positions (rope_type {kind}) depend "
                f"on the longest sequence in the batch; {way_out.format(limit=bound)}"
            )
    if longest <= limit:
        return
    way_out = way_out.format(limit=limit)
    if not ropes:
        raise RunError(f"{what} has {longest:,} tokens, and the model has positions for {limit:,}; {way_out}")
    if is_main_process():
        print(
            f"warning: {what} has {longest:,} tokens, and the model was made for {limit:,} "
            f"(max_position_embeddings); {way_out}, unless you mean to train it on longer text",
            flush=True,
        )


def _ropes(parameters: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the parameters of each kind of rotary position in a model: one in all, or one per layer type."""
    if not isinstance(parameters, Mapping):
        return
    if "rope_type" in parameters or "rope_theta" in parameters:
        yield parameters
    else:
        for part in parameters.values():
            yield from _ropes(part)
