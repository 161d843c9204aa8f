"""Layers the recommenders share: dropout, the history encoder, sizes by device."""

import bisect

import torch
import torch.nn.functional as F
from torch import nn

from recbole_blair.products import Linear

ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
DROPOUT_LEVELS = 256  # an 8-bit draw decides each element on the CPU
DROPOUT_CHUNK = 1 << 21  # elements masked at a time, so that the mask stays in the cache
ROWS_AT_A_TIME = {"cpu": 2048, "cuda": 1 << 16}  # of a layer that works in chunks: a CPU's cache, or a GPU filled
# Padded positions up to which histories of any length go together: cheaper on a GPU than another group's launches.
SMALL_GROUP = {"cpu": 0, "cuda": 1 << 16}


def per_device(sizes, device):
    """The entry of a table of sizes for a device."""
    return sizes["cpu" if device.type == "cpu" else "cuda"]


class FastDropout(torch.autograd.Function):
    """Dropout on the CPU from eight random bits an element, in chunks; the mask is kept as bytes where it is needed.

    The mask is ones and zeros of eight bits, not booleans, which PyTorch converts one by one.
    """

    @staticmethod
    def forward(ctx, x, cut):
        flat, out = x.reshape(-1), torch.empty(x.numel(), dtype=x.dtype)
        ctx.scale = DROPOUT_LEVELS / (DROPOUT_LEVELS - cut)
        masks = []
        for span in row_chunks(x.numel(), DROPOUT_CHUNK):
            words = torch.empty(-(-(span.stop - span.start) // 8), dtype=torch.int64).random_(-(2**63), None)
            keep = words.view(torch.int8)[: span.stop - span.start]
            torch.ge(keep, cut - DROPOUT_LEVELS // 2, out=keep)
            out[span].copy_(keep).mul_(flat[span]).mul_(ctx.scale)
            if ctx.needs_input_grad[0]:
                masks.append(keep)
        ctx.save_for_backward(*masks)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx, grad):
        flat, out = grad.reshape(-1), torch.empty(grad.numel(), dtype=grad.dtype)
        for span, keep in zip(row_chunks(grad.numel(), DROPOUT_CHUNK), ctx.saved_tensors, strict=True):
            out[span].copy_(keep).mul_(flat[span]).mul_(ctx.scale)
        return out.view(grad.shape), None


def fast_dropout(x, p, training):
    """Dropout whose CPU mask costs eight random bits an element, several times less than PyTorch's float draws.

    On the CPU the rate is rounded to 1/256 and the kept elements are scaled by its exact inverse.
    """
    if not training or p == 0.0:
        return x
    cut = round(p * DROPOUT_LEVELS)
    if x.device.type != "cpu" or not 0 < cut < DROPOUT_LEVELS:
        return F.dropout(x, p, True)
    return FastDropout.apply(x, cut)


class TransformerLayer(nn.Module):
    """Causal self-attention and a feed-forward layer, each followed by dropout, residual and LayerNorm.

    Gives RecBole's `TransformerLayer` outputs at every real position of a right-padded history; padded positions hold
    arbitrary values, since the causal mask keeps them out of every real one.
    """

    def __init__(self, n_heads, hidden_size, inner_size, hidden_dropout, attn_dropout, hidden_act, layer_norm_eps):
        super().__init__()
        if hidden_size % n_heads:
            raise ValueError(f"hidden_size={hidden_size} is not a multiple of n_heads={n_heads}")
        self.n_heads, self.attn_dropout, self.hidden_dropout = n_heads, attn_dropout, hidden_dropout
        self.act = ACTIVATIONS[hidden_act]
        self.qkv = Linear(hidden_size, 3 * hidden_size)
        self.attn_out = Linear(hidden_size, hidden_size)
        self.attn_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.ff_in = Linear(hidden_size, inner_size)
        self.ff_out = Linear(inner_size, hidden_size)
        self.ff_norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)

    def forward(self, x, at=None):
        """Map states to states.

        Args:
            x (B, L, H)
            at (B,) int64: positions whose state alone is wanted, as after the last layer; None: all of them.

        Returns:
            (B, L, H), or (B, 1, H) with `at`.
        """
        batch, length, _ = x.shape
        p = self.attn_dropout if self.training else 0.0
        q, k, v = self.qkv(x).view(batch, length, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)  # (B, heads, L, H/heads)
        if at is None:
            mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        else:
            row = torch.arange(batch, device=x.device)
            q, x = q[row, :, at][:, :, None], x[row, at][:, None]  # (B, heads, 1, H/heads), (B, 1, H)
            past = (torch.arange(length, device=x.device) <= at[:, None])[:, None, None]  # True: may be seen
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=past, dropout_p=p)
        mixed = self.attn_out(mixed.transpose(1, 2).reshape(x.shape))
        x = self.attn_norm(fast_dropout(mixed, self.hidden_dropout, self.training) + x)
        inner = self.ff_out(self.act(self.ff_in(x)))
        return self.ff_norm(fast_dropout(inner, self.hidden_dropout, self.training) + x)


