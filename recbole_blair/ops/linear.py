"""Matrix products: on the CPU by the library that is fastest there. PyTorch's private mkldnn operators stay here."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recbole_blair.ops import plain
from recbole_blair.ops.switch import fast_form_of, plain_ops

CPU_INFO = Path("/proc/cpuinfo")
FEW_ROWS = 64  # products of up to so many rows cost oneDNN more to arrange the weight than MKL to compute


@functools.cache
def has_onednn() -> bool:
    """True where PyTorch has oneDNN, its product with bias and activation, and its packing of weights.

    Neither operator has a public name.
    """
    operators = ("_linear_pointwise", "_reorder_linear_weight")
    return torch.backends.mkldnn.is_available() and all(hasattr(torch.ops.mkldnn, name) for name in operators)


@functools.cache
def prefers_onednn() -> bool:
    """True on AMD's processors, where PyTorch's default for float32, MKL, is slower than oneDNN by about a tenth.

    A fixed rule, not a measurement at run time: the two differ in the last bits, and a resumed run must take the one
    that it began with.
    """
    return (
        has_onednn()
        and torch.backends.mkl.is_available()
        and CPU_INFO.exists()
        and "AuthenticAMD" in CPU_INFO.read_text()
    )


def takes_onednn(*tensors: Tensor) -> bool:
    """True where oneDNN's operators are worth calling for a product of these tensors, outside of a compiled graph.

    On the CPU: float32 where the processor `prefers_onednn`; bfloat16 where it has units for that (PyTorch's own
    products of bfloat16 are oneDNN's, too: what is gained is the bias, the activation and the packed weight).
    """
    if torch.compiler.is_compiling() or any(x.device.type != "cpu" for x in tensors):
        return False
    dtypes = {x.dtype for x in tensors}
    if dtypes == {torch.bfloat16}:
        return has_onednn() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtypes == {torch.float32} and prefers_onednn()


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """a (n, k) @ b (k, m), (n, m), without a gradient; into `out` where it is given."""
    if plain_ops() or a.dtype != torch.float32 or not a.shape[1] or not takes_onednn(a, b):
        return torch.mm(a, b, out=out)
    if not a.is_contiguous() and b.numel() < a.numel():  # oneDNN would copy a: turn the product around
        result = onednn_linear(b.T, a).T
    else:
        result = onednn_linear(a, b.T)
    return result if out is None else out.copy_(result)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to `total`, which may be of a wider dtype."""
    if total.dtype == a.dtype and not takes_onednn(a, b):
        total.addmm_(a, b)
    else:
        total += product(a, b)


def linear_with(weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """Return what maps x (n, k) to x @ weight (m, k) transposed + bias (m,): many products, the weight packed once."""
    if not weight.numel() or not takes_onednn(weight, bias):
        return lambda x: torch.addmm(bias, x, weight.T)
    packed = pack_weight(weight)
    return lambda x: onednn_linear(x, packed, bias)


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """activation(x (…, k) @ weight (m, k) transposed + bias) by oneDNN; the weight may be of `pack_weight`.

    It takes weights in either layout, and copies an x whose columns do not lie together.
    """
    form = "none" if activation == "gelu" else ""  # the exact one
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], form)


def pack_weight(weight: Tensor) -> Tensor:
    """Copy a weight (m, k) into the layout that oneDNN's products read: they need not arrange it anew at every call.

    The results have the same bits. It has no strides, so nothing else takes it; `to_dense` gives the weight back.
    """
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach())


class LinearProduct(torch.autograd.Function):
    """x (n, k) @ weight (m, k) transposed + bias (m,) | None, all three products by oneDNN in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return onednn_linear(x, weight, bias) if x.shape[1] else F.linear(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad_x = product(grad, weight) if ctx.needs_input_grad[0] else None
        return grad_x, product(grad.T, x), grad.sum(0) if ctx.needs_input_grad[2] else None


@fast_form_of(plain.apply_linear)
def apply_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (…, k) @ weight (m, k) transposed + bias (m,) | None: (…, m)."""
    few = not torch.is_grad_enabled() and x.numel() <= FEW_ROWS * weight.shape[1]  # answers to single requests
    if few or torch.is_autocast_enabled(x.device.type) or x.dtype != torch.float32 or not takes_onednn(x, weight):
        return F.linear(x, weight, bias)
    return LinearProduct.apply(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])


class Linear(nn.Linear):
    """`nn.Linear` by `apply_linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return apply_linear(x, self.weight, self.bias)


class PackedLinear(nn.Linear):
    """A `nn.Linear`, and a GELU where `activation` says so, that is done with learning and stays on the CPU.

    It holds its weight in oneDNN's layout alone; who reads `weight` gets a copy, and `state_dict` lacks it.
    """

    activation = "none"
    packed: Tensor

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return self.packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        return onednn_linear(x, self.packed, self.bias, self.activation)


def pack_encoder(model: nn.Module) -> None:
    """Pack every plain `nn.Linear` of a transformers encoder on the CPU for oneDNN, for use without gradients.

    BERT and its like keep a linear layer and its activation side by side: an exact GELU becomes part of the product.
    Where oneDNN does not take the products, and under `use_ops("plain")`, nothing changes.
    """
    if plain_ops():
        return
    for module in list(model.modules()):
        activation, inner = getattr(module, "intermediate_act_fn", None), getattr(module, "dense", None)
        if is_exact_gelu(activation) and pack(inner, "gelu"):
            module.intermediate_act_fn = nn.Identity()
        pack(module)


def pack(module: object, activation: str = "none") -> bool:
    """Turn a plain `nn.Linear` into a `PackedLinear` where oneDNN takes its product; returns whether it did."""
    if type(module) is not nn.Linear or not module.weight.numel() or not takes_onednn(module.weight):
        return False
    weight = pack_weight(module.weight)
    del module.weight
    module.register_buffer("packed", weight, persistent=False)
    module.__class__ = PackedLinear
    cast(PackedLinear, module).activation = activation
    return True


def is_exact_gelu(activation: object) -> bool:
    """True for PyTorch's exact GELU, or the module of transformers that calls it."""
    return getattr(activation, "act", activation) is F.gelu
