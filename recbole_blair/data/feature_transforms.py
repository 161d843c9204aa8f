"""Transforms of item text features, fitted on the items of training rows alone and kept beside the feature file.

Every transform is x -> ((x - shift) * factor) @ matrix, or x / |x|. With C the covariance of the training items'
features, C = V diag(λ) Vᵀ and λ falling:

    rms          x / sqrt(mean(x²)), one number for all items and columns
    l2           x / |x|, nothing is fitted
    standardise  (x - mean) / standard deviation, per column
    pca:k        (x - mean) V_k                     the k directions of largest variance
    whiten:k     (x - mean) V_k diag(λ_k)^(-1/2)    the same, each of variance 1
    zca          (x - mean) V diag(λ)^(-1/2) Vᵀ     variance 1 in every direction, the columns where they were

Source: arXiv:2103.15316 (whitening of sentence embeddings).
"""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from recbole_blair.errors import InputError, nearest
from recbole_blair.files.write import whole_file

if TYPE_CHECKING:
    from collections.abc import Mapping

PLAIN = ("none", "rms", "l2", "standardise", "zca")
WITH_WIDTH = ("pca", "whiten")
KINDS = "none, rms, l2, standardise, pca:<width>, whiten:<width>, zca"
CHUNK = 1 << 16  # rows at a time: features stay mapped
LEAST_SHARE = 1e-5  # of the largest eigenvalue: directions with less variance are divided by this much, not by noise


@dataclass(frozen=True)
class Transform:
    """A fitted transform.

    Args:
        name: as asked for.
        shift: (D,) float32, taken off first.
        factor: (D,) float32, multiplied next.
        matrix: (D, K) float32; None: the columns stay.
    """

    name: str
    shift: np.ndarray | None = None
    factor: np.ndarray | None = None
    matrix: np.ndarray | None = None

    def apply(self, features: np.ndarray) -> np.ndarray:
        """Transform features (n, D) -> (n, K) float32; `none` gives the same array, mapped as it was."""
        if self.name == "none":
            return features
        if self.name == "l2":
            norms = np.linalg.norm(features, axis=1, keepdims=True)
            return np.divide(features, norms, out=np.zeros(features.shape, np.float32), where=norms > 0)
        width = features.shape[1] if self.matrix is None else self.matrix.shape[1]
        out = np.empty((len(features), width), np.float32)
        for start in range(0, len(features), CHUNK):
            part = (features[start : start + CHUNK] - self.shift) * self.factor  # (n, D)
            out[start : start + CHUNK] = part if self.matrix is None else part @ self.matrix  # (n, K)
        return out


def chosen_transform(config: Mapping[str, Any]) -> str:
    """Return the transform that the keys ask for: `feature_transform`, or the older `feature_scale`.

    Raises:
        InputError: an unknown one, or both keys ask for one.
    """
    name, scale = str(config.get("feature_transform") or "none"), config.get("feature_scale") or "raw"
    parse_transform(name)
    if scale == "rms" and name not in ("none", "rms"):
        raise InputError(
            f"feature_scale=rms and feature_transform={name} ask for two transforms; leave out feature_scale"
        )
    return "rms" if scale == "rms" else name


def parse_transform(name: str) -> tuple[str, int | None]:
    """Return a transform's kind and its width, if it has one.

    Raises:
        InputError: names what there is.
    """
    kind, _, width = name.partition(":")
    if (kind in PLAIN and not width and ":" not in name) or (
        kind in WITH_WIDTH and width.isascii() and width.isdecimal() and int(width)
    ):
        return kind, int(width) if width else None
    hint = f" Give it a width: {kind}:128." if name in WITH_WIDTH else nearest(kind, (*PLAIN, *WITH_WIDTH))
    raise InputError(f"feature_transform={name} is not one of {KINDS}.{hint}")


