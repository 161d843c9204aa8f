"""Frozen item text to item vectors: the adaptors, and the chunked functions they are made of."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from recbole_blair.model.layers import init_weights
from recbole_blair.ops import apply_dropout, apply_linear, per_device, row_chunks
from recbole_blair.ops.device import ROWS_AT_A_TIME
from recbole_blair.ops.linear import add_product, linear_with, product


class ExpertMixture(torch.autograd.Function):
    """Sum over experts of gate x (expert matrix times x, less the expert's shift), all experts as one matrix product.

    Works in row chunks that stay in the cache. Frozen features need no gradient, so the backward pass is one product
    for all experts' weights.

    Args of `apply`:
        x (n, D), weight (E, H, D), shift (E, H): of the dtype the products run in.
        gates (n, E): of the parameters' dtype.

    Returns (n, H) of the products' dtype.
    """

    CHUNK = ROWS_AT_A_TIME

    @staticmethod
    def forward(ctx, x, weight, shift, gates):
        n_experts, hidden, width = weight.shape
        mixed, kept, share = x.new_empty(len(x), hidden), [], gates.to(x.dtype)
        apply_experts = linear_with(weight.view(-1, width), -shift.flatten())
        for span in row_chunks(len(x), per_device(ExpertMixture.CHUNK, x.device)):
            experts = apply_experts(x[span]).view(-1, n_experts, hidden)
            mixed[span] = weighted_sums(experts, share[span])
            if any(ctx.needs_input_grad):
                kept.append(experts)
        ctx.save_for_backward(x, weight, gates, *kept)
        return mixed

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight, gates, *kept = ctx.saved_tensors
        n_experts, hidden, width = weight.shape
        grad_weight = torch.zeros(n_experts * hidden, width, dtype=gates.dtype, device=x.device)
        grad_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        grad, share = grad.contiguous(), gates.to(x.dtype)
        grad_shift, grad_gates = -(share.T @ grad), torch.empty_like(gates)
        for span, experts in zip(row_chunks(len(x), per_device(ExpertMixture.CHUNK, x.device)), kept, strict=True):
            # (E, H, n): rows last, as the product wants them
            spread = (share[span].T.contiguous()[:, None] * grad[span].T.contiguous()).view(n_experts * hidden, -1)
            add_product(grad_weight, spread, x[span])
            grad_gates[span] = expert_products(experts, grad[span])
            if grad_x is not None:
                grad_x[span] = product(spread.T, weight.view(-1, width))
        return grad_x, grad_weight.view_as(weight).to(weight.dtype), grad_shift.to(weight.dtype), grad_gates


def weighted_sums(experts, share):
    """Sum over experts (n, E, H) of share (n, E) times each: (n, H).

    On the CPU as a bag of E rows an item: several times faster than as many products of one row.
    """
    if experts.device.type != "cpu":
        return torch.bmm(share[:, None], experts).squeeze(1)
    n_rows = share.numel()
    return F.embedding_bag(
        torch.arange(n_rows), experts.reshape(n_rows, -1), torch.arange(0, n_rows, share.shape[1]), mode="sum",
        per_sample_weights=share.reshape(-1),
    )  # fmt: skip


def expert_products(experts, grad):
    """The product of each row's experts (n, E, H) with its grad (n, H): (n, E)."""
    if experts.device.type != "cpu":
        return torch.bmm(experts, grad[:, :, None]).squeeze(2)
    return (experts * grad[:, None]).sum(2)


class NormalisedRows(torch.autograd.Function):
    """L2-normalise rows (n, H) into `dtype`, computed in float32 or wider, in row chunks that stay in the cache."""

    CHUNK = ROWS_AT_A_TIME
    LEAST_NORM = 1e-12  # of PyTorch's normalize

    @staticmethod
    def forward(ctx, x, dtype):
        wide = torch.promote_types(x.dtype, torch.float32)
        unit = torch.empty(x.shape, dtype=dtype, device=x.device)
        inverse = torch.empty(len(x), 1, dtype=wide, device=x.device)
        for span in row_chunks(len(x), per_device(NormalisedRows.CHUNK, x.device)):
            row = x[span].to(wide)
            torch.reciprocal(row.norm(dim=1, keepdim=True).clamp_(min=NormalisedRows.LEAST_NORM), out=inverse[span])
            unit[span] = row * inverse[span]
        ctx.save_for_backward(unit, inverse)
        ctx.input_dtype = x.dtype
        return unit

    @staticmethod
    def backward(ctx, grad):
        unit, inverse = ctx.saved_tensors
        grad_x = torch.empty(grad.shape, dtype=ctx.input_dtype, device=grad.device)
        for span in row_chunks(len(grad), per_device(NormalisedRows.CHUNK, grad.device)):
            g, u = grad[span].to(inverse.dtype), unit[span].to(inverse.dtype)
            across = torch.addcmul(g, u, (g * u).sum(1, keepdim=True), value=-1)
            grad_x[span] = across.mul_(inverse[span])
        return grad_x, None


class MoEAdaptor(nn.Module):
    """Mixture of parametric-whitening experts with noisy gates: text features to item vectors.

    Expert e maps x to W_e (dropout(x) - b_e); the gates are a softmax of x W_g, with noise while training. The W_e are
    one tensor, and W_e b_e is taken once for all rows. The experts share one dropout mask; the released code draws
    one for each.

    Source: arXiv:2206.05941, equations 1 to 4.
    """

    NOISE_FLOOR = 1e-2  # least deviation of the gate noise, as released

    def __init__(self, n_exps, plm_size, hidden_size, dropout_prob, noisy_gating=True, initializer_range=0.02):
        super().__init__()
        self.dropout_prob, self.noisy_gating = dropout_prob, noisy_gating
        self.weight = nn.Parameter(torch.randn(n_exps, hidden_size, plm_size) * initializer_range)
        self.bias = nn.Parameter(torch.zeros(n_exps, plm_size))
        self.w_gate = nn.Parameter(torch.zeros(plm_size, n_exps))
        self.w_noise = nn.Parameter(torch.zeros(plm_size, n_exps))

    def gate_values(self, x):
        """Return the gates (n, E) of features (n, D), in float32 or wider."""
        noisy = self.noisy_gating and self.training
        weight = torch.cat([self.w_gate.T, self.w_noise.T]) if noisy else self.w_gate.T.contiguous()  # (E or 2E, D)
        # a row an expert: a softmax over eight neighbours takes twenty times as long
        logits = apply_linear(x, weight.to(x.dtype)).T.contiguous().to(weight.dtype)
        if noisy:
            logits, deviation = logits.chunk(2)
            logits = logits + torch.randn_like(logits) * (F.softplus(deviation) + self.NOISE_FLOOR)
        return logits.softmax(0).T

    def forward(self, x, dtype=None):
        """Map features x (n, D) to (n, H); the products run in `dtype`, and so does what they give."""
        x = x.to(dtype or self.weight.dtype)
        with torch.autocast(x.device.type, enabled=False):
            gates = self.gate_values(x)
            shift = torch.einsum("ehd,ed->eh", self.weight, self.bias)  # (E, H)
            dropped = apply_dropout(x, self.dropout_prob, self.training)
            weight = self.weight.to(x.dtype)
            return ExpertMixture.apply(dropped, weight, shift.to(x.dtype), gates)


class MLPAdaptor(nn.Module):
    """Dropout, linear, ReLU layers from text features to item vectors, the last one linear.

    Source: the SASRec (Text) baseline of arXiv:2403.03952, section 4.2.
    """

    def __init__(self, sizes, dropout_prob, initializer_range=0.02):
        super().__init__()
        self.dropout_prob = dropout_prob
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.apply(lambda module: init_weights(module, initializer_range))

    def forward(self, x, dtype=None):
        """Map features x (n, D) to (n, H); the products run in `dtype`, and so does what they give."""
        dtype = dtype or self.layers[0].weight.dtype
        x = x.to(dtype)
        with torch.autocast(x.device.type, enabled=False):
            for i, layer in enumerate(self.layers):
                x = apply_dropout(F.relu(x) if i else x, self.dropout_prob, self.training)
                x = apply_linear(x, layer.weight.to(dtype), layer.bias.to(dtype))
        return x
