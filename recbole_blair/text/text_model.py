"""The network of an encoder: a transformer, the pooling of its states, and the modules after it."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from recbole_blair.errors import InputError, how_to_install
from recbole_blair.files.own_json import read_own_json
from recbole_blair.text.hub import first_line
from recbole_blair.text.layout import Head, Layout
from recbole_blair.text.pooling import OWN_POOLINGS, pool
from recbole_blair.text.weights import weight_files

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TextModel(nn.Module):
    """token ids -> token states -> one vector per text.

    Args:
        transformer: a transformers model that gives `last_hidden_state`.
        poolings: modes; those that are joined stand side by side in the vector.
        heads: modules after the pooling, sentence-transformers' own; where `whole` is set they pool, too.
        normalise: whether a vector of length 1 ends the chain.
        whole: whether `heads` begin with sentence-transformers' Pooling.
    """

    def __init__(
        self,
        transformer: PreTrainedModel,
        poolings: tuple[str, ...],
        heads: nn.ModuleList,
        normalise: bool = False,
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.transformer, self.poolings, self.heads = transformer, poolings, heads
        self.normalise, self.whole = normalise, whole
        self.n_parameters = sum(weight.numel() for weight in self.parameters())  # before products are packed

    def forward(self, inputs: Tensor, lengths: Tensor, padded: bool = True, prompt_tokens: int = 0) -> Tensor:
        """Encode right-padded texts.

        Args:
            inputs: token ids (B, T) int64, or states (B, T, H) for a transformer without its lowest layers.
            lengths: (B,) int64, tokens of each text; positions from `lengths` on are padding.
            padded: whether any text is shorter than T.
            prompt_tokens: tokens at the beginning that belong to the prompt, for poolings that leave them out.

        Returns:
            (B, D) float32; float64 stays float64.
        """
        states = self.token_states(inputs, lengths, padded)  # (B, T, H)
        if not self.whole:
            vectors = pool(states, lengths, self.poolings[0])  # (B, H)
            return nn.functional.normalize(vectors, dim=1) if self.normalise else vectors
        mask = (torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]).long()  # (B, T)
        features = {"token_embeddings": states.float(), "attention_mask": mask, "prompt_length": prompt_tokens}
        for head in self.heads:
            features = head(features)
        vectors = cast(Tensor, features["sentence_embedding"])  # (B, D)
        return vectors.float()

    def token_states(self, inputs: Tensor, lengths: Tensor, padded: bool = True) -> Tensor:
        """Return the transformer's last hidden states, (B, T, H); arguments as of `forward`."""
        mask = (torch.arange(inputs.shape[1], device=inputs.device) < lengths[:, None]).long()  # (B, T)
        name = "inputs_embeds" if inputs.is_floating_point() else "input_ids"
        # no padding, no mask: the faster attention
        output = self.transformer(**{name: inputs}, attention_mask=mask if padded else None)
        states: Tensor = output.last_hidden_state
        return states

    @property
    def width(self) -> int:
        """Return the numbers per vector, D."""
        width = int(self.transformer.config.get_text_config().hidden_size) * len(self.poolings)
        for head in self.heads:
            width = getattr(head, "out_features", width)
        return width


def load_text_model(
    layout: Layout, precision: str, poolings: tuple[str, ...]
) -> tuple[TextModel, PreTrainedTokenizerBase]:
    """Load the network and the tokenizer of one side of a model folder.

    Args:
        layout: of the folder.
        precision: `fp32`, `bf16` or `fp16`: what the transformer's weights load in; the modules after it take float32.
        poolings: instead of what the layout declares; empty: as declared, else by the kind of model.

    Raises:
        InputError: no model there, one that needs code of its own, or one whose weights are not whole.
    """
    transformer, tokenizer = load_transformer(layout.backbone, precision)
    poolings = poolings or layout.poolings or (default_pooling(transformer, tokenizer),)
    declared = next((head.config for head in layout.heads if head.kind == "Pooling"), {})
    rest = [head for head in layout.heads if head.kind not in ("Pooling", "Dropout")]
    own = len(poolings) == 1 and poolings[0] in OWN_POOLINGS and declared.get("include_prompt", True)
    if own and all(head.kind == "Normalize" and not _has_inputs(head) for head in rest):
        model = TextModel(transformer, poolings, nn.ModuleList(), normalise=bool(rest))
    else:
        heads = _load_heads(layout, transformer, poolings, declared.get("include_prompt", True))
        model = TextModel(transformer, poolings, heads, whole=True)
    if layout.transformer.get("do_lower_case"):
        _lower_case(tokenizer)
    return model.eval().requires_grad_(False), tokenizer