class HistoryEncoder(nn.Module):
    """SASRec's encoder: positions, LayerNorm, dropout, transformer layers, the state at the last item, or at every one.

    Rows of like lengths are encoded together, so that little padding is computed whatever a batch holds. Where only the
    last state is wanted, the last layer computes the last position alone.

    Source: arXiv:1808.09781, section 3, with RecBole's post-norm BERT layers.
    """

    def __init__(
        self, max_seq_length, n_layers, n_heads, hidden_size, inner_size, hidden_dropout_prob, attn_dropout_prob,
        hidden_act, layer_norm_eps, initializer_range,
    ):  # fmt: skip
        super().__init__()
        self.position_embedding = nn.Embedding(max_seq_length, hidden_size)
        self.norm = nn.LayerNorm(hidden_size, eps=layer_norm_eps)
        self.dropout_prob = hidden_dropout_prob
        self.layers = nn.ModuleList(
            TransformerLayer(
                n_heads,
                hidden_size,
                inner_size,
                hidden_dropout_prob,
                attn_dropout_prob,
                hidden_act,
                layer_norm_eps,
            )
            for _ in range(n_layers)
        )
        self.apply(lambda module: init_weights(module, initializer_range))

    @classmethod
    def from_config(cls, config):
        """Build from RecBole's keys."""
        keys = (
            "n_layers", "n_heads", "hidden_size", "inner_size", "hidden_dropout_prob", "attn_dropout_prob",
            "hidden_act", "layer_norm_eps", "initializer_range",
        )  # fmt: skip
        return cls(config["MAX_ITEM_LIST_LENGTH"], **{k: config[k] for k in keys})

    def forward(self, vectors, row, item_seq_len):
        """Encode histories.

        Args:
            vectors (M, H): vectors of items.
            row (B, L) int64: the histories as rows of `vectors`, right-padded; what padded slots hold changes nothing.
            item_seq_len (B,) int64: items in each history, at least 1.

        Returns:
            (B, H): the state at each history's last item.
        """
        order, _, _, groups = self.padded_groups(vectors, row, item_seq_len)
        states = [self.layers[-1](self.encode_padded(x), at=length - 1).squeeze(1) for x, length, _ in groups]
        return torch.cat(states)[torch.argsort(order)]

    def every_position(self, vectors, row, item_seq_len):
        """Encode histories, as `forward`, and return the state at each of their items.

        Returns:
            states (P, H): of the P real positions, in some order; place (P,) int64: which of the batch's B x L
            positions each is, counted row by row.
        """
        order, at, step, groups = self.padded_groups(vectors, row, item_seq_len)
        states = [self.layers[-1](self.encode_padded(x)).flatten(0, 1)[slot] for x, _, slot in groups]
        return torch.cat(states), order[at] * row.shape[1] + step

    def padded_groups(self, vectors, row, item_seq_len):
        """Lay histories out in groups of like lengths. The lengths alone are waited for on a GPU.

        Returns:
            order (B,): the rows as the groups hold them; at (P,), step (P,): which of these rows each real position is
            in, and where; a generator of the groups' item vectors (b, l, H), lengths (b,) and, of each of their real
            positions, its place among b x l.
        """
        order, groups = length_groups(item_seq_len, row.shape[1], per_device(SMALL_GROUP, row.device))
        length, n_real = item_seq_len[order], sum(group[3] for group in groups)
        at = torch.repeat_interleave(torch.arange(len(length), device=row.device), length, output_size=n_real)
        step = torch.arange(n_real, device=row.device) - (length.cumsum(0) - length)[at]
        flat = gather_rows(vectors, row[order[at], step], self.norm.weight.dtype)  # (P, H)

        def lay_out():
            first = 0
            for start, stop, width, n_here in groups:
                here = slice(first, first + n_here)
                slot = (at[here] - start) * width + step[here]
                x = flat.new_zeros((stop - start) * width, flat.shape[1]).index_copy_(0, slot, flat[here])
                first += n_here
                yield x.view(stop - start, width, -1), length[start:stop], slot

        return order, at, step, lay_out()

    def encode_padded(self, x):
        """Take one group of histories (B, L, H) through positions and all layers but the last; returns (B, L, H)."""
        x = self.norm(x + self.position_embedding.weight[: x.shape[1]])
        x = fast_dropout(x, self.dropout_prob, self.training)
        for layer in self.layers[:-1]:
            x = layer(x)
        return x