def fit_transform(name: str, features: np.ndarray, rows: np.ndarray) -> Transform:
    """Fit a transform.

    Args:
        name: see the top of this file.
        features: (n, D) float32, also a memory map.
        rows: (m,) int64, sorted: the rows it is fitted on.

    Raises:
        InputError: unknown, more directions than the features have, or nothing to fit on.
    """
    kind, width = parse_transform(name)
    if kind in ("none", "l2"):
        return Transform(name)
    if len(rows) < 2:
        raise InputError(f"feature_transform={name} is fitted on the items of training rows, and there are {len(rows)}")
    wide = features.shape[1]
    if width and width > wide:
        raise InputError(f"feature_transform={name}, but the features have width {wide}; give {kind}:{wide} or less")
    zero, one = np.zeros(wide, np.float32), np.ones(wide, np.float32)
    if kind == "rms":
        square = sum(float(np.square(part, dtype=np.float64).sum()) for part in _chunks(features, rows))
        return Transform(name, zero, one * np.float32((len(rows) * wide / square) ** 0.5 if square else 1.0))
    mean = sum(part.sum(axis=0, dtype=np.float64) for part in _chunks(features, rows)) / len(rows)  # (D,)
    if kind == "standardise":
        variance = sum(np.square(part - mean).sum(axis=0) for part in _chunks(features, rows)) / len(rows)
        factor = np.divide(
            1.0, np.sqrt(variance), out=np.zeros(wide), where=variance > 0
        )  # a constant column tells nothing
        return Transform(name, mean.astype(np.float32), factor.astype(np.float32))
    covariance = sum((part - mean).T @ (part - mean) for part in _chunks(features, rows)) / len(rows)  # (D, D)
    return Transform(
        name, mean.astype(np.float32), one, _directions(kind, width or wide, covariance).astype(np.float32)
    )


def _directions(kind: str, width: int, covariance: np.ndarray) -> np.ndarray:
    """Return the matrix (D, K) of pca, whiten or zca for a covariance (D, D)."""
    values, vectors = np.linalg.eigh(covariance)
    values, vectors = values[::-1], vectors[:, ::-1]  # largest first
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(len(vectors))])  # one of two signs, the same everywhere
    scale = 1 / np.sqrt(np.maximum(values, max(values[0] * LEAST_SHARE, 1e-30)))
    if kind == "pca":
        return vectors[:, :width]
    if kind == "whiten":
        return vectors[:, :width] * scale[:width]
    return (vectors * scale) @ vectors.T


def _chunks(features: np.ndarray, rows: np.ndarray) -> list[np.ndarray] | Any:
    """Yield the rows in float64, some at a time."""
    for start in range(0, len(rows), CHUNK):
        yield np.asarray(features[rows[start : start + CHUNK]], dtype=np.float64)


def load_transform(
    feature_file: Path, name: str, features: np.ndarray, header: Mapping[str, Any], rows: np.ndarray
) -> Transform:
    """Return the transform kept beside a feature file, fitted and written where it is missing or of other features.

    Args:
        feature_file: `<build>.<encoder>.feature`; the transform is kept in `<build>.<encoder>.<transform>.transform`.
        name: of the transform.
        features: (n, D) of that file.
        header: of that file.
        rows: (m,) int64, sorted: the items of training rows, counted from 0.
    """
    if parse_transform(name)[0] in ("none", "l2"):
        return Transform(name)
    from safetensors import SafetensorError, safe_open  # heavy
    from safetensors.numpy import save_file

    path = feature_file.with_name(f"{feature_file.name.removesuffix('.feature')}.{name.replace(':', '-')}.transform")
    about = {
        "transform": name,
        "features_sha256": hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest(),
        "features_ns": str(feature_file.stat().st_mtime_ns),
        "items_sha256": hashlib.sha256(np.asarray(rows, np.int64).tobytes()).hexdigest(),
    }
    if path.is_file():
        try:
            with safe_open(path, "np") as kept:
                arrays = {key: kept.get_tensor(key) for key in kept.keys()}  # noqa: SIM118
                if kept.metadata() == {**about, "crc32": _checksum(arrays)}:
                    return Transform(name, **arrays)
        except (SafetensorError, OSError):
            pass  # damaged: it is fitted again
    fitted = fit_transform(name, features, rows)
    arrays = {key: value for key in ("shift", "factor", "matrix") if (value := getattr(fitted, key)) is not None}
    with whole_file(path) as temporary:
        contiguous = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        save_file(contiguous, temporary, {**about, "crc32": _checksum(contiguous)})
    return fitted


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """Return the CRC-32 of a transform's arrays."""
    return str(zlib.crc32(b"".join(arrays[key].tobytes() for key in sorted(arrays))))