def default_pooling(transformer: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the pooling of a model that declares none: decoders have seen a text whole only at its last token."""
    if is_decoder(transformer):
        return "lasttoken"
    return "cls" if tokenizer.cls_token_id is not None else "mean"  # T5 has no [CLS]


def is_decoder(model: PreTrainedModel) -> bool:
    """Tell whether a token sees the tokens before it alone."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM  # heavy

    told = [module.is_causal for module in model.modules() if isinstance(getattr(module, "is_causal", None), bool)]
    if told:
        return any(told)
    kind = type(model.config)
    return kind in AutoModelForCausalLM._model_mapping and kind not in AutoModelForMaskedLM._model_mapping


def load_transformer(folder: Path, precision: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load model (its encoder half, if it has two) and tokenizer from a folder, or say what is wrong with it."""
    # heavy: transformers
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
    from transformers.utils import logging

    weight_files(folder)
    _check_architecture(folder)
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()  # what is missing is looked at below; heads that are not read are no news
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, **local)
        # T5 and its like: the encoder half; the rest as they are, also BART, whose states are its decoder's.
        halves = type(config) in AutoModelForTextEncoding._model_mapping
        auto = AutoModelForTextEncoding if halves else AutoModel
        # Weights load in their final precision: a model of 7 billion weights would take 28 GB in float32.
        model, info = auto.from_pretrained(
            folder, config=config, dtype=DTYPES[precision], output_loading_info=True, **local
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{folder} could not be loaded as a Hugging Face encoder ({type(error).__name__}: {first_line(error)}); it "
            "needs config.json, weights and tokenizer files as save_pretrained writes them"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(
            f"the weights in {folder} lack {len(missing)} of the model's tensors (first: {missing[0]}), which would "
            "stay random; give a folder with the whole encoder"
        )
    return model, tokenizer


BUILT_IN = (
    "eurobert",
    "gte",
    "jina_embeddings_v3",
    "nomic_bert",
)  # first known from repositories with code of their own
BUILT_IN_BY = "5.23"  # a release of transformers that has them


def _check_architecture(folder: Path) -> None:
    """Refuse a model that this transformers does not have: its repository's own code is never run."""
    import transformers  # heavy

    config = read_own_json(folder / "config.json", "an encoder's configuration", "download or save the encoder again")
    kind = config.get("model_type")
    if not kind or kind in transformers.CONFIG_MAPPING:
        if "AutoModel" in (config.get("auto_map") or {}):
            warnings.warn(
                f"{folder.name} brings code of its own, which is never run: transformers' own {kind} model takes its "
                "place. If the model's card says that the code changes the attention, these are other vectors",
                stacklevel=2,
            )
        return
    own = "brings code of its own, which is never run, and " if config.get("auto_map") else ""
    since = f"{BUILT_IN_BY} has it, install that" if kind in BUILT_IN else "a newer release may have it, install that"
    raise InputError(
        f"{folder} {own}is a {kind} model, which transformers {transformers.__version__} does not have built in; "
        f"{since}, or take another encoder"
    )


def _has_inputs(head: Head) -> bool:
    """Tell whether a module reads or writes anything but the text's vector."""
    names = (head.config.get(key) or "sentence_embedding" for key in ("module_input_name", "module_output_name"))
    return any(name != "sentence_embedding" for name in names)


def _load_heads(
    layout: Layout, transformer: PreTrainedModel, poolings: tuple[str, ...], include_prompt: bool
) -> nn.ModuleList:
    """Load the modules after the transformer with sentence-transformers' own classes.

    Raises:
        InputError: the library is not installed, or a module does not load.
    """
    try:
        library = _import_modules()
    except ImportError:
        kinds = ", ".join(dict.fromkeys(head.kind for head in layout.heads)) or "Pooling"
        raise InputError(
            f"{layout.folder} has the modules {kinds} (pooling {'+'.join(poolings)}), which sentence-transformers "
            f"computes: {how_to_install('sentence_transformers')}"
        ) from None
    hidden = int(transformer.config.get_text_config().hidden_size)
    pooling = library.Pooling(hidden, list(poolings), include_prompt=include_prompt)
    heads = nn.ModuleList()
    for head in layout.heads or (Head("Pooling", "", {}),):
        if head.kind == "Pooling":
            heads.append(pooling)
            continue
        _check_activation(layout.folder / head.place, head)
        try:
            loaded = getattr(library, head.kind).load(str(layout.folder), subfolder=head.place, local_files_only=True)
        except Exception as error:
            raise InputError(
                f"{layout.folder / head.place} could not be loaded as {head.kind} ({type(error).__name__}: "
                f"{first_line(error)}); download or save the encoder again"
            ) from error
        heads.append(loaded.float())
    return heads


def _import_modules() -> ModuleType:
    """Import sentence-transformers' modules from where its release has them; heavy, an extra."""
    with contextlib.suppress(ModuleNotFoundError):
        return importlib.import_module("sentence_transformers.sentence_transformer.modules")
    return importlib.import_module("sentence_transformers.models")


def _check_activation(place: Path, head: Head) -> None:
    """Refuse an activation that is not PyTorch's: the library would put Tanh in its place."""
    name = head.config.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not str(name).startswith("torch."):
        raise InputError(f"{place} takes the activation {name}, which is none of PyTorch's; take another encoder")


def _lower_case(tokenizer: PreTrainedTokenizerBase) -> None:
    """Put lower-casing before a fast tokenizer's own normaliser, as sentence-transformers does."""
    from tokenizers.normalizers import Lowercase, Sequence  # heavy

    backend = tokenizer.backend_tokenizer
    backend.normalizer = Sequence([Lowercase(), *([backend.normalizer] if backend.normalizer else [])])