class GatheredRows(torch.autograd.Function):
    """Rows `row` (P,) of vectors (M, H) in `dtype`, (P, H).

    The gradient is sparse, each row's summed in `dtype` first: no table of zeros, and one rounding a row.
    """

    @staticmethod
    def forward(ctx, vectors, row, dtype):
        ctx.save_for_backward(row)
        ctx.like = vectors.shape, vectors.dtype
        return vectors.index_select(0, row).to(dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (row,), (shape, dtype) = ctx.saved_tensors, ctx.like
        rows, place = torch.unique(row, return_inverse=True)
        total = grad.new_zeros(len(rows), shape[1]).index_add_(0, place, grad).to(dtype)
        gradient = torch.sparse_coo_tensor(rows[None], total, shape, is_coalesced=True, check_invariants=False)
        return gradient, None, None


def gather_rows(vectors, row, dtype):
    """Rows `row` (P,) of vectors (M, H) in `dtype`, (P, H); on the CPU computed vectors get a sparse gradient."""
    sparse = vectors.device.type == "cpu" and vectors.grad_fn is not None and len(row) < len(vectors)
    if sparse and not torch.compiler.is_compiling():
        return GatheredRows.apply(vectors, row, dtype)
    return vectors.index_select(0, row).to(dtype)


def length_groups(length, longest, small=0):
    """Sort rows by length and cut them into groups whose lengths lie within a factor of two.

    Args:
        length (B,) int64: at least 1.
        longest (int): width of the batch.
        small (int): a group of at most so many padded positions may hold any lengths.

    Returns:
        order (B,): rows by length; groups: list of (first row, end row, width to pad to, real positions).
    """
    sorted_length, order = torch.sort(length, stable=True)
    counts = sorted_length.tolist()
    groups, start = [], 0
    while start < len(counts):
        limit = 1 << (counts[start] - 1).bit_length()  # the power of two at or above the shortest
        stop = max(bisect.bisect_right(counts, limit), rows_that_fit(counts, start, small))
        groups.append((start, stop, min(counts[stop - 1], longest), sum(counts[start:stop])))
        start = stop
    return order, groups


def rows_that_fit(counts, start, positions):
    """Return the end of the longest run of rows, sorted by length, that takes at most so many padded positions."""
    ends = range(start + 1, len(counts) + 1)
    return start + bisect.bisect_right(ends, positions, key=lambda end: (end - start) * counts[end - 1])


def init_weights(module, std):
    """RecBole's initial values: normal weights, zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        module.weight.data.normal_(mean=0.0, std=std)
    if isinstance(module, nn.Linear) and module.bias is not None:
        module.bias.data.zero_()


def row_chunks(n, size):
    """Slices that cover n rows, `size` at a time."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
