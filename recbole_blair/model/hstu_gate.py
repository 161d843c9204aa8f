"""Cosines of users and items whose id and text a gate of the user mixes, and the loss over them."""

import torch
import torch.nn.functional as F

from recbole_blair.model.hstu_loss import GATHER_ELEMENTS, is_small_table
from recbole_blair.ops import per_device, row_chunks

N_NUMBERS = 4  # of an item, after its e, t and key


def pack_sources(e, t, key, trained):
    """Lay out what scoring with gates needs of each item.

    Args:
        e (M, H), t (M, H): id embedding and projected text; key (M, G); trained (M, 1): False is text alone.

    Returns:
        (M, 2 H + G + 4): e, t, key, e.e, e.t, t.t, trained
    """
    numbers = torch.stack([(e * e).sum(1), (e * t).sum(1), (t * t).sum(1), trained.squeeze(1).to(e.dtype)], 1)
    return torch.cat([e, t, key.to(e.dtype), numbers], 1)


def split_sources(packed, hidden):
    """Undo `pack_sources`, the four numbers together; of (M, W) or (c, K, W)."""
    return packed.split([hidden, hidden, packed.shape[-1] - 2 * hidden - N_NUMBERS, N_NUMBERS], -1)


def mix(own_e, own_t, logit, numbers):
    """Cosine of a user and the item (1 - g) e + g t, g = sigmoid(logit), 1 for an item without a trained id.

    Args:
        own_e, own_t (c, K): products of the user with e and t; logit (c, K); numbers: broadcasts to (c, K, 4).

    Returns:
        (c, K)
    """
    ee, et, tt, trained = numbers.unbind(-1)
    g = torch.where(trained > 0, torch.sigmoid(logit), 1.0)
    square = (1 - g) ** 2 * ee + 2 * g * (1 - g) * et + g**2 * tt
    return torch.lerp(own_e, own_t, g) * square.clamp(min=1e-12).rsqrt()


def gated_scores(users, query, packed, rows=None):
    """Cosine of users and their gated items.

    Args:
        users (c, H): normalised; query (c, G).
        packed (M, W): of `pack_sources`.
        rows (c, K) int64: each user's own items; None scores every item. On a processor a small table is
            multiplied as a whole.

    Returns:
        (c, K) or (c, M)
    """
    e, t, key, numbers = split_sources(packed, users.shape[1])
    if rows is None:
        return mix(users @ e.T, users @ t.T, query @ key.T, numbers)
    if is_small_table(packed, rows.shape[1]):
        own_e, own_t, logit = ((x @ y.T).gather(1, rows) for x, y in ((users, e), (users, t), (query, key)))
        return mix(own_e, own_t, logit, numbers.index_select(0, rows.flatten()).view(*rows.shape, -1))
    gathered = packed.index_select(0, rows.flatten()).view(*rows.shape, -1)
    e, t, key, numbers = split_sources(gathered, users.shape[1])
    own_e, own_t, logit = ((y @ x[..., None]).squeeze(2) for x, y in ((users, e), (users, t), (query, key)))
    return mix(own_e, own_t, logit, numbers)


class GatedLoss(torch.autograd.Function):
    """Mean cross-entropy of positions over gated candidates.

    Gradients are made chunk by chunk in the forward pass, so no two chunks' scores exist at a time.
    """

    @staticmethod
    def forward(ctx, users, query, packed, target, negatives, temperature):
        """Return the mean loss.

        Args:
            users (P, H), query (P, G), packed (M, W): as of `gated_scores`.
            target (P,) int64, negatives (P, K) int64: rows of the table; None takes every item.
            temperature (float)
        """
        grads = [torch.zeros_like(x) for x in (users, query, packed)]
        total = users.new_zeros(())
        table = packed.detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(users.device.type, enabled=False):
            for part in row_chunks(len(users), chunk_rows(packed, negatives)):
                leaves = [x[part].detach().requires_grad_() for x in (users, query)] + [table]
                own = None if negatives is None else negatives[part]
                loss = chunk_loss(*leaves, target[part], own, temperature) / len(users)
                found = torch.autograd.grad(loss, leaves)
                total += loss.detach()
                grads[0][part], grads[1][part] = found[:2]
                grads[2] += found[2]
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return (*(grad * g for g in ctx.saved_tensors), None, None, None)


def chunk_rows(packed, negatives):
    """How many positions' scores exist at a time."""
    small = negatives is None or is_small_table(packed, negatives.shape[1] + 1)
    at_once = len(packed) if small else (negatives.shape[1] + 1) * packed.shape[1]
    return max(1, 4 * per_device(GATHER_ELEMENTS, packed.device) // at_once)


def chunk_loss(users, query, packed, target, negatives, temperature):
    """Summed cross-entropy of one chunk of positions, hits on the target masked."""
    if negatives is None:
        return F.cross_entropy(gated_scores(users, query, packed) / temperature, target, reduction="sum")
    logits = gated_scores(users, query, packed, torch.cat([target[:, None], negatives], 1)) / temperature
    hit = F.pad(negatives == target[:, None], (1, 0))
    return F.cross_entropy(logits.masked_fill(hit, float("-inf")), torch.zeros_like(target), reduction="sum")
