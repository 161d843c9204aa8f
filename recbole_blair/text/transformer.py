"""A Hugging Face encoder: tokenise once, batch by length, run in bf16 where the chip has it, on every device.

Weights come from safetensors; a folder that only has pytorch_model.bin is read by transformers with torch's
weights-only loader, which runs no code from the file. Code that a model repository brings is never run.
"""

import contextlib
import queue
import threading
from pathlib import Path

import numpy as np

from recbole_blair.errors import InputError
from recbole_blair.ops.memory import keep_freed_memory
from recbole_blair.text.batching import pad_batch, plan_batches, plan_chunks
from recbole_blair.text.devices import pick_devices, pick_precision
from recbole_blair.text.encoders import WITHOUT_NETWORK, weight_files
from recbole_blair.text.pooling import POOLINGS, folder_pooling, pool

# Padded tokens of a batch. CPU: what stays in the last-level cache (tests/bench/bench_encoding.py); GPU:
# enough to fill the multiprocessors with a base-size model.
BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
_QUEUE_CHUNKS = 2  # tokenised chunks waiting for a device


class TransformerEncoder:
    """A pretrained text encoder with its tokenizer, replicated on each device.

    Args:
        replicas (list[(torch.device, Module)]): the same model in eval mode on each device.
        tokenizer (PreTrainedTokenizerBase): the model's tokenizer.
        name (str): the encoder's part in file names.
        pooling (str): `cls` or `mean`.
        max_length (int): tokens kept of a text, special ones included.
        precision (str): `fp32` or `bf16`.
        source (dict): header fields that say where the weights come from.
    """

    libraries = ("torch", "transformers")

    def __init__(self, replicas, tokenizer, *, name, pooling, max_length, precision, source):
        self.replicas = replicas
        self.tokenizer = tokenizer
        self.name = name
        self.pooling = pooling
        self.max_length = max_length
        self.precision = precision
        self.source = dict(source)
        self.width = int(replicas[0][1].config.hidden_size)
        self.batch_tokens = BATCH_TOKENS[replicas[0][0].type]
        tokens = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        self.pad_id = next(t for t in tokens if t is not None)

    @classmethod
    def load(cls, folder, *, name, source, device="auto", precision="auto", pooling=None, max_length=512):
        """Load a folder as `load_encoder` does; see there."""
        devices = pick_devices(device)
        precision = pick_precision(precision, devices[0])
        declared = folder_pooling(folder) if pooling is None else None
        if pooling is not None and pooling not in POOLINGS:
            raise InputError(f"--pooling={pooling} is not one of {', '.join(POOLINGS)}")
        model, tokenizer = _load_model(folder, precision)
        if pooling is None:
            pooling = declared or ("cls" if tokenizer.cls_token_id is not None else "mean")  # T5 has no [CLS]
        if devices[0].type == "cpu":
            _speed_up(model)
        replicas = _replicate(model, devices)
        limit = min(max_length, _position_limit(model, tokenizer))
        return cls(
            replicas,
            tokenizer,
            name=name,
            pooling=pooling,
            max_length=limit,
            precision=precision,
            source=source,
        )

    def description(self):
        """Header fields that tell this encoder from others; see text/encode.py for the whole header."""
        return {
            "encoder": self.name,
            "kind": "huggingface",
            **self.source,
            "width": self.width,
            "pooling": self.pooling,
            "max_length": self.max_length,
            "precision": self.precision,
        }

    @property
    def device_type(self):
        """`cpu` or `cuda`."""
        return self.replicas[0][0].type

    def encode(self, texts, *, batch_tokens=None, progress=True, normalise=False):
        """Encode texts.

        Args:
            texts (list[str]): n texts.
            batch_tokens (int | None): token budget of a batch; None: by device.
            progress (bool): show a bar.
            normalise (bool): scale each vector to length 1 (retrieval); a zero vector stays zero.

        Returns:
            ndarray: (n, width) float32, in the order given.
        """
        out = np.empty((len(texts), self.width), dtype=np.float32)
        with progress_bar(len(texts), self.name, progress) as bar:
            for _, rows, vectors in self.encode_chunks(texts, batch_tokens=batch_tokens):
                out[rows] = vectors
                bar.update(len(rows))
        return normalise_rows(out) if normalise else out

    def plan(self, texts, batch_tokens=None):
        """Return the chunks that `encode_chunks` works through; they depend on texts and settings alone."""
        return plan_chunks(texts, self.max_length, batch_tokens or self.batch_tokens)

    def encode_chunks(self, texts, *, batch_tokens=None, done=()):
        """Encode chunk by chunk, tokenising ahead in a thread and feeding every device.

        Args:
            texts (list[str]): n texts.
            batch_tokens (int | None): token budget of a batch; None: by device.
            done (container of int): chunks to leave out.

        Yields:
            (int, ndarray, ndarray): chunk number, its rows (m,) int64, their vectors (m, width) float32.
            With several devices chunks may come out of order.

        Raises:
            InputError: a text that gives no token, or a model that gives NaN or infinity.
        """
        budget = batch_tokens or self.batch_tokens
        yield from self.encode_planned(
            texts, [(i, rows) for i, rows in enumerate(self.plan(texts, budget)) if i not in done], budget
        )

    def encode_planned(self, texts, todo, budget):
        """Encode given chunks; see `encode_chunks`.

        Args:
            texts (list[str] | dict[int, str]): row -> text, of the chunks' rows at least.
            todo (list[(int, ndarray)]): chunk numbers and their rows.
            budget (int): tokens a batch.
        """
        memory = keep_freed_memory() if self.device_type == "cpu" else contextlib.nullcontext()
        with memory, _Pipeline(self, texts, todo, budget) as results:
            for _ in todo:
                number, rows, vectors = results.next()
                if not np.isfinite(vectors).all():
                    bad = int(rows[~np.isfinite(vectors).all(axis=1)][0])
                    raise InputError(
                        f"{self.name} gives NaN or infinity for the text in row {bad} in {self.precision}; "
                        "try --precision=fp32, or take another encoder"
                    )
                yield number, rows, vectors

    def tokenise(self, texts, rows, budget):
        """Tokenise the texts of one chunk and cut it into padded batches.

        Returns:
            list[(ndarray, ndarray, ndarray)]: positions in the chunk, padded ids (B, T), lengths (B,).
        """
        token_ids = self.tokenizer(
            [texts[row] for row in rows],
            truncation=True,
            max_length=self.max_length,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        lengths = np.fromiter((len(ids) for ids in token_ids), np.int64, len(token_ids))
        if not lengths.all():
            raise InputError(
                f"the text in row {int(rows[lengths == 0][0])} gives no token with the tokenizer of "
                f"{self.name}; "
                "give the item a title or a description, or take another encoder"
            )
        return [
            (where, pad_batch([token_ids[i] for i in where], lengths[where], self.pad_id), lengths[where])
            for where in plan_batches(lengths, budget)
        ]

    def forward_chunk(self, replica, batches, n_rows):
        """Run one chunk on one device; the results stay there until the chunk is through.

        Returns:
            ndarray: (n_rows, width) float32, in the chunk's order.
        """
        import torch

        device, model = replica
        pooled, order = [], []
        with torch.inference_mode():
            for where, token_ids, lengths in batches:
                ids, sizes = _to_device(token_ids, device), _to_device(lengths, device)
                mask = None
                if lengths.min() < token_ids.shape[1]:  # no padding, no mask: the faster attention
                    mask = (torch.arange(ids.shape[1], device=device) < sizes[:, None]).long()  # (B, T)
                states = model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
                pooled.append(pool(states, sizes, self.pooling))
                order.append(where)
            vectors = torch.cat(pooled).cpu().numpy()
        out = np.empty((n_rows, self.width), dtype=np.float32)
        out[np.concatenate(order)] = vectors
        return out


class _Pipeline:
    """One thread tokenises ahead, one thread a device runs the model; `next()` gives finished chunks."""

    def __init__(self, encoder, texts, todo, budget):
        self.encoder, self.texts, self.todo, self.budget = encoder, texts, todo, budget
        self.ready = queue.Queue(maxsize=_QUEUE_CHUNKS + len(encoder.replicas))
        self.finished = queue.Queue()
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self._guard, args=(self._tokenise,), daemon=True)]
        for replica in encoder.replicas:
            self.threads.append(threading.Thread(target=self._guard, args=(self._forward, replica), daemon=True))

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join()

    def next(self):
        """Return the next finished chunk, or raise what a thread raised."""
        result = self.finished.get()
        if isinstance(result, BaseException):
            raise result
        return result

    def _guard(self, step, *args):
        """Run a thread's work; its error is raised in the caller's thread."""
        try:
            step(*args)
        except BaseException as error:
            self.finished.put(error)

    def _tokenise(self):
        for number, rows in self.todo:
            self._put((number, rows, self.encoder.tokenise(self.texts, rows, self.budget)))
        for _ in self.encoder.replicas:
            self._put(None)

    def _put(self, chunk):
        while not self.stopped.is_set():
            try:
                return self.ready.put(chunk, timeout=0.2)
            except queue.Full:
                continue

    def _forward(self, replica):
        while not self.stopped.is_set():
            try:
                chunk = self.ready.get(timeout=0.2)
            except queue.Empty:
                continue
            if chunk is None:
                return
            number, rows, batches = chunk
            self.finished.put((number, rows, self.encoder.forward_chunk(replica, batches, len(rows))))


