"""Matrix products: on the CPU by the library that is fastest there."""

import functools
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

CPU_INFO = Path("/proc/cpuinfo")


@functools.cache
def has_onednn():
    """True where PyTorch has oneDNN, its product with bias and activation, and the packing of weights.

    Neither operator has a public name.
    """
    operators = ("_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in operators)


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


def products_with(weight, bias):
    """Return what maps x (n, k) to x @ weight (m, k) transposed + bias (m,): many products, the weight arranged once.

    Without a gradient, and with the bits of `biased_product`.
    """
    if not fuses(weight, bias) or not weight.numel():
        return lambda x: biased_product(x, weight.T, bias)
    arranged = packed(weight)
    return lambda x: onednn_linear(x, arranged, bias)


def sigmoid_product(a, b, bias):
    """The sigmoid of a (n, k) @ b (k, m) + bias (m,), taken of the sums before they are rounded; where it `fuses`."""
    return onednn_product(a, b, bias, "sigmoid")


def onednn_product(a, b, bias=None, activation="none"):
    """a @ b by oneDNN, which takes b in either layout and copies an a whose columns lie together."""
    return onednn_linear(a, b.T, bias, activation)


def onednn_linear(x, weight, bias=None, activation="none"):
    """activation(x (…, k) @ weight (m, k) transposed + bias) by oneDNN; the weight may be `packed`."""
    form = "none" if activation == "gelu" else ""  # the exact one
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], form)


def packed(weight):
    """Copy a weight (m, k) into the layout that oneDNN's products read: they need not arrange it anew at every call.

    The results have the same bits. It has no strides, so nothing else takes it; `to_dense` gives the weight back.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


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
    with_gradient = torch.is_grad_enabled()
    ours = goes_to_onednn if with_gradient else fuses
    if torch.is_autocast_enabled(x.device.type) or not ours(x, weight):
        return F.linear(x, weight, bias)
    rows = x.reshape(-1, x.shape[-1])
    found = LinearProduct.apply(rows, weight, bias) if with_gradient else biased_product(rows, weight.T, bias)
    return found.view(*x.shape[:-1], -1)


class Linear(nn.Linear):
    """`nn.Linear` whose products on the CPU are `product`'s."""

    def forward(self, x):
        return linear(x, self.weight, self.bias)


class PackedLinear(nn.Linear):
    """A `nn.Linear`, and a GELU where `activation` says so, that is done with learning and stays on the CPU.

    It holds its weight in oneDNN's layout alone; who reads `weight` gets a copy, and `state_dict` lacks it.
    """

    activation = "none"

    @property
    def weight(self):
        return self.packed.to_dense()

    def forward(self, x):
        return onednn_linear(x, self.packed, self.bias, self.activation)


def use_products(model):
    """Pack every plain `nn.Linear` of a transformers encoder on the CPU for oneDNN, for use without gradients.

    BERT and its like keep a linear layer and its activation side by side: an exact GELU becomes part of the product.
    Where oneDNN does not take the products nothing changes.
    """
    for module in list(model.modules()):
        activation, inner = getattr(module, "intermediate_act_fn", None), getattr(module, "dense", None)
        if is_exact_gelu(activation) and pack(inner):
            inner.activation = "gelu"
            module.intermediate_act_fn = nn.Identity()
        pack(module)


def pack(module):
    """Turn a plain `nn.Linear` into a `PackedLinear` where oneDNN takes its product; returns whether it did."""
    if type(module) is not nn.Linear or not module.weight.numel() or not fuses(module.weight):
        return False
    weight = packed(module.weight)
    del module.weight
    module.register_buffer("packed", weight, persistent=False)
    module.__class__ = PackedLinear
    return True


def is_exact_gelu(activation):
    """True for PyTorch's exact GELU, or the module of transformers that calls it."""
    return getattr(activation, "act", activation) is F.gelu
