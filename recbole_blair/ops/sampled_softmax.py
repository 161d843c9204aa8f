"""Cross-entropy of each position over its target and its own negatives, without the vectors of all at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from recbole_blair.ops import plain
from recbole_blair.ops.device import per_device, row_chunks
from recbole_blair.ops.ragged import join
from recbole_blair.ops.softmax import LossAndGradients, LossWithGradients
from recbole_blair.ops.switch import fast_form_of

# Numbers of vectors or products that exist at a time: a chunk stays in the cache of a CPU, or fills a GPU.
GATHER_ELEMENTS = {"cpu": 1 << 19, "cuda": 1 << 28}
DENSE_ROWS_PER_DRAW = 25  # a table of fewer rows per draw is multiplied whole; measured on a processor
N_NUMBERS = 4  # of a gated item, after its e, t and key
GATE_ROWS = 256  # users whose gates over all items exist at a time
LEAST_SQUARE = 1e-12  # of a gated item's length, squared


Residuals = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # logits, candidates (c, 1 + K): loss, its gradient


@fast_form_of(plain.sampled_cross_entropy)
def sampled_cross_entropy(
    users: Tensor, table: Tensor, candidates: Tensor, log_expected: Tensor | None = None, smoothing: float = 0.0
) -> Tensor:
    """Cross-entropy of each position over its own candidates, a negative that is its target masked.

    The (P, K, H) vectors never exist at once: gradients are made chunk by chunk. On a processor a small table is
    multiplied as a whole.

    Args:
        users (P, H): divided by the temperature; table (M, H) of the same dtype.
        candidates (P, 1 + K) int64: rows of the table, the target first.
        log_expected (M,): log of how often each row is expected among a position's negatives, which is subtracted
            from their logits; None: no correction, as in HSTU's released code.
        smoothing: share of the target that is spread evenly over a position's candidates.

    Returns:
        scalar, the mean over P.

    Source: arXiv:2504.10545, section 4.1.
    """

    def residuals(logits: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        if log_expected is not None:
            logits[:, 1:] -= log_expected[own[:, 1:]]
        return softmax_residuals(logits, own, len(users), smoothing)

    return loss_of_candidates(users, table, candidates, residuals)


@fast_form_of(plain.sampled_binary_cross_entropy)
def sampled_binary_cross_entropy(users: Tensor, table: Tensor, candidates: Tensor, beta: float) -> Tensor:
    """Generalised binary cross-entropy of each position over its own candidates (`losses.gbce_loss`).

    Args:
        users (P, H), table (M, H), candidates (P, 1 + K): as of `sampled_cross_entropy`.
        beta: power of the positive's probability.
    """

    def residuals(logits: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        return binary_residuals(logits, own, len(users), beta)

    return loss_of_candidates(users, table, candidates, residuals)


def loss_of_candidates(users: Tensor, table: Tensor, candidates: Tensor, residuals: Residuals) -> Tensor:
    """Add up a loss of products u . v over candidates (P, 1 + K), and its gradients, a chunk of positions at a time."""
    dense = is_small_table(table, candidates)
    at_once = len(table) if dense else candidates.shape[1] * users.shape[1]
    size = max(1, per_device(GATHER_ELEMENTS, users.device) // at_once)

    def compute(users: Tensor, table: Tensor) -> LossAndGradients:
        step, losses, grad_users, grad_table = dense_chunk if dense else gathered_chunk, [], [], torch.zeros_like(table)
        with torch.autocast(users.device.type, enabled=False):
            for part in row_chunks(len(users), size):
                loss, grad = step(users[part], table, candidates[part], grad_table, residuals)
                losses.append(loss)
                grad_users.append(grad)
        return sum(losses[1:], losses[0]), [join(grad_users), grad_table]

    return LossWithGradients.apply(compute, users, table)


def is_small_table(table: Tensor, candidates: Tensor) -> bool:
    """True where products with the whole table are quicker than gathering each position's candidates."""
    return table.device.type == "cpu" and len(table) <= DENSE_ROWS_PER_DRAW * (candidates.shape[1] - 1)


