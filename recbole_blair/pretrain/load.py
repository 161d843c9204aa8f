"""Load an encoder for training with the head its objective needs, or start one from nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from recbole_blair.errors import InputError
from recbole_blair.files.read import read_json, shown, why_no_folder
from recbole_blair.files.write import whole_folder
from recbole_blair.parallel.distributed import rank
from recbole_blair.pretrain.model import PairEncoder, TokenHead
from recbole_blair.pretrain.step import Vocabulary
from recbole_blair.text.encoders import resolve_plm
from recbole_blair.text.hub import fetch_snapshot
from recbole_blair.text.layout import read_layout
from recbole_blair.text.pooling import TRAINED_POOLINGS
from recbole_blair.text.weights import weight_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer, models
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

Loaded = tuple[PairEncoder, "PreTrainedTokenizerBase", list[str]]  # and the names of parameters that start fresh
Parts = tuple[  # body, head of the masked-language model, whole T5-like model, names of parameters that start fresh
    "PreTrainedModel", "TokenHead | None", "PreTrainedModel | None", list[str]
]  # fmt: skip

HEADS_FILE = "pretraining/heads.safetensors"  # beside the exported encoder: what its objective trained besides it
SENTINEL = "<extra_id_{}>"  # T5's span markers
N_SENTINELS = 100


def encoder_folder(plm: str, revision: str | None = None) -> Path:
    """Return the folder of `plm`: itself, or the hub's snapshot.

    Raises:
        InputError: an encoder that has no weights to train, or no such folder or id.
    """
    kind, value = resolve_plm(plm)
    if kind == "folder":
        if revision is not None:
            raise InputError(
                f"--plm_revision={revision} belongs to a hub id, but --plm={plm} is a folder; leave it out"
            )
        weight_files(value)
        return value
    if kind == "hub":
        return fetch_snapshot(value, revision, None)
    raise InputError(f"--plm={plm} has no weights to train; give a hub id or the folder of a transformer encoder")


def load_pair_encoder(
    folder: Path, *, mlm: bool, pooling: str | None = None, dense: bool = False, keep_layers: int | None = None
) -> Loaded:
    """Load weights, head and tokenizer of a folder.

    Args:
        folder: config, weights, tokenizer, as save_pretrained writes them.
        mlm: the backbone's own objective is trained, so its head is needed.
        pooling: None: the folder's own, else `cls` (`mean` for T5).
        dense: see `PairEncoder`.
        keep_layers: the first layers that are kept; None: all.

    Returns:
        The encoder, its tokenizer, and the names of parameters that start fresh.

    Raises:
        InputError: not a whole encoder, or one that has no head for `mlm`.
    """
    from transformers import AutoConfig, AutoTokenizer

    pooling = check_pooling(pooling) or declared_pooling(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        cut_layers(config, keep_layers, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with quiet_loading():
            loaded = _load_seq2seq(folder) if config.is_encoder_decoder else _load_encoder(folder, config, mlm)
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:300]
        raise InputError(
            f"{folder} could not be loaded as an encoder to train ({type(error).__name__}: {reason}); it needs "
            "config.json, weights and tokenizer files as save_pretrained writes them"
        ) from error
    body, head, denoiser, fresh = loaded
    pooling = pooling or ("cls" if tokenizer.cls_token_id is not None else "mean")
    model = PairEncoder(body, pooling, head, denoiser, dense)
    if fresh:
        known = _load_heads(model, folder)
        fresh = [name for name in fresh if name not in known]
    return model, tokenizer, fresh


def cut_layers(config: PretrainedConfig, keep: int | None, folder: Path) -> None:
    """Set the number of layers, if one is asked for.

    Raises:
        InputError: more than there are, or a model whose layers are not counted in one number.
    """
    if keep is None:
        return
    layers = getattr(config, "num_hidden_layers", None)
    if config.is_encoder_decoder or not isinstance(layers, int):
        raise InputError(f"--keep_layers={keep}: {folder} is a {config.model_type} model; expected an encoder alone")
    if keep > layers:
        raise InputError(f"--keep_layers={keep}, but {folder} has {layers} layers")
    config.num_hidden_layers = keep


def check_pooling(pooling: str | None) -> str | None:
    """Return `pooling` if it is one that is offered, or None."""
    if pooling is not None and pooling not in TRAINED_POOLINGS:
        raise InputError(f"--pooling={pooling} is not one of {', '.join(TRAINED_POOLINGS)}")
    return pooling


def declared_pooling(folder: Path) -> str | None:
    """Return the pooling that a folder declares, or None.

    Raises:
        InputError: it is none that is trained here.
    """
    poolings = read_layout(folder).poolings
    if poolings and (len(poolings) > 1 or poolings[0] not in TRAINED_POOLINGS):
        raise InputError(
            f"{folder} asks for pooling {'+'.join(poolings)}, which is not trained here; choose --pooling=cls or "
            "--pooling=mean"
        )
    return poolings[0] if poolings else None


def _load_encoder(folder: Path, config: PretrainedConfig, mlm: bool) -> Parts:
    """Load an encoder-only model; its pooler is kept as it is and not trained."""
    from transformers import AutoModel

    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "output_loading_info": True}
    body, info = AutoModel.from_pretrained(folder, config=config, **options)
    missing = sorted(info["missing_keys"])
    lost = [key for key in missing if not key.startswith("pooler.")]
    if lost:
        raise InputError(
            f"the weights in {folder} lack {len(lost)} of the encoder's tensors (first: {lost[0]}), which would stay "
            "random; give a folder with the whole encoder"
        )
    if missing and getattr(body, "pooler", None) is not None:
        body.pooler = None  # it would be random
    freeze_pooler(body)
    if not mlm:
        return body, None, None, []
    masked_lm, fresh = _load_masked_lm(folder, config)
    return body, TokenHead(masked_lm, body), None, fresh


def freeze_pooler(body: PreTrainedModel) -> None:
    """Keep the pooler out of training: no loss reaches it."""
    if getattr(body, "pooler", None) is not None:
        body.pooler.requires_grad_(False)


def _load_masked_lm(folder: Path, config: PretrainedConfig) -> tuple[PreTrainedModel, list[str]]:
    """Return (masked-language model, names of its parameters that the folder does not hold)."""
    from transformers import AutoModelForMaskedLM

    if type(config) not in AutoModelForMaskedLM._model_mapping:
        raise InputError(
            f"{folder} is a {config.model_type} model, for which transformers has no masked-language head; use "
            "--objective=contrastive"
        )
    masked_lm, info = AutoModelForMaskedLM.from_pretrained(
        folder, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    return masked_lm, sorted(info["missing_keys"])


def _load_seq2seq(folder: Path) -> Parts:
    """Load a T5-like model whole: its encoder gives the vectors, its decoder the denoising loss."""
    from transformers import AutoModelForSeq2SeqLM

    model, info = AutoModelForSeq2SeqLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    lost = sorted(info["missing_keys"])
    if lost:
        raise InputError(f"the weights in {folder} lack {len(lost)} tensors (first: {lost[0]}); give the whole model")
    return model.get_encoder(), None, model, []


def _load_heads(model: PairEncoder, folder: Path) -> set[str]:
    """Load the heads that an earlier pretraining of ours left beside its encoder; return their names."""
    from safetensors import SafetensorError  # heavy
    from safetensors.torch import load_file

    path = Path(folder) / HEADS_FILE
    if not path.is_file():
        return set()
    try:
        own, given = model.state_dict(keep_vars=True), load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is damaged ({error}); copy the encoder again, or take another --plm") from error
    fit = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    model.load_state_dict(fit, strict=False)
    filled = {id(own[name]) for name in fit}  # a shared tensor has two names
    return {name.removeprefix("token_head.masked_lm.") for name, tensor in own.items() if id(tensor) in filled}


@contextlib.contextmanager
def quiet_loading() -> Iterator[None]:
    """Keep transformers' bars and load reports off the screen: what is missing is checked and reported by us."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def read_scratch_config(config_path: Path | str) -> PretrainedConfig:
    """Return the shapes of an encoder from nothing.

    Raises:
        InputError: no config there, or one of a model that is not an encoder.
    """
    from transformers import AutoConfig, AutoModelForMaskedLM

    path = Path(config_path).expanduser()
    path = path / "config.json" if why_no_folder(path) is None else path
    expected = f"a model's config.json or the folder it is in, as --scratch={shown(config_path)}"
    if not isinstance(read_json(path, expected), dict):
        raise InputError(f"{path} holds no JSON object; expected {expected}")
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except Exception as error:  # what a library makes of a wrong value is any exception
        raise InputError(f"{path}: {str(error).strip().splitlines()[0][:300]}; expected {expected}") from error
    if config.is_encoder_decoder or type(config) not in AutoModelForMaskedLM._model_mapping:
        raise InputError(
            f"--scratch={config_path} is a {config.model_type} model; expected an encoder with a masked-language head, "
            "like bert or roberta"
        )
    return config


