"""Losses: tensors in, scalar out."""

import math

import torch
import torch.nn.functional as F

from recbole_blair.ops.device import ALIGNED, CACHE_BYTES
from recbole_blair.ops.linear import add_product, fuses, product, sigmoid_product

SOFTMAX_CHUNK = 1024  # rows whose logits over all items exist at a time
SUM_PART = 128  # numbers summed to one bfloat16 on the way to a row's sum
LARGEST_BOUND = 40.0  # sums of exp(40) and of exp(-40) are normal float32 values
SIGMOID_SHIFT = 20  # below -20 a sigmoid is the exponential to 2e-9, less than float32 can tell
LARGEST_SHIFTED_BOUND = 30.0  # exp(-20 - 2 x 30) is a normal float32 value
DEVICE_LOGITS = 1 << 28  # logits that exist at a time on a GPU: half a gigabyte in bfloat16


def full_softmax_loss(users, items, target, chunk=SOFTMAX_CHUNK, bound=None):
    """Cross-entropy over all items without keeping users x items logits.

    PyTorch's own `linear_cross_entropy` where it exists (2.13), an equal chunked form elsewhere. Where a small bound of
    the logits is known, a form that reads them three times instead of eleven.

    Args:
        users (B, H): already divided by the temperature.
        items (M, H): every candidate, same dtype; the padding item is not among them.
        target (B,) int64: row numbers of `items`.
        chunk (int): rows of logits held at a time.
        bound (float | None): no logit's absolute value is above it, rounding aside; None: not known.

    Returns:
        scalar, the mean over B.
    """
    items = items.to(users.dtype)
    if bound is not None and bound <= LARGEST_BOUND:
        if users.device.type != "cpu":
            return DeviceBoundedSoftmaxLoss.apply(users, items, target)
        return BoundedSoftmaxLoss.apply(users, items, target, shift_of(bound, users, items))
    if not hasattr(F, "linear_cross_entropy"):
        return ChunkedSoftmaxLoss.apply(users, items, target, chunk)
    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk, acc_policy="compact")
    return F.linear_cross_entropy(users, items, target, options=options)


class ChunkedSoftmaxLoss(torch.autograd.Function):
    """`full_softmax_loss` for PyTorch before 2.13: gradients are made chunk by chunk in the forward pass."""

    @staticmethod
    def forward(ctx, users, items, target, chunk):
        total = users.new_zeros((), dtype=torch.float32 if users.dtype != torch.float64 else torch.float64)
        grad_users = torch.empty_like(users)
        grad_items = torch.zeros(items.shape, dtype=total.dtype, device=items.device)
        for start in range(0, len(users), chunk):
            part = slice(start, start + chunk)
            logits = (users[part] @ items.T).to(total.dtype)  # (b, M)
            total += F.cross_entropy(logits, target[part], reduction="sum")
            residual = logits.softmax(1)
            residual.scatter_add_(1, target[part, None], -torch.ones_like(residual[:, :1]))
            residual = (residual / len(users)).to(users.dtype)
            grad_users[part] = residual @ items
            grad_items += residual.T @ users[part]
        ctx.save_for_backward(grad_users, grad_items.to(items.dtype))
        return total / len(users)

    @staticmethod
    def backward(ctx, grad):
        grad_users, grad_items = ctx.saved_tensors
        return grad * grad_users, grad * grad_items, None, None


