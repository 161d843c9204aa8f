"""HSTU's sampled softmax: every position over its target and its own uniform negatives."""

import torch

from recbole_blair.ops import per_device, row_chunks

# Numbers of vectors or products that exist at a time: a chunk stays in the cache of a CPU, or fills a GPU.
GATHER_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 28}
DENSE_ROWS_A_DRAW = 25  # a table of fewer rows a draw is multiplied whole; measured on a processor


class SampledSoftmaxLoss(torch.autograd.Function):
    """Cross-entropy of each position over its target and its own negatives, in chunks of positions.

    A negative that is the position's target is masked. The draws are uniform and, as in the released code, not
    corrected by their rate. Gradients are made in the forward pass, while a chunk's vectors are in the cache, so the
    (P, K, H) vectors never exist at once. On a processor a small table is multiplied as a whole.

    Source: arXiv:2504.10545, section 4.1.
    """

    @staticmethod
    def forward(ctx, users, table, target, negatives):
        """Return the mean loss.

        Args:
            users (P, H): divided by the temperature; table (M, H) of the same dtype.
            target (P,) int64, negatives (P, K) int64: rows of the table.
        """
        grads = torch.empty_like(users), torch.zeros_like(table)
        total = users.new_zeros(())
        n_draws = negatives.shape[1]
        dense = is_small_table(table, n_draws)
        at_once = len(table) if dense else n_draws * users.shape[1]
        size = per_device(GATHER_ELEMENTS, users.device) // at_once
        step = dense_chunk if dense else gathered_chunk
        with torch.autocast(users.device.type, enabled=False):
            for part in row_chunks(len(users), max(1, size)):
                total += step(users, table, target, negatives, part, grads)
        ctx.save_for_backward(*grads)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        grad_users, grad_table = ctx.saved_tensors
        return grad * grad_users, grad * grad_table, None, None


def is_small_table(table, n_draws):
    """True where products with the whole table are quicker than gathering each position's `n_draws` rows."""
    return table.device.type == "cpu" and len(table) <= DENSE_ROWS_A_DRAW * n_draws


def gathered_chunk(users, table, target, negatives, part, grads):
    """Add one chunk's gradients to `grads`, over copies of the sampled rows; return its summed loss / P."""
    rows = torch.cat([target[part, None], negatives[part]], 1)  # (c, 1 + K)
    vectors = table.index_select(0, rows.flatten()).view(*rows.shape, -1)
    loss, residual = sampled_residual(torch.bmm(vectors, users[part, :, None]).squeeze(2), rows, len(users))
    grads[0][part] = torch.bmm(residual[:, None], vectors).squeeze(1)
    spread = torch.mul(residual[:, :, None], users[part, None], out=vectors)
    grads[1].index_add_(0, rows.flatten(), spread.flatten(0, 1))
    return loss


def dense_chunk(users, table, target, negatives, part, grads):
    """As `gathered_chunk`, by products with the whole table: quicker where a position draws a good share of it."""
    rows = torch.cat([target[part, None], negatives[part]], 1)  # (c, 1 + K)
    products = users[part] @ table.T  # (c, M)
    loss, residual = sampled_residual(products.gather(1, rows), rows, len(users))
    weights = products.zero_().scatter_add_(1, rows, residual)
    torch.mm(weights, table, out=grads[0][part])
    grads[1].addmm_(weights.T, users[part])
    return loss


def sampled_residual(logits, rows, n):
    """Return the summed cross-entropy of (c, 1 + K) logits / n, and its gradient, hits on the target masked."""
    logits[:, 1:].masked_fill_(rows[:, 1:] == rows[:, :1], float("-inf"))
    log_share = logits.log_softmax(1)
    loss = -log_share[:, 0].sum() / n
    residual = log_share.exp_()
    residual[:, 0] -= 1
    return loss, residual.div_(n)


def step_items(n_items, *ids):
    """List the distinct items of a step without sorting its draws.

    Args:
        n_items (int): N.
        *ids: int64 tensors of item ids; 0 is left out.

    Returns:
        items (M,): sorted ids, None when a step so large that listing them would save nothing; row (N,): each id's
        row among them, that of padding is not to be used.
    """
    device = ids[0].device
    if sum(x.numel() for x in ids) >= 4 * n_items:
        return None, torch.arange(-1, n_items - 1, device=device)
    mark = torch.zeros(n_items, dtype=torch.bool, device=device)
    for x in ids:
        mark[x.flatten()] = True
    mark[0] = False
    return mark.nonzero().squeeze(1), mark.cumsum(0) - 1