def build_scratch_encoder(
    config_path: Path | str,
    texts: Sequence[str],
    *,
    vocab_size: int,
    tokenizer_folder: Path,
    mlm: bool,
    pooling: str | None = None,
    dense: bool = False,
    max_length: int = 512,
) -> Loaded:
    """Start from random weights: the shapes of a config, a tokenizer trained on the pairs.

    Args:
        config_path: a model's config.json, or a folder that holds one.
        texts: what the tokenizer is trained on.
        vocab_size: entries at most, special tokens included.
        tokenizer_folder: the trained tokenizer is kept there, and read back when a run goes on.
        mlm, pooling, dense: as in `load_pair_encoder`.
        max_length: tokens the tokenizer lets through.

    Returns:
        (PairEncoder, tokenizer, list[str])

    Raises:
        InputError: no config there, or one of a model that is not an encoder.
    """
    from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

    pooling, config = check_pooling(pooling), read_scratch_config(config_path)
    if (tokenizer_folder / "tokenizer.json").is_file():
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(tokenizer_folder, local_files_only=True)
    else:
        tokenizer = train_tokenizer(texts, vocab_size, min(max_length, config.max_position_embeddings))
        save_tokenizer(tokenizer, tokenizer_folder)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "cls", "sep")}
    config.update({**ids, "bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]})
    config.vocab_size = len(tokenizer)
    body = AutoModel.from_config(config, dtype=torch.float32)
    if getattr(body, "pooler", None) is not None:
        body.pooler = None
    head = TokenHead(AutoModelForMaskedLM.from_config(config, dtype=torch.float32), body) if mlm else None
    return PairEncoder(body, pooling or "cls", head, None, dense), tokenizer, ["every weight"]


def train_tokenizer(texts: Sequence[str], vocab_size: int, max_length: int) -> PreTrainedTokenizerBase:
    """Train a lower-cased WordPiece tokenizer with BERT's special tokens. Same texts, same vocabulary.

    The trainer of `tokenizers` numbers inner characters ("##a") in the order of a hash map, and ties between merges
    fall by number. Named beforehand as special tokens they have an order; the tokenizer that is returned knows them as
    plain pieces of the vocabulary.

    Args:
        texts: strings; read twice.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    words = pre_tokenizers.BertPreTokenizer()
    found = (word for text in texts for word, _ in words.pre_tokenize_str(normalizer.normalize_str(text)))
    inner = [f"##{c}" for c in sorted({c for word in found for c in word[1:]})]

    def tokenizer_of(model: models.Model) -> Tokenizer:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = words
        return tokenizer

    learner = tokenizer_of(models.WordPiece(unk_token="[UNK]"))
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=special + inner, show_progress=False)
    learner.train_from_iterator(texts, trainer)
    tokenizer = tokenizer_of(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(special)
    frame = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.post_processor = frame
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer's folder; whole or not at all. Only the first process writes."""
    if rank() > 0:
        return
    with whole_folder(folder) as temporary:
        tokenizer.save_pretrained(temporary)


def read_vocabulary(tokenizer: PreTrainedTokenizerBase, model: PairEncoder, mlm: bool) -> Vocabulary:
    """Return what hiding tokens needs.

    Raises:
        InputError: the objective hides tokens, but the tokenizer has nothing to hide them with.
    """
    pad = next(t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if t is not None)
    # len() counts added tokens that the model may have no row for: random tokens come from the model's table.
    table: nn.Embedding = model.body.get_input_embeddings()  # type: ignore[assignment]
    size = min(len(tokenizer), table.num_embeddings)
    special = tuple(tokenizer.all_special_ids)
    if model.denoiser is None:
        if mlm and tokenizer.mask_token_id is None:
            raise InputError(
                f"the tokenizer ({type(tokenizer).__name__}) has no mask token, which mlm needs; use "
                "--objective=contrastive or another encoder"
            )
        return Vocabulary(size, tokenizer.mask_token_id, special, pad_id=pad)
    vocabulary = tokenizer.get_vocab()
    ids = (vocabulary.get(SENTINEL.format(i)) for i in range(N_SENTINELS))
    sentinels = tuple(i for i in ids if i is not None and i != tokenizer.unk_token_id)
    if mlm and not sentinels:
        raise InputError(
            f"the tokenizer ({type(tokenizer).__name__}) has no {SENTINEL.format(0)}, which denoising needs; use "
            "--objective=contrastive or another encoder"
        )
    return Vocabulary(size, None, special, sentinels, tokenizer.eos_token_id, pad)