class BoundedSoftmaxLoss(torch.autograd.Function):
    """`full_softmax_loss` on the CPU for logits of a known bound, as cosines over a temperature are.

    No exponential overflows, so that it is taken as soon as a block of logits is there, while that is in the cache,
    and no row's maximum is looked for. The exponentials are kept (users x items, in the users' dtype); once the rows'
    sums are known, one product a block gives the items' gradient, which needs no accumulation.

    With a `shift` every logit is lowered by it, which the softmax does not see, so far that its sigmoid is its
    exponential: oneDNN takes it of its sums in float32, before they are rounded and written.
    """

    @staticmethod
    def forward(ctx, users, items, target, shift):
        wide, n_users = torch.promote_types(users.dtype, torch.float32), len(users)
        parts = items.split(block_width(users, len(items)))
        total, mixed = users.new_zeros((n_users, 1), dtype=wide), torch.zeros(users.shape, dtype=wide)
        exps = []  # a block for each part, (B, items of the part)
        for part in parts:
            exps.append(shifted_exponentials(users, part, shift))
            total += row_sums(exps[-1], wide)
            add_product(mixed, exps[-1], part)
        own = (users.to(wide) * items[target].to(wide)).sum(1)
        loss = (total.squeeze(1).log() + shift - own).mean()
        share = 1.0 / (total * n_users)  # (B, 1)
        grad_users = mixed.mul_(share).sub_(items[target].to(wide), alpha=1.0 / n_users).to(users.dtype)
        scaled = (users.to(wide) * share).to(users.dtype)
        grad_items = torch.empty_like(items)
        for block, out in zip(exps, grad_items.split(parts[0].shape[0]), strict=True):
            product(block.T, scaled, out)
        grad_items.index_add_(0, target, (users.to(wide) / -n_users).to(items.dtype))
        ctx.save_for_backward(grad_users, grad_items)
        return loss

    @staticmethod
    def backward(ctx, grad):
        grad_users, grad_items = ctx.saved_tensors
        if grad.item() == 1.0:  # the usual case: two passes over memory less
            return grad_users, grad_items, None, None
        return (grad * grad_users).to(grad_users.dtype), (grad * grad_items).to(grad_items.dtype), None, None


def shift_of(bound, users, items):
    """How far to lower logits of that bound so that a sigmoid gives their exponentials; 0: take those instead."""
    if bound > LARGEST_SHIFTED_BOUND or not fuses(users, items):
        return 0
    return math.ceil(bound) + SIGMOID_SHIFT  # a small integer: bfloat16 has it


def shifted_exponentials(users, items, shift):
    """exp(users (n, H) @ items (m, H) transposed - shift), (n, m); as a sigmoid where `shift_of` gave the shift."""
    if not shift:
        return product(users, items.T).exp_()
    return sigmoid_product(users, items.T, users.new_full((len(items),), -shift))


