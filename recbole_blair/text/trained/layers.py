"""Which layers of a transformer are trained, and how what lies below them is left out of the steps."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from recbole_blair.errors import InputError, require

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

    from recbole_blair.text.text_model import TextModel
    from recbole_blair.text.trained.choice import EncoderTraining

LORA_ALPHA = 2  # times the rank: the update B A is scaled by alpha / rank, so its size does not hang on the rank
ALIKE = 1e-3  # largest difference, relative to the vectors' size, between the whole encoder and the cut one


class _Reached(Exception):
    """Carries the states that come to a layer out of the forward pass."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


class _GivenStates(nn.Module):
    """Stands where the embeddings were and returns the states it is given as `inputs_embeds`."""

    def forward(self, *args: object, inputs_embeds: Tensor | None = None, **_: object) -> Tensor:
        if inputs_embeds is not None:
            return inputs_embeds
        return next(x for x in args if isinstance(x, Tensor) and x.is_floating_point())


def find_layers(transformer: PreTrainedModel) -> nn.ModuleList:
    """Return a transformer's list of layers, lowest first.

    Raises:
        InputError: there is no such list, as in an encoder whose layers share their weights.
    """
    depth = getattr(transformer.config.get_text_config(), "num_hidden_layers", 0)
    lists = [module for module in transformer.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if not depth or not lists:
        raise InputError(
            "train_encoder=last:K needs an encoder with a list of layers (bert, roberta, mpnet, modernbert, …), "
            f"which a {transformer.config.model_type} model does not have; use lora:8 or full"
        )
    return lists[0]


def first_trained_layer(transformer: PreTrainedModel, training: EncoderTraining) -> int | None:
    """Return the number of the lowest trained layer of `last:K`; None where the token ids come in.

    Raises:
        InputError: the encoder has no more than K layers.
    """
    if training.kind != "last":
        return None
    depth = len(find_layers(transformer))
    if training.amount > depth:
        raise InputError(f"train_encoder={training}, but the encoder has {depth} layers; give last:{depth} or less")
    return depth - training.amount


@torch.no_grad()
def encode_below(model: TextModel, ids: Tensor, lengths: Tensor, number: int) -> Tensor:
    """Return the states (B, T, H) that come to layer `number` for padded ids (B, T); the layers above do not run."""

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args[0] if args else kwargs["hidden_states"])

    handle = find_layers(model.transformer)[number].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        model.token_states(ids, lengths)
    except _Reached as reached:
        return reached.states
    finally:
        handle.remove()
    raise AssertionError("a layer that is not run")


def cut_below(model: TextModel, ids: Tensor, lengths: Tensor, number: int) -> nn.ModuleList:
    """Take the embeddings and the layers below `number` out of a model, which then takes `encode_below`'s states.

    Args:
        ids (B, T), lengths (B,): a few texts, on which the cut model must give what the whole one gives.

    Returns:
        The layers that are left.

    Raises:
        InputError: it does not, since the architecture passes more than states from layer to layer.
    """
    with torch.no_grad(), without_dropout(model):
        whole, states = model(ids, lengths), encode_below(model, ids, lengths, number)
        layers = find_layers(model.transformer)
        kept = nn.ModuleList(list(layers)[number:])
        for parent in model.transformer.modules():
            for name, child in parent.named_children():
                if child is layers:
                    setattr(parent, name, kept)
        if isinstance(getattr(model.transformer, "embeddings", None), nn.Module):
            model.transformer.embeddings = _GivenStates()
        try:
            error = (model(states, lengths) - whole).abs().max() / whole.abs().max().clamp_min(1e-30)
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError):
            error = torch.tensor(float("inf"))
    if not error < ALIKE:
        raise InputError(
            f"a {model.transformer.config.model_type} model does not run from the states between its layers, which "
            "train_encoder=last:K needs; use lora:8 or full"
        )
    return kept


@contextlib.contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Run the block in evaluation mode."""
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


def choose_trained(model: TextModel, training: EncoderTraining, layers: nn.ModuleList | None) -> None:
    """Let gradients reach the weights that are trained; for LoRA, add them.

    Args:
        model: for `last`, already cut below the first trained layer.
        layers: what `cut_below` left, for `last`.
    """
    drop_pooler(model.transformer)
    model.requires_grad_(False)
    if training.kind == "lora":
        add_lora(model, training.amount)
    elif training.kind == "full":
        model.transformer.requires_grad_(True)
    else:
        assert layers is not None
        layers.requires_grad_(True)


def drop_pooler(transformer: PreTrainedModel) -> None:
    """Take out BERT's pooler, which no vector here goes through."""
    if getattr(transformer, "pooler", None) is not None:
        transformer.pooler = None  # type: ignore[assignment]  # as transformers itself does


def add_lora(model: TextModel, rank: int) -> None:
    """Put low-rank updates on every linear layer of the transformer: W x + (alpha / rank) B A x, with B = 0 at first.

    Raises:
        InputError: peft is not installed.

    Source: arXiv:2106.09685, section 4.1.
    """
    model.transformer = cast("PreTrainedModel", lora_model(model.transformer, rank))


def lora_model(transformer: PreTrainedModel, rank: int) -> nn.Module:
    """Return a transformer with low-rank updates; see `add_lora`."""
    require(f"train_encoder=lora:{rank}", "peft")
    from peft import LoraConfig, get_peft_model  # heavy, and an extra

    wanted = LoraConfig(r=rank, lora_alpha=LORA_ALPHA * rank, lora_dropout=0.0, target_modules="all-linear")
    return get_peft_model(transformer, wanted)


def merge_into(transformer: PreTrainedModel, trained: TextModel, training: EncoderTraining) -> PreTrainedModel:
    """Return a fresh, whole transformer with the trained weights in it.

    Args:
        transformer: the encoder that training started from.
        trained: the model as `choose_trained` left it, trained.
    """
    drop_pooler(transformer)
    state = {name: value.detach().cpu() for name, value in trained.transformer.state_dict().items()}
    if training.kind == "full":
        transformer.load_state_dict(state)
        return transformer
    if training.kind == "lora":
        wrapped = lora_model(transformer, training.amount)
        wrapped.load_state_dict(state)
        return cast("PreTrainedModel", wrapped.merge_and_unload())  # type: ignore[operator]  # peft's
    names = [name for name, value in trained.transformer.named_parameters() if value.requires_grad]
    layers = find_layers(transformer)
    own = next(name for name, module in transformer.named_modules() if module is layers)
    for number, layer in enumerate(list(layers)[len(layers) - training.amount :]):
        prefix = f"{own}.{number}."
        layer.load_state_dict({name.removeprefix(prefix): state[name] for name in names if name.startswith(prefix)})
    return transformer
