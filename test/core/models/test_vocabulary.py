"""The pretrained words and their tokenizer."""

import numpy as np
import pytest
import torch

from tc_mmwm_core.models.vocabulary import TextTokens, VocabularyError, word_embeddings


def test_words_of_like_meaning_are_near_each_other():
    words, tokens = word_embeddings(64), TextTokens(8)
    assert words.shape[1] == 64 and words.dtype == torch.float32
    assert words.square().mean().item() == pytest.approx(1.0, rel=1e-3)

    def similarity(first, second):
        a, b = (words[tokens([word])[0][0, 1]] for word in (first, second))
        return torch.cosine_similarity(a, b, 0).item()

    assert similarity("red", "blue") > similarity("red", "slowly") + 0.1
    assert similarity("drive", "driving") > similarity("drive", "green") + 0.1


def test_fewer_components_are_the_first_of_more():
    few, many = word_embeddings(16), word_embeddings(64)[:, :16]
    scale = (few / many).nanmean()
    torch.testing.assert_close(few, many * scale, rtol=1e-3, atol=1e-4)


def test_tokens_are_padded_and_too_long_a_text_is_refused():
    tokens = TextTokens(8)
    ids, mask = tokens(["drive to the pad", "stop"])
    assert ids.shape == mask.shape == (2, 8)
    np.testing.assert_array_equal(mask.sum(1), [6, 3])  # with the start and end marks
    assert (ids[~mask] == 0).all()
    with pytest.raises(VocabularyError, match=r"instruction 'never .*': 12 tokens found, at most 8 allowed"):
        tokens(["never " * 10])