def gathered_chunk(
    users: Tensor, table: Tensor, candidates: Tensor, grad_table: Tensor, residuals: Residuals
) -> tuple[Tensor, Tensor]:
    """Return one chunk's loss and its users' gradient, add to the table's, over copies of the candidates' rows."""
    rows = candidates.flatten()
    vectors = table.index_select(0, rows).view(*candidates.shape, -1)  # (c, 1 + K, H)
    loss, residual = residuals(torch.bmm(vectors, users[:, :, None]).squeeze(2), candidates)
    grad_users = torch.bmm(residual[:, None], vectors).squeeze(1)
    spread = torch.mul(residual[:, :, None], users[:, None], out=vectors)
    grad_table.index_add_(0, rows, spread.flatten(0, 1))
    return loss, grad_users


def dense_chunk(
    users: Tensor, table: Tensor, candidates: Tensor, grad_table: Tensor, residuals: Residuals
) -> tuple[Tensor, Tensor]:
    """As `gathered_chunk`, by products with the whole table: quicker where a position draws a good share of it."""
    products = users @ table.T  # (c, M)
    loss, residual = residuals(products.gather(1, candidates), candidates)
    weights = products.zero_().scatter_add_(1, candidates, residual)
    grad_table.addmm_(weights.T, users)
    return loss, weights @ table


