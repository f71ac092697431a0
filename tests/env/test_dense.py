"""Dense retrieval with a real model2vec folder and a real sentence-transformers one, made here, tiny."""

import json

import numpy as np
import pytest

from finemem_jax import config
from finemem_jax.config import RetrievalConfig, UserError
from finemem_jax.env.dense import Dense, Encoder, load_encoder
from finemem_jax.env.retrieval import open_index

WORDS = ["[PAD]", "[UNK]", "dentist", "doctor", "cat", "kitten", "maya", "oslo"]
# the words for one thing lie in one direction, so that a question finds what no word of it names
VECTORS = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0.9, 0.1], [0.1, 0, 1], [0, 0, 1]])
TEXTS = ["cat", "dentist", "maya oslo", "cat"]


def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers

    built = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    built.pre_tokenizer = pre_tokenizers.Whitespace()
    return built


@pytest.fixture(scope="module")
def model2vec_folder(tmp_path_factory):
    pytest.importorskip("model2vec")
    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("model2vec")
    tokenizer().save(str(folder / "tokenizer.json"))
    save_file({"embeddings": VECTORS.astype(np.float32)}, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True, "hidden_dim": 3}))
    return str(folder)


@pytest.fixture(scope="module")
def sentence_transformers_folder(tmp_path_factory):
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers.models import StaticEmbedding

    folder = tmp_path_factory.mktemp("st") / "model"
    module = StaticEmbedding(tokenizer(), embedding_weights=VECTORS.astype(np.float32))
    library.SentenceTransformer(modules=[module], device="cpu").save(str(folder))
    return str(folder)


@pytest.mark.parametrize("folder", ["model2vec_folder", "sentence_transformers_folder"])
def test_a_question_finds_what_it_means_though_no_word_is_shared(folder, request):
    cfg = RetrievalConfig(name="dense", model=request.getfixturevalue(folder))
    index = open_index(TEXTS, cfg)
    assert [item for item, _ in index.search("doctor", 1)] == [1]
    assert [item for item, _ in index.search("kitten", 2)] == [0, 3]  # equal texts in the order of insertion
    assert index.search("kitten", 1)[0][1] == pytest.approx(0.9 / np.hypot(0.9, 0.1), abs=1e-5)
    assert open_index(TEXTS, RetrievalConfig()).search("doctor", 1) == []
    assert open_index([], cfg).search("doctor", 1) == [] == index.search("doctor", 0)
    assert index.search("unheard", 3) == []


def test_every_text_is_encoded_once():
    encoded = []

    def encode(texts):
        encoded.extend(texts)
        return np.eye(4, dtype=np.float32)[[len(text) % 4 for text in texts]]

    encoder = Encoder(encode)
    Dense(["a", "bb", "a"], encoder).search("ccc", 2)
    Dense(["a", "bb", "dddd"], encoder).search("ccc", 2)
    assert encoded == ["a", "bb", "ccc", "dddd"]


def test_what_is_no_encoder_is_named(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        load_encoder(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="neither a model2vec folder"):
        load_encoder(str(tmp_path))
    cfg = config.default()
    cfg.retrieval.name = "dense"
    with pytest.raises(UserError, match=r"config\.retrieval\.model"):
        config.from_ml_collections(cfg)
