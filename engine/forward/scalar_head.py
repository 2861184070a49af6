"""Put a scalar head on a causal LM's body: the reward model, and the value model that is initialised from it.

The report adds a "pooling layer" that reads the reward at a specific end token (3.2.1) but does not say which. Here it
is the conversation's last <|im_end|>, found by its id and never inferred from padding (transformers' pooling reads the
wrong position if the padding token is the end token). The head is computed in float32.

The Bradley-Terry loss leaves the offset of the scores arbitrary. The mean training score is stored in the configuration
as `score_offset` and subtracted in forward, so that scores are centred wherever the model is loaded.
"""

from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

if TYPE_CHECKING:
    _Model = PreTrainedModel  # the class that it is combined with
else:
    _Model = object


class _ScalarHead(_Model):
    """Replaces the pooling of a transformers sequence-classification class."""

    score: torch.nn.Linear

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        score_positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        packed = score_positions is not None
        body = getattr(self, self.base_model_prefix)
        kwargs.pop("return_dict", None)
        hidden = body(input_ids, attention_mask=None if packed else attention_mask, **kwargs).last_hidden_state
        if packed:
            read = hidden[0, score_positions]
        else:
            read = hidden[torch.arange(len(hidden), device=hidden.device), self.last_im_end(input_ids, attention_mask)]
        with torch.autocast(hidden.device.type, enabled=False):
            logits = self.score(read.to(self.score.weight.dtype)).float() - self.config.score_offset
        return SequenceClassifierOutputWithPast(logits=logits)

    def last_im_end(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return (batch,) indices of each row's last <|im_end|> that is not padding; ValueError if a row has none."""
        at_end = input_ids == self.config.score_token_id
        if attention_mask is not None:
            at_end = at_end & attention_mask.bool()
        if not at_end.any(-1).all():
            raise ValueError("a sequence without <|im_end|> has no score")
        return (at_end * torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)).argmax(-1)


def scalar_class(config: Any) -> type[PreTrainedModel]:
    """Return transformers' sequence-classification class for a configuration, same name, with the pooling above.

    Its forward returns scores as `logits` in float32. For a packed row, pass `score_positions`, (n,) int64 indices into
    the row; the scores are (n, 1). Otherwise each row is scored at its last <|im_end|>, (batch, 1), with a ValueError
    for a row without one.
    """
    model_class = cast(type[PreTrainedModel], MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)])
    return type(model_class.__name__, (_ScalarHead, model_class), {"__module__": model_class.__module__})


def class_score(model: PreTrainedModel, input_ids: torch.Tensor) -> torch.Tensor:
    """Return the (1, 1) score by transformers' own class of one sequence without padding, minus our score offset."""
    assert isinstance(model, _ScalarHead)
    return super(_ScalarHead, model).forward(input_ids, use_cache=False).logits.float() - model.config.score_offset