def softmax_residuals(logits: Tensor, candidates: Tensor, n: int, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy of (c, 1 + K) logits, divided by n, and its gradient (softmax - target) / n.

    With smoothing e the target is 1 - e at column 0 and e / V more at each of the V candidates that are no hits.
    """
    hit = candidates[:, 1:] == candidates[:, :1]
    logits[:, 1:].masked_fill_(hit, float("-inf"))
    log_share = logits.log_softmax(1)
    loss, even = log_share[:, 0].sum() * (smoothing - 1), None
    if smoothing:
        even = smoothing / (1 + (~hit).sum(1, keepdim=True)).to(logits.dtype)  # (c, 1): e / V
        loss -= ((log_share[:, :1] + log_share[:, 1:].masked_fill(hit, 0).sum(1, keepdim=True)) * even).sum()
    residual = log_share.exp_()
    residual[:, 0].sub_(1 - smoothing)
    if even is not None:
        residual.sub_(F.pad((~hit).to(logits.dtype), (1, 0), value=1.0) * even)
    return loss / n, residual.div_(n)


def binary_residuals(logits: Tensor, candidates: Tensor, n: int, beta: float) -> tuple[Tensor, Tensor]:
    """Return the summed gBCE of (c, 1 + K) logits, divided by n, and its gradient.

    With x the target's logit and y a negative's, d/dx is -beta sigmoid(-x) and d/dy is sigmoid(y), both / (1 + K).
    """
    scale = 1.0 / (n * logits.shape[1])
    logits[:, 1:].masked_fill_(candidates[:, 1:] == candidates[:, :1], float("-inf"))  # where both functions are 0
    loss = beta * F.softplus(-logits[:, 0]).sum() + F.softplus(logits[:, 1:]).sum()
    residual = torch.sigmoid(logits)
    residual[:, 0].sub_(1).mul_(beta)
    return loss * scale, residual.mul_(scale)


@fast_form_of(plain.gated_scores)
def gated_scores(users: Tensor, query: Tensor, e: Tensor, t: Tensor, key: Tensor, trained: Tensor) -> Tensor:
    """Cosine of each user and every item (1 - g) e + g t that their gate g = sigmoid(query . key) mixes.

    Args:
        users (B, H): normalised; query (B, G).
        e (M, H), t (M, H), key (M, G): of the items.
        trained (M, 1) bool: False: the item is t alone, its g is 1.

    Returns:
        (B, 1 + M): column 0 stands for the padding item and is 0.
    """
    sources, scores = pack_sources(e, t, key, trained), users.new_zeros(len(users), 1 + len(e))
    for part in row_chunks(len(users), GATE_ROWS):
        scores[part, 1:] = mixed_scores(users[part], query[part], sources)
    return scores


@fast_form_of(plain.gated_cross_entropy)
def gated_cross_entropy(
    users: Tensor, query: Tensor, e: Tensor, t: Tensor, key: Tensor, trained: Tensor, candidates: Tensor,
    temperature: float,
) -> Tensor:  # fmt: skip
    """Mean cross-entropy of positions over `gated_scores` / temperature, chunk by chunk as `sampled_cross_entropy`.

    Args:
        users (P, H), query (P, G), e (M, H), t (M, H), key (M, G), trained (M, 1): as of `gated_scores`.
        candidates (P, 1 + K) int64: rows of the items, the target first, a later one that is the target masked; of
            one column, the target alone: the softmax is over all items.
    """
    full = candidates.shape[1] == 1
    whole = full or is_small_table(e, candidates)
    at_once = len(e) if whole else candidates.shape[1] * (2 * e.shape[1] + key.shape[1] + N_NUMBERS)
    size = max(1, 4 * per_device(GATHER_ELEMENTS, users.device) // at_once)

    def compute(users: Tensor, query: Tensor, sources: Tensor) -> LossAndGradients:
        grads, total = [torch.zeros_like(x) for x in (users, query, sources)], users.new_zeros(())
        with torch.enable_grad(), torch.autocast(users.device.type, enabled=False):
            for part in row_chunks(len(users), size):
                leaves = [x.detach().requires_grad_() for x in (users[part], query[part], sources)]
                scores = mixed_scores(leaves[0], leaves[1], leaves[2], None if full else candidates[part])
                loss = summed_cross_entropy(scores / temperature, candidates[part]) / len(users)
                grads[0][part], grads[1][part], of_sources = torch.autograd.grad(loss, leaves)
                grads[2] += of_sources
                total += loss.detach()
        return total, grads

    return LossWithGradients.apply(compute, users, query, pack_sources(e, t, key, trained))


def pack_sources(e: Tensor, t: Tensor, key: Tensor, trained: Tensor) -> Tensor:
    """Lay out what a gated score needs of each item: e, t, key, e.e, e.t, t.t, trained, (M, 2 H + G + 4)."""
    numbers = torch.stack([(e * e).sum(1), (e * t).sum(1), (t * t).sum(1), trained.squeeze(1).to(e.dtype)], 1)
    return torch.cat([e, t, key.to(e.dtype), numbers], 1)


def mixed_scores(users: Tensor, query: Tensor, sources: Tensor, candidates: Tensor | None = None) -> Tensor:
    """Gated scores of users (c, H) and every item (c, M), or each user's candidates (c, K): no vector per pair.

    With eu = e . u and tu = t . u the cosine of u and (1 - g) e + g t is

        ((1 - g) eu + g tu) / sqrt((1 - g)^2 e.e + 2 g (1 - g) e.t + g^2 t.t)

    On a processor the products with a small table are taken whole.
    """
    rows, own = sources, candidates
    if candidates is not None and not is_small_table(sources, candidates):
        rows, own = sources.index_select(0, candidates.flatten()).view(*candidates.shape, -1), None
    e, t, key, numbers = rows.split([users.shape[1], users.shape[1], query.shape[1], N_NUMBERS], -1)
    pairs = ((users, e), (users, t), (query, key))
    if rows.dim() == 3:
        eu, tu, logit = (torch.bmm(y, x[:, :, None]).squeeze(2) for x, y in pairs)  # (c, K)
    else:
        eu, tu, logit = (x @ y.T for x, y in pairs)  # (c, M)
    if own is not None:
        eu, tu, logit = (x.gather(1, own) for x in (eu, tu, logit))
        numbers = numbers.index_select(0, own.flatten()).view(*own.shape, -1)
    ee, et, tt, trained = numbers.unbind(-1)
    g = torch.where(trained > 0, torch.sigmoid(logit), 1.0)
    square = (1 - g) ** 2 * ee + 2 * g * (1 - g) * et + g**2 * tt
    return torch.lerp(eu, tu, g) * square.clamp(min=LEAST_SQUARE).rsqrt()


def summed_cross_entropy(logits: Tensor, candidates: Tensor) -> Tensor:
    """Summed cross-entropy of logits over all items, or over candidates (c, 1 + K), hits on the target masked."""
    target = candidates[:, 0]
    if candidates.shape[1] == 1:
        return F.cross_entropy(logits, target, reduction="sum")
    hit = F.pad(candidates[:, 1:] == target[:, None], (1, 0))
    return F.cross_entropy(logits.masked_fill(hit, float("-inf")), torch.zeros_like(target), reduction="sum")