def fetch_snapshot(hub_id, revision, cache_dir):
    """Download what is missing of a hub model (resumes, shows bars) and return its snapshot folder.

    Raises:
        InputError: unknown or gated id, unknown revision, or no network and not in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model"]
    options = {
        "revision": revision,
        "cache_dir": cache_dir,
        "ignore_patterns": ["*/*.safetensors", "*/*.bin"],
    }
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=wanted, **options))
        if not list(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(hub_id, allow_patterns=[*wanted, "pytorch_model*.bin*"], **options))
    except (OSError, HfHubHTTPError, HFValidationError) as error:
        if getattr(error, "errno", None) is not None:  # a full disk and its like: the command line says so
            raise
        at = f" at revision {revision}" if revision else ""
        raise InputError(
            f"--plm={hub_id}{at} is no folder here and could not be had from the Hugging Face hub "
            f"({_first_line(error)}); check the name and the network, {WITHOUT_NETWORK}"
        ) from None
    weight_files(folder)
    return folder


def normalise_rows(vectors):
    """Scale rows to length 1 in place and return them; a zero row stays zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.divide(vectors, norms, out=vectors, where=norms > 0)
    return vectors


def progress_bar(total, name, show, initial=0):
    """A bar over items."""
    from tqdm import tqdm

    return tqdm(total=total, initial=initial, desc=f"encode {name}", unit=" items", disable=not show)


