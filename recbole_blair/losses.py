"""Losses: tensors in, scalar out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_blair.ops import full_softmax_loss

__all__ = ["full_softmax_loss", "gbce_loss", "in_batch_softmax_loss", "info_nce_loss", "sampled_softmax_loss"]


def sampled_softmax_loss(
    users: Tensor, positives: Tensor, negatives: Tensor, target: Tensor, negative_ids: Tensor,
    log_expected: Tensor | None, smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Cross-entropy over the positive and shared sampled negatives, corrected by their sampling rate.

    Each sampled item's logit is lowered by the logarithm of how often it is expected among the negatives, so that
    the loss estimates the full softmax (Bengio & Senecal 2008; Jean et al. 2015, section 3.2). A negative that is a
    row's own target is masked in that row.

    Args:
        users (B, H): already divided by the temperature.
        positives (B, H): the targets' vectors.
        negatives (K, H): vectors of the sampled items.
        target (B,) int64, negative_ids (K,) int64: item ids.
        log_expected (K,): log of the expected count of each negative in the sample; None: no correction.
        smoothing: share of the target that is spread evenly over the candidates of a row.

    Returns:
        scalar, the mean over B.
    """
    dtype = torch.promote_types(users.dtype, torch.float32)
    own = (users * positives).sum(1, keepdim=True).to(dtype)  # (B, 1)
    others = (users @ negatives.T).to(dtype)  # (B, K)
    if log_expected is not None:
        others = others - log_expected
    hit = target[:, None] == negative_ids  # (B, K)
    logits = torch.cat([own, others.masked_fill(hit, float("-inf"))], 1)  # (B, 1 + K); every target is column 0
    log_share = logits.log_softmax(1)
    loss = -log_share[:, 0]
    if smoothing:
        even = (log_share[:, 0] + log_share[:, 1:].masked_fill(hit, 0).sum(1)) / (1 + (~hit).sum(1))  # (B,)
        loss = (1 - smoothing) * loss - smoothing * even
    return loss.mean()


def gbce_loss(
    users: Tensor, positives: Tensor, negatives: Tensor, target: Tensor, negative_ids: Tensor, beta: float
) -> Tensor:
    """Generalised binary cross-entropy: the probability of the positive s+ is raised to `beta`, at most 1.

        -1 / (1 + K) (beta log sigmoid(s+) + sum over the negatives of log(1 - sigmoid(s-)))

    A negative that is a row's own target adds nothing.

    Args:
        users, positives, negatives, target, negative_ids: as of `sampled_softmax_loss`.

    Returns:
        scalar, the mean over B.

    Source: arXiv:2308.07192.
    """
    dtype = torch.promote_types(users.dtype, torch.float32)
    own, others = (users * positives).sum(1).to(dtype), (users @ negatives.T).to(dtype)  # (B,), (B, K)
    # log sigmoid(s) = -softplus(-s), log(1 - sigmoid(s)) = -softplus(s)
    negative = F.softplus(others).masked_fill(target[:, None] == negative_ids, 0.0).sum(1)  # (B,)
    return ((beta * F.softplus(-own) + negative) / (1 + len(negatives))).mean()


def in_batch_softmax_loss(anchors: Tensor, positives: Tensor, temperature: float, same: Tensor) -> Tensor:
    """In-batch contrastive loss; a pair of rows that `same` marks is neither positive nor negative.

    The released UniSRec sets the masked logits to 0 before the exponential, so that each still counts as
    exp(0) = 1 in the sum; here they contribute nothing.

    Args:
        anchors (B, H), positives (B, H): L2-normalised.
        same (B, B) bool: True leaves that pair out; the diagonal is always kept.

    Returns:
        scalar, the mean over B.

    Source: arXiv:2206.05941, equations 6 and 7.
    """
    logits = (anchors @ positives.T).float() / temperature  # (B, B); row b's positive is column b
    diagonal = torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
    logits = logits.masked_fill(same & ~diagonal, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(anchors), device=anchors.device))


def info_nce_loss(
    anchors: Tensor, candidates: Tensor, target: Tensor, temperature: float, mask: Tensor | None = None
) -> Tensor:
    """Contrastive loss: softmax over cosine / temperature, one positive per anchor.

    Cosines and the softmax are taken in float32 at least, whatever precision the vectors come in.

    Args:
        anchors (B, D): any length; normalised here. A zero vector has cosine 0 with everything.
        candidates (M, D): as anchors; with negatives gathered over devices M is their global number.
        target (B,) int64: row of `candidates` that is each anchor's positive.
        temperature: above 0.
        mask (B, M) bool | None: True leaves that candidate out of the anchor's sum; the positive always stays.

    Returns:
        scalar, the mean over B. An anchor whose every negative is masked adds 0.

    Source: arXiv:2403.03952, section 3.1, equation 2; leaving out candidates that share the anchor's item is a
    difference.
    """
    dtype = torch.promote_types(anchors.dtype, torch.float32)
    logits = F.normalize(anchors.to(dtype), dim=1) @ F.normalize(candidates.to(dtype), dim=1).T / temperature  # (B, M)
    if mask is not None:
        own = torch.arange(candidates.shape[0], device=target.device) == target[:, None]  # (B, M)
        logits = logits.masked_fill(mask & ~own, float("-inf"))
    return F.cross_entropy(logits, target)
