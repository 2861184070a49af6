"""Several roles on one base in memory: each is the base with a LoRA adapter of its own, some with a scalar head.

Call a role like a model: it computes what the merged model would, up to rounding. Its parameters are those of its
adapter alone, so its optimiser, wrapper and checkpoint contain nothing of the base. The layers read from `Roles` which
role is active, in the role's forward pass and again when its activations are recomputed in the backward pass.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from engine.errors import RunError
from engine.models.adapter_files import SCORE, Adapter

T = TypeVar("T")


class Roles:
    """The active role; all layers of a base share one object."""

    active: str | None = None

    def pick(self, of_roles: Mapping[str, T]) -> T | None:
        """Return what the active role has in a mapping by role; None without an active role."""
        return None if self.active is None else of_roles.get(self.active)

    @contextmanager
    def activate(self, name: str | None) -> Iterator[None]:
        """Make `name` the active role inside the block."""
        before, self.active = self.active, name
        try:
            yield
        finally:
            self.active = before


@dataclass(frozen=True)
class LowRank:
    """The two LoRA matrices of a role in one linear layer."""

    down: torch.Tensor
    """(rank, in)"""
    up: torch.Tensor
    """(out, rank)"""
    scale: float


class RoleLinear(torch.nn.Module):
    """A linear layer, in 4 bits or not, with a low-rank term for each role: y = W x + scale · up down x."""

    def __init__(self, base: torch.nn.Linear, roles: Roles):
        super().__init__()
        self.base, self.roles = base, roles
        self.added: dict[str, LowRank] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, added = self.base(x), self.roles.pick(self.added)
        if added is None:
            return y
        more = F.linear(F.linear(x.to(added.down.dtype), added.down), added.up)
        return y + (more * added.scale).to(y.dtype)


class RoleTable(torch.nn.Module):
    """An embedding table or an output head in which each role replaces some rows with its own."""

    def __init__(self, base: torch.nn.Embedding | torch.nn.Linear, roles: Roles):
        super().__init__()
        self.base, self.roles = base, roles
        self.rows: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        """role -> (ids, values): (n,) and (n, hidden)"""

    @property
    def weight(self) -> torch.Tensor:
        """Return the active role's table, (vocabulary, hidden)."""
        plain, rows = self.base.weight, self.roles.pick(self.rows)
        return plain if rows is None else plain.index_copy(0, rows[0], rows[1].to(plain.dtype))

    @property
    def bias(self) -> torch.Tensor | None:
        return getattr(self.base, "bias", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if isinstance(self.base, torch.nn.Linear):
            return F.linear(x, self.weight, self.base.bias)
        y, rows = self.base(x), self.roles.pick(self.rows)
        if rows is None:
            return y
        own = x[..., None] == rows[0]
        return torch.where(own.any(-1, keepdim=True), rows[1].to(y.dtype)[own.int().argmax(-1)], y)


class Role(torch.nn.Module):
    """The base with one adapter: a causal LM, or a reward model if the adapter has a score head."""

    def __init__(
        self, base: PreTrainedModel, roles: Roles, name: str, adapter: Adapter, dtype: torch.dtype, *, trained: bool
    ):
        super().__init__()
        self._shared = (base,)  # in a tuple, so that the base's parameters do not count as this role's
        self.roles, self.name, self.adapter = roles, name, adapter
        self.config = adapter.scalar_config(base.config) if adapter.is_scalar else base.config
        self.own = torch.nn.ParameterDict(
            {
                key.replace(".", "/"): torch.nn.Parameter(value.detach().to(base.device, dtype, copy=True), trained)
                for key, value in adapter.tensors.items()
            }
        )
        for path, down, up in adapter.low_rank():
            layer = _wrapped(base, path, RoleLinear, roles)
            layer.added[name] = LowRank(self._own(down), self._own(up), adapter.scale)
        for path, key, ids in adapter.token_rows(base):
            table = _wrapped(base, path, RoleTable, roles)
            table.rows[name] = (torch.tensor(ids, device=base.device), self._own(key))
        self.train(trained)

    def _own(self, key: str) -> torch.nn.Parameter:
        return self.own[key.replace(".", "/")]

    @property
    def base(self) -> PreTrainedModel:
        return self._shared[0]

    @property
    def device(self) -> torch.device:
        return self.base.device

    @property
    def generation_config(self) -> Any:
        return self.base.generation_config

    def set_attn_implementation(self, implementation: str) -> None:
        self.base.set_attn_implementation(implementation)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the adapter's current tensors, with the keys of the file that they were read from."""
        return {key.replace("/", "."): value.detach() for key, value in self.own.items()}

    def forward(self, *args: Any, score_positions: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Run the base under this role; the arguments are those of the model's forward over a packed row.

        A reward model returns scores as logits, (n, 1) float32, read at `score_positions`, (n,) indices into the row.
        """
        if self.base.training != self.training:
            self.base.train(self.training)
        with self.roles.activate(self.name):
            if not self.adapter.is_scalar:
                return self.base(*args, **kwargs)
            hidden = self.base.base_model(*args, **kwargs).last_hidden_state[0, score_positions]
        with torch.autocast(hidden.device.type, enabled=False):
            score = self._own(SCORE)
            logits = F.linear(hidden.to(score.dtype), score).float() - self.config.score_offset
        return SequenceClassifierOutputWithPast(logits=logits)


def _wrapped(base: PreTrainedModel, path: str, kind: type, roles: Roles) -> Any:
    """Return the layer at `path`, after wrapping it in `kind` if no role has done so."""
    try:
        layer = base.get_submodule(path)
    except AttributeError:
        raise RunError(
            f"an adapter has weights for {path}, a layer that {base.name_or_path} does not have; use an adapter of "
            "that base"
        ) from None
    if not isinstance(layer, kind):
        parent, _, name = path.rpartition(".")
        layer = kind(layer, roles)
        setattr(base.get_submodule(parent) if parent else base, name, layer)
    return layer


def recompute_activations(base: PreTrainedModel, roles: Roles) -> None:
    """Switch on gradient checkpointing; recompute activations under the role that was active in the forward pass."""
    base.activation_checkpointing_enable(
        {"use_reentrant": False, "context_fn": lambda: (nullcontext(), roles.activate(roles.active))}
    )