def _load_model(folder, precision):
    """Load model (its encoder half, if it has two) and tokenizer from a folder, or say what is wrong "
    "with it."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer
    from transformers.utils import logging

    weight_files(folder)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        # T5 and its like: the encoder half; the rest as they are.
        auto = AutoModelForTextEncoding if config.is_encoder_decoder else AutoModel
        model, info = auto.from_pretrained(
            folder, config=config, dtype=dtype, local_files_only=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{folder} could not be loaded as a Hugging Face encoder ({type(error).__name__}: "
            f"{_first_line(error)}); "
            "it needs config.json, weights and tokenizer files as save_pretrained writes them"
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(
            f"the weights in {folder} lack {len(missing)} of the model's tensors (first: {missing[0]}), "
            "which would "
            "stay random; give a folder with the whole encoder"
        )
    return model.eval().requires_grad_(False), tokenizer


def _speed_up(model):
    """Let a model on the CPU take the faster ways to its products and its attention."""
    from recbole_blair.ops.linear import use_products
    from recbole_blair.text.attention import use_attention

    use_products(model)
    use_attention(model)


def _replicate(model, devices):
    """Put one copy of the model on each device."""
    import copy

    copies = [model, *(copy.deepcopy(model) for _ in devices[1:])]
    return [(device, replica.to(device)) for device, replica in zip(devices, copies)]


def _position_limit(model, tokenizer):
    """Longest input the model has positions for. RoBERTa's begin after its padding index: 514 gives 512."""
    import torch

    limit = tokenizer.model_max_length if tokenizer.model_max_length else 1 << 30
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            limit = min(limit, module.num_embeddings - offset)
    return int(limit)


def _to_device(array, device):
    """Copy an array to a device; through pinned memory and without waiting on a GPU."""
    import torch

    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def _first_line(error):
    """First line of an error's text."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
