"""Matrix products: on the CPU by the library that is fastest there."""

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def has_onednn():
    """True where PyTorch has oneDNN and its product with bias and activation, an operator without a public name."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@functools.cache
def by_onednn():
    """True where float32 products go to oneDNN instead of PyTorch's default, MKL: on AMD's processors.

    MKL is slower there by about a tenth (tests/bench/bench_products.py).
    A fixed rule, not a measurement at run time: the two differ in the last bits, and a resumed run must take the one
    that it began with.
    """
    return (
        has_onednn()
        and torch.backends.mkl.is_available()
        and CPU_INFO.exists()
        and "AuthenticAMD" in CPU_INFO.read_text()
    )


def goes_to_onednn(*tensors):
    """True for float32 tensors on such a CPU, outside of a compiled graph."""
    if torch.compiler.is_compiling():
        return False
    return all(x.dtype == torch.float32 and x.device.type == "cpu" for x in tensors) and by_onednn()


def fuses(*tensors):
    """True where a bias and an activation cost no pass over the product of these tensors, float32 or bfloat16."""
    if not all(x.dtype == torch.bfloat16 and x.device.type == "cpu" for x in tensors):
        return goes_to_onednn(*tensors)
    return not torch.compiler.is_compiling() and has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def product(a, b, out=None):
    """a (n, k) @ b (k, m), (n, m), without a gradient; into `out` where it is given."""
    if not goes_to_onednn(a, b) or not a.shape[1]:
        return torch.mm(a, b, out=out)
    if not a.is_contiguous() and b.numel() < a.numel():  # oneDNN would copy a: turn the product around
        found = onednn_product(b.T, a.T).T
    else:
        found = onednn_product(a, b)
    return found if out is None else out.copy_(found)


def biased_product(a, b, bias):
    """a (n, k) @ b (k, m) + bias (m,) | None, without a gradient."""
    if bias is None:
        return product(a, b)
    if not fuses(a, b, bias) or not a.shape[1]:
        return torch.addmm(bias, a, b)
    return onednn_product(a, b, bias)


def sigmoid_product(a, b, bias):
    """The sigmoid of a (n, k) @ b (k, m) + bias (m,), taken of the sums before they are rounded; where it `fuses`."""
    return onednn_product(a, b, bias, "sigmoid")


def onednn_product(a, b, bias=None, activation="none"):
    """a @ b by oneDNN, which takes b in either layout and copies an a whose columns lie together."""
    form = "none" if activation == "gelu" else ""  # the exact one
    return torch.ops.mkldnn._linear_pointwise(a, b.T, bias, activation, [], form)


def add_product(total, a, b):
    """Add a @ b to `total`, which may be of a wider dtype."""
    if total.dtype == a.dtype and not goes_to_onednn(a, b):
        total.addmm_(a, b)
    else:
        total += product(a, b)


class LinearProduct(torch.autograd.Function):
    """x (n, k) @ weight (m, k) transposed + bias (m,) | None, all three products as `product` takes them."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return biased_product(x, weight.T, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        grad_x = product(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_x, product(grad.T, x), grad.sum(0) if ctx.needs_input_grad[2] else None


def linear(x, weight, bias=None):
    """x (…, k) @ weight (m, k) transposed + bias (m,) | None: (…, m)."""
    ours = goes_to_onednn if torch.is_grad_enabled() else fuses
    if torch.is_autocast_enabled(x.device.type) or not ours(x, weight):
        return F.linear(x, weight, bias)
    return LinearProduct.apply(x.reshape(-1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """`nn.Linear` whose products on the CPU are `product`'s."""

    def forward(self, x):
        return linear(x, self.weight, self.bias)


class GeluLinear(nn.Linear):
    """`nn.Linear` and GELU, on the CPU in one pass where no gradient is wanted."""

    def forward(self, x):
        if torch.is_grad_enabled() or not fuses(x, self.weight, self.bias):
            return F.gelu(super().forward(x))
        found = onednn_product(x.reshape(-1, x.shape[-1]), self.weight.T, self.bias, "gelu")
        return found.view(*x.shape[:-1], -1)


def use_products(model):
    """Let every plain `nn.Linear` of a transformers encoder take its products from here, for use without gradients.

    BERT and its like keep a linear layer and its activation side by side: an exact GELU becomes part of the product.
    """
    for module in list(model.modules()):
        if type(module) is nn.Linear:
            module.__class__ = Linear
        activation, inner = getattr(module, "intermediate_act_fn", None), getattr(module, "dense", None)
        if is_exact_gelu(activation) and isinstance(inner, nn.Linear) and inner.bias is not None:
            inner.__class__ = GeluLinear
            module.intermediate_act_fn = nn.Identity()


def is_exact_gelu(activation):
    """True for PyTorch's exact GELU, or the module of transformers that calls it."""
    return getattr(activation, "act", activation) is F.gelu
