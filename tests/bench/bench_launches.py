"""How many operations does one training step dispatch on a GPU, HSTU's against its padded form, UniSRecBlair's?

A GPU that is given small kernels waits for Python to launch them, so their number is what such a step costs. It is
counted on any machine: the tensors hold their numbers in memory and report `--device_class` as their device, so that
the code takes that device's ways and its sizes of chunks and groups. Forward, backward and the fused optimizer count;
views and allocations are listed apart, since they launch nothing.
Usage: `python tests/bench/bench_launches.py`; `--checkout=DIR` counts those of another checkout of this repository.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = next((Path(x.split("=", 1)[1]) for x in sys.argv if x.startswith("--checkout=")), HERE.parents[1]).resolve()
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests" / "bench")]

import bench_hstu
import bench_training_step
import measure
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map, tree_map_only

from recbole_blair import compat

# The host waits for a GPU where it must know a value or the size of a result.
WAITS = {"_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "bincount", "masked_select"}
PYTHON_ONLY = {"_record_function_enter_new", "_record_function_exit", "promote_types"}
ALLOCATIONS = {
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "detach",
    "resize_",
    "_unsafe_view",
}
UNISREC = {"n_items": 115_816, "batch": 2048, "width": 32}  # Games, its default batch; the width changes no count


class Counted(Tensor):
    """A tensor that reports another device than it lies on, and counts what is done with it."""

    device_class, count = "cuda", Counter()

    @staticmethod
    def __new__(cls, inner: Tensor) -> Counted:
        return Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=inner.device,
        )  # fmt: skip

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @property
    def device(self) -> torch.device:
        return torch.device(self.device_class)

    def tolist(self) -> list:
        self.count["tolist (wait)"] += 1
        return self.inner.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return dispatch(func, args, kwargs or {})


def dispatch(func: Any, args: tuple, kwargs: dict) -> Any:
    """Run one operation on the tensors inside and wrap what it gives; what is changed in place stays itself."""
    wrapped = {}

    def unwrap(x: Any) -> Any:
        if isinstance(x, Counted):
            wrapped[id(x.inner)] = x
            return x.inner
        return torch.device("cpu") if isinstance(x, torch.device) else x

    inner_args, inner_kwargs = tree_map(unwrap, args), tree_map(unwrap, kwargs)
    out = func(*inner_args, **inner_kwargs)
    return tree_map_only(Tensor, lambda x: wrapped[id(x)] if id(x) in wrapped else Counted(x), out)


class CountedStep(TorchDispatchMode):
    """Counts the operations, by name."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func._schema.name.split("::")[1] not in PYTHON_ONLY:
            Counted.count[label(func, args)] += 1
        return dispatch(func, args, kwargs or {})


def label(func: Any, args: tuple) -> str:
    """The name of an operation, and whether it launches nothing or makes the host wait."""
    name = func._schema.name.split("::")[1]
    outputs = func._schema.returns
    views = [x for x in outputs if x.alias_info is not None and not x.alias_info.is_write]
    masked = name == "index" and any(x is not None and x.dtype == torch.bool for x in args[1])
    if name in WAITS or masked:
        return f"{name} (wait)"
    return f"{name} (no launch)" if views or name in ALLOCATIONS else name


class OneAttention(torch.autograd.Function):
    """PyTorch's attention as a GPU has it: one operation each way, whether it drops or not."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        Counted.count["scaled_dot_product_attention"] += 1
        q, k, v, mask, causal = (x.inner if isinstance(x, Counted) else x for x in args)
        ctx.save_for_backward(*args[:3])
        with torch.utils._python_dispatch._disable_current_modes():
            return Counted(torch._C._nn.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        Counted.count["scaled_dot_product_attention_backward"] += 1
        with torch.utils._python_dispatch._disable_current_modes():
            return (*(Counted(torch.zeros_like(x.inner)) for x in ctx.saved_tensors), None, None)


def take_gpu_ways() -> None:
    """What PyTorch's own C++ code chooses by device: a GPU's dropout and attention are one operation each way."""
    F.dropout = lambda x, p=0.5, training=True, inplace=False: torch.native_dropout(x, p, True)[0] if training else x
    F.scaled_dot_product_attention = lambda q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False: OneAttention.apply(
        q, k, v, attn_mask, is_causal
    )
    torch.cuda._lazy_init = lambda: None  # `device=` names a GPU, and none need be here


def count_step(module: nn.Module, batch: Any) -> Counter:
    """The operations of one training step, after one that creates the optimizer's state."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    module._apply(Counted)
    trained = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    for name, value in batch.interaction.items():
        batch.interaction[name] = Counted(value)
    module.train()
    with CountedStep():
        for _ in range(2):
            Counted.count = Counter()
            optimizer.zero_grad(set_to_none=True)
            module.calculate_loss(batch).backward()
            optimizer.step()
    return Counted.count


def hstu(case: str) -> tuple[nn.Module, Any]:
    """HSTU with its defaults, and a batch of sequences."""
    sizes = bench_hstu.CASES[case]
    return bench_hstu.make_model(sizes, "fp32", "cpu"), bench_hstu.make_batch(sizes, "cpu")


def unisrec() -> tuple[nn.Module, Any]:
    """UniSRecBlair with its defaults, and a batch of rows."""
    dataset = bench_training_step.FakeDataset(UNISREC["n_items"], UNISREC["width"])
    model, _ = bench_training_step.make_model(dataset, "fp32", "cpu")
    return model, bench_training_step.make_batch(UNISREC["n_items"], UNISREC["batch"])


def report(case: str, count: Counter, listed: bool) -> None:
    """Print one JSON line, and the operations by name where they are asked for."""
    silent = sum(n for name, n in count.items() if name.endswith("(no launch)"))
    waits = sum(n for name, n in count.items() if name.endswith("(wait)"))
    total = sum(count.values())
    measure.emit(case, dispatched=total, launched=total - silent, waits=waits, device_class=Counted.device_class)
    if listed:
        print("\n".join(f"  {n:5} {name}" for name, n in count.most_common()))


def main() -> None:
    """Count the asked steps."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkout", default=str(CHECKOUT), help="of the code that is counted")
    parser.add_argument("--device_class", default="cuda", choices=("cuda", "cpu"), help="whose ways and sizes")
    parser.add_argument("--only", default="", help="part of a step's name: hstu, hstu_padded, unisrec")
    parser.add_argument("--items", type=int, default=UNISREC["n_items"], help="of UniSRecBlair")
    parser.add_argument("--list", action="store_true", help="every operation by name")
    args = parser.parse_args()
    compat.apply()
    Counted.device_class, UNISREC["n_items"] = args.device_class, args.items
    if args.device_class == "cuda":
        take_gpu_ways()
    for name in ("hstu", "hstu_padded", "unisrec"):
        if args.only in name:
            module, batch = hstu("games") if name.startswith("hstu") else unisrec()
            module = bench_hstu.NaiveStep(module) if name == "hstu_padded" else module
            report(name, count_step(module, batch), args.list)


if __name__ == "__main__":
    main()
