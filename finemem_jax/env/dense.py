"""Dense retrieval: items by the cosine of their embedding with the question's (`config.retrieval.name=dense`).

The encoder is a local folder in model2vec's or sentence-transformers' format (`config.retrieval.model`), run on the
CPU; either library is optional: `pip install finemem_jax[dense]`. Embeddings are kept by text, so a step of an episode
encodes what it wrote and no more.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from finemem_jax.config import UserError

_KEPT = 1 << 17  # embeddings, by text; the oldest are dropped

_Encode = Callable[[list[str]], np.ndarray]


class Encoder:
    """Texts -> unit vectors, each text encoded once."""

    def __init__(self, encode: _Encode):
        self._encode = encode
        self._known: dict[str, np.ndarray] = {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, dimensions], float32, of length 1; all 0 for a text that the encoder knows no word of."""
        new = list(dict.fromkeys(text for text in texts if text not in self._known))
        if new:
            vectors = np.asarray(self._encode(new), dtype=np.float32)
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            self._known |= dict(zip(new, vectors / np.where(lengths > 0, lengths, 1), strict=True))
        found = np.stack([self._known[text] for text in texts])
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return found


class Dense:
    """An index over `texts`, with the interface of BM25."""

    def __init__(self, texts: Sequence[str], encoder: Encoder):
        self._encoder = encoder
        self._vectors = encoder.embed(texts) if texts else np.zeros((0, 1), np.float32)  # [items, dimensions]

    def search(self, query: str, k: int) -> list[tuple[int, float]]:
        """The `k` best items as (index, cosine), best first, ties by insertion order; those above 0 only."""
        if k <= 0 or not len(self._vectors):
            return []
        scores = self._vectors @ self._encoder.embed([query])[0]
        best = np.argsort(-scores, kind="stable")[:k]
        return [(int(item), float(scores[item])) for item in best if scores[item] > 0]


@functools.cache
def load_encoder(folder: str) -> Encoder:
    """The encoder of a local folder. Raises UserError where there is none, or its library is not installed."""
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"config.retrieval.model={folder}: no such folder")
    if _is_model2vec(path):
        return Encoder(_model2vec(path))
    if (path / "modules.json").is_file():
        return Encoder(_sentence_transformers(path))
    raise UserError(
        f"config.retrieval.model={folder}: neither a model2vec folder (config.json with model_type model2vec) nor a "
        "sentence-transformers one (modules.json)"
    )


def _is_model2vec(path: Path) -> bool:
    """Their folders carry a modules.json too, for sentence-transformers."""
    try:
        return json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type") == "model2vec"
    except (OSError, ValueError, AttributeError):
        return False


def _model2vec(path: Path) -> _Encode:
    try:
        from model2vec import StaticModel
    except ImportError as error:
        raise _not_installed("model2vec") from error
    return StaticModel.from_pretrained(str(path)).encode


def _sentence_transformers(path: Path) -> _Encode:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise _not_installed("sentence-transformers") from error
    model = SentenceTransformer(str(path), device="cpu", local_files_only=True)
    return lambda texts: model.encode(texts, show_progress_bar=False)


def _not_installed(library: str) -> UserError:
    return UserError(f"config.retrieval.name=dense needs {library}: pip install finemem_jax[dense]")