class DeviceBoundedSoftmaxLoss(torch.autograd.Function):
    """`BoundedSoftmaxLoss` on a GPU: as many users at a time as fill it, over all items, so that each row is complete.

    Items and widths are padded with zeros to whole 16 bytes, without which the matrix units take a slower way.
    """

    @staticmethod
    def forward(ctx, users, items, target):
        wide = torch.promote_types(users.dtype, torch.float32)
        n_users, (n_items, hidden) = len(users), items.shape
        items = F.pad(items, (0, -hidden % ALIGNED, 0, -n_items % ALIGNED))
        loss, grad_users, grad_items = users.new_zeros((), dtype=wide), torch.empty_like(users), None
        chunk = max(1, DEVICE_LOGITS // len(items))
        for start in range(0, n_users, chunk):
            part, own = users[start : start + chunk], items[target[start : start + chunk]].to(wide)
            part = F.pad(part, (0, -hidden % ALIGNED))
            exps = torch.mm(part, items.T).exp_()  # (b, M); its last columns are padding
            total = exps[:, :n_items].sum(1, keepdim=True, dtype=wide)
            loss += (total.squeeze(1).log() - (part.to(wide) * own).sum(1)).sum()
            share = 1.0 / (total * n_users)
            mixed = (exps @ items).to(wide).mul_(share).sub_(own, alpha=1.0 / n_users)
            grad_users[start : start + chunk] = mixed[:, :hidden]
            summed = exps.T @ (part.to(wide) * share).to(users.dtype)
            grad_items = summed if grad_items is None else grad_items.add_(summed)
        grad_items = grad_items[:n_items, :hidden]
        grad_items.index_add_(0, target, (users.to(wide) / -n_users).to(items.dtype))
        ctx.save_for_backward(grad_users, grad_items)
        return loss / n_users

    @staticmethod
    def backward(ctx, grad):
        grad_users, grad_items = ctx.saved_tensors
        return (grad * grad_users).to(grad_users.dtype), (grad * grad_items).to(grad_items.dtype), None


def block_width(users, n_items):
    """How many items' logits with all users (B, H) fit CACHE_BYTES; a whole number of SUM_PARTs."""
    width = CACHE_BYTES // (len(users) * users.element_size())
    return max(1, min(n_items, max(SUM_PART, width - width % SUM_PART)))


def row_sums(block, dtype):
    """Sum the rows of a block (n, m) to (n, 1) of a wider dtype; bfloat16 in parts: ten times faster."""
    n_rows, width = block.shape
    if block.dtype != dtype and width % SUM_PART == 0:
        block = block.view(n_rows, -1, SUM_PART).sum(2)  # each part in float32, then rounded
    return block.sum(1, keepdim=True, dtype=dtype)


def sampled_softmax_loss(users, positives, negatives, target, negative_ids, log_expected):
    """Cross-entropy over the positive and shared sampled negatives, corrected by their sampling rate.

    Each sampled item's logit is lowered by the logarithm of how often it is expected among the negatives, so that
    the loss estimates the full softmax (Bengio & Senecal 2008; Jean et al. 2015, section 3.2). A negative that is a
    row's own target is masked in that row.

    Args:
        users (B, H): already divided by the temperature.
        positives (B, H): the targets' vectors.
        negatives (K, H): vectors of the sampled items.
        target (B,) int64, negative_ids (K,) int64: item ids.
        log_expected (K,): log of the expected count of each negative in the sample.

    Returns:
        scalar, the mean over B.
    """
    own = (users * positives).sum(1, keepdim=True).float()  # (B, 1)
    others = (users @ negatives.T).float() - log_expected  # (B, K)
    others = others.masked_fill(target[:, None] == negative_ids, float("-inf"))
    logits = torch.cat([own, others], 1)
    return F.cross_entropy(logits, torch.zeros(len(users), dtype=torch.long, device=users.device))


def in_batch_softmax_loss(anchors, positives, temperature, same):
    """In-batch contrastive loss; a pair of rows that `same` marks is neither positive nor negative.

    The released UniSRec sets the masked logits to 0 before the exponential, so that each still counts as
    exp(0) = 1 in the sum; here they contribute nothing.

    Args:
        anchors (B, H), positives (B, H): L2-normalised.
        temperature (float)
        same (B, B) bool: True leaves that pair out; the diagonal is always kept.

    Returns:
        scalar, the mean over B.

    Source: arXiv:2206.05941, equations 6 and 7.
    """
    logits = (anchors @ positives.T).float() / temperature
    diagonal = torch.eye(len(anchors), dtype=torch.bool, device=anchors.device)
    logits = logits.masked_fill(same & ~diagonal, float("-inf"))
    return F.cross_entropy(logits, torch.arange(len(anchors), device=anchors.device))


def info_nce_loss(anchors, candidates, target, temperature, mask=None):
    """Contrastive loss: softmax over cosine / temperature, one positive an anchor.

    Cosines and the softmax are taken in float32 at least, whatever precision the vectors come in.

    Args:
        anchors (B, D): any length; normalised here. A zero vector has cosine 0 with everything.
        candidates (M, D): as anchors; with negatives gathered over devices M is their global number.
        target (B,) int64: row of `candidates` that is each anchor's positive.
        temperature (float): above 0.
        mask (B, M) bool | None: True leaves that candidate out of the anchor's sum; the positive always stays.

    Returns:
        scalar, the mean over B. An anchor whose every negative is masked adds 0.

    Source: arXiv:2403.03952, equation 1; leaving out candidates that share the anchor's item is a difference.
    """
    dtype = torch.promote_types(anchors.dtype, torch.float32)
    logits = F.normalize(anchors.to(dtype), dim=1) @ F.normalize(candidates.to(dtype), dim=1).T / temperature  # (B, M)
    if mask is not None:
        own = torch.arange(candidates.shape[0], device=target.device) == target[:, None]  # (B, M)
        logits = logits.masked_fill(mask & ~own, float("-inf"))
    return F.cross_entropy(logits, target)
