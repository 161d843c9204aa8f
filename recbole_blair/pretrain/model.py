"""The encoder in training: one vector per text for the contrastive loss, token predictions for the backbone's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from recbole_blair.pretrain.noise import IGNORE
from recbole_blair.text.pooling import pool

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class _GivenStates(nn.Module):
    """Stands in a masked-language model where its encoder was, and returns the states it is given."""

    def __init__(self, embeddings: nn.Module | None) -> None:
        super().__init__()
        self.states: Tensor | None = None
        object.__setattr__(self, "embeddings", embeddings)  # DeBERTa's head reads them; not registered twice

    def forward(self, *_: object, **__: object) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=self.states)


class TokenHead(nn.Module):
    """A masked-language model without its encoder: from chosen states to logits over the vocabulary.

    Only the tokens that are predicted pass through it. With RoBERTa's vocabulary that saves about a quarter of a
    step's arithmetic.

    Args:
        masked_lm: of any `AutoModelForMaskedLM` class.
        body: the encoder whose word embeddings the head shares, if it shares any.
    """

    def __init__(self, masked_lm: PreTrainedModel, body: PreTrainedModel) -> None:
        super().__init__()
        prefix = masked_lm.base_model_prefix
        setattr(masked_lm, prefix, body)
        masked_lm.tie_weights()
        self.stub = _GivenStates(getattr(body, "embeddings", None))
        setattr(masked_lm, prefix, self.stub)
        self.masked_lm = masked_lm

    def forward(self, states: Tensor) -> Tensor:
        """Return logits (m, V) of states (m, D)."""
        self.stub.states = states[None]
        try:
            return self.masked_lm(inputs_embeds=states[None]).logits[0]
        finally:
            self.stub.states = None


class PairEncoder(nn.Module):
    """An encoder with what its training needs: pooling, the training-only dense layer, the backbone's own head.

    Args:
        body: the encoder; for T5 the encoder half of `denoiser`.
        pooling: `cls` or `mean`.
        token_head: predicts masked tokens.
        denoiser: a whole T5-like model.
        dense: put a dense and a tanh layer on the pooled state in training, as the released code does;
            the exported encoder does not have it.

    Source: arXiv:2403.03952, section 3.1; the dense layer: the released code, after SimCSE (arXiv:2104.08821).
    """

    def __init__(
        self,
        body: PreTrainedModel,
        pooling: str,
        token_head: TokenHead | None = None,
        denoiser: PreTrainedModel | None = None,
        dense: bool = False,
    ) -> None:
        super().__init__()
        self.body = body
        self.pooling = pooling
        self.token_head = token_head
        self.denoiser = denoiser
        width = body.config.hidden_size
        self.dense = nn.Linear(width, width) if dense else None

    def hidden_states(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the last hidden states (n, T, D) of padded ids (n, T); no mask where nothing is padded."""
        inside = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]  # (n, T)
        mask = None if bool(inside.all()) else inside.long()
        return self.body(input_ids=ids, attention_mask=mask).last_hidden_state

    def embed(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Return the vectors (n, D) that the contrastive loss compares: in training through the dense layer."""
        vectors = pool(self.hidden_states(ids, lengths), lengths, self.pooling)
        if self.dense is not None and self.training:
            vectors = torch.tanh(self.dense(vectors))
        return vectors

    def masked_token_loss(self, noisy: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """Return the summed cross-entropy of the hidden tokens.

        Args:
            noisy (n, T) int64, lengths (n,) int64: the texts with tokens hidden.
            labels (n, T) int64: the hidden tokens, `IGNORE` elsewhere.
        """
        chosen = labels != IGNORE
        assert self.token_head is not None  # loaded where the objective has mlm
        logits = self.token_head(self.hidden_states(noisy, lengths)[chosen])  # (m, V)
        return _summed_cross_entropy(logits, labels[chosen])

    def denoising_loss(self, noisy: Tensor, lengths: Tensor, labels: Tensor) -> Tensor:
        """Return the summed cross-entropy of the dropped spans; `labels` (n, S) are padded by `IGNORE`."""
        assert self.denoiser is not None
        mask = (torch.arange(noisy.shape[1], device=noisy.device) < lengths[:, None]).long()
        logits = self.denoiser(input_ids=noisy, attention_mask=mask, labels=labels).logits
        return _summed_cross_entropy(logits.flatten(0, 1), labels.flatten())

    def checkpoint_activations(self) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        target = self.denoiser if self.denoiser is not None else self.body
        enable = getattr(target, "activation_checkpointing_enable", None) or target.gradient_checkpointing_enable
        enable()

    def unique_state(self) -> dict[str, Tensor]:
        """Return the state dict without second names of shared tensors, as safetensors wants it."""
        seen, state = set(), {}
        for name, tensor in self.state_dict(keep_vars=True).items():
            if id(tensor) not in seen:
                seen.add(id(tensor))
                state[name] = tensor.detach()
        return state

    def load_unique_state(self, state: dict[str, Tensor]) -> None:
        """Load what `unique_state` gave; names of shared tensors that it left out are filled by their first name."""
        missing, unexpected = self.load_state_dict(state, strict=False)
        lost = [name for name in missing if name not in self._shared_names()]
        if lost or unexpected:
            raise ValueError(f"checkpoint and model differ: missing {lost[:3]}, unexpected {unexpected[:3]}")

    def _shared_names(self) -> set[str]:
        return self.state_dict(keep_vars=True).keys() - self.unique_state().keys()


def _summed_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy summed over the predicted tokens, in float32 at least; 0 where there are none."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
