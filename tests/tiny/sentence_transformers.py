"""Tiny random models of the sentence-transformers library, each saved by the library itself."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmeb_harness.plugins.vision_ops import mend_torchvision

FAMILY = "sentence-transformers"

GOLDENS = Path(__file__).parents[1] / "goldens/models"

PROMPTS = {"query": "question: ", "document": "passage text: ", "other": "something else: "}

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
<|im_start|>assistant
"""
"""How the tiny chat model is asked: Qwen's tokens, images and texts in the order they come."""

CORPUS = (
    "a cat and a dog sit on the red chair beside the window",
    "what stands beside the blue boat in the picture? represent the given image",
    "find an image that matches the text: two green squares, one yellow circle, 1 2 3 4 5",
    "question: passage text: something else: who painted the house near the river and why?",
)


def make(folder: Path) -> str:
    """Save the chat model: text, image, and both in one."""
    mend_torchvision()
    return f"{FAMILY}:{make_chat(folder)}"


def make_chat(folder: Path) -> Path:
    """Qwen2-VL as the library wraps it: chats, the last token, a system message as the prompt."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    source = folder / "source"
    shutil.copytree(GOLDENS / "tiny-qwen2vl", source)
    (source / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    transformer = _perturbed(Transformer(str(source)), seed=1, scale=0.1)
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), "lasttoken")]
    model = SentenceTransformer(
        modules=[*modules, Normalize()],
        device="cpu",
        prompts={"query": "Find what is asked for.", "document": "Represent this."},
    )
    saved = _saved(model, folder / "chat")
    shutil.rmtree(source)
    return saved


def make_towers(folder: Path) -> Path:
    """CLIP's two towers: a vector of text or of an image, and of nothing else."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Transformer

    transformer = Transformer(str(GOLDENS / "tiny-clip"))
    return _saved(
        SentenceTransformer(modules=[_perturbed(transformer, seed=2, scale=0.02)], device="cpu"),
        folder / "towers",
    )


def make_old_towers(folder: Path) -> Path:
    """CLIP as it was saved before the library knew modalities: a module of its own, in a folder."""
    old = folder / "old-towers"
    shutil.copytree(GOLDENS / "tiny-clip", old / "0_CLIPModel")
    entry = {"idx": 0, "name": "0", "path": "0_CLIPModel"}
    entry["type"] = "sentence_transformers.models.CLIPModel"
    (old / "modules.json").write_text(json.dumps([entry]))
    return old


def make_texts(folder: Path) -> Path:
    """BERT with prompts, a mean, a dense layer in a folder of its own, and cut dimensions."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling

    transformer = _bert(folder / "source", seed=3)
    with _seeded(4):
        dense = _perturbed(Dense(32, 24), seed=4, scale=0.3)
    modules = [transformer, Pooling(32, "mean"), dense]
    return _saved(
        SentenceTransformer(
            modules=modules,
            device="cpu",
            prompts=PROMPTS,
            default_prompt_name="other",
            truncate_dim=20,
        ),
        folder / "texts",
    )


def make_routes(folder: Path) -> Path:
    """Two BERTs, one for queries and one for documents."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Pooling

    routes = [[_bert(folder / f"route-{seed}", seed), Pooling(32, "mean")] for seed in (5, 6)]
    router = Router.for_query_document(query_modules=routes[0], document_modules=routes[1])
    return _saved(SentenceTransformer(modules=[router], device="cpu"), folder / "routes")


def make_late_routes(folder: Path) -> Path:
    """One BERT, and after it a dense layer for queries and one for documents."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Router
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling

    modules = [_bert(folder / "shared", seed=10), Pooling(32, "mean")]
    with _seeded(10):
        layers = [[Dense(32, 24)], [Dense(32, 24)]]
    router = Router.for_query_document(query_modules=layers[0], document_modules=layers[1])
    return _saved(
        SentenceTransformer(modules=[*modules, router], device="cpu"), folder / "late-routes"
    )


def make_left_padded(folder: Path) -> Path:
    """GPT-2, the last token, padded on the left: in the library a neighbour shifts positions."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import ByteLevelBPETokenizer
    from transformers import GPT2Config, GPT2Model, GPT2TokenizerFast

    source = folder / "gpt2"
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(CORPUS, vocab_size=400, special_tokens=["<|endoftext|>"])
    source.mkdir(parents=True)
    trained.save_model(str(source))
    tokenizer = GPT2TokenizerFast.from_pretrained(source, padding_side="left")
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.save_pretrained(source)
    config = GPT2Config(
        vocab_size=trained.get_vocab_size(),
        n_positions=64,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    with _seeded(7):
        GPT2Model(config).save_pretrained(source)
    transformer = _perturbed(Transformer(str(source)), seed=7, scale=0.2)
    return _saved(
        SentenceTransformer(modules=[transformer, Pooling(32, "lasttoken")], device="cpu"),
        folder / "left-padded",
    )


def make_static(folder: Path) -> Path:
    """A table of token embeddings and their mean: no model of transformers in it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import BertWordPieceTokenizer

    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(CORPUS, vocab_size=200, show_progress=False)
    with _seeded(8):
        embedding = StaticEmbedding(trained._tokenizer, embedding_dim=16)
    return _saved(SentenceTransformer(modules=[embedding], device="cpu"), folder / "static")


def make_images(folder: Path) -> Path:
    """A vision transformer: images and no text."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    source = folder / "vit"
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        image_size=32,
        patch_size=8,
    )
    with _seeded(9):
        ViTModel(config).save_pretrained(source)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(source)
    transformer = _perturbed(Transformer(str(source)), seed=9, scale=0.1)
    return _saved(
        SentenceTransformer(modules=[transformer, Pooling(32, "cls")], device="cpu"),
        folder / "images",
    )


def _bert(source: Path, seed: int) -> Any:
    from sentence_transformers.sentence_transformer.modules import Transformer
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    trained = BertWordPieceTokenizer()
    trained.train_from_iterator(CORPUS, vocab_size=200, show_progress=False)
    source.mkdir(parents=True)
    trained.save_model(str(source))
    BertTokenizerFast.from_pretrained(source, model_max_length=48).save_pretrained(source)
    config = BertConfig(
        vocab_size=trained.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=48,
    )
    with _seeded(seed):
        BertModel(config).save_pretrained(source)
    return _perturbed(Transformer(str(source)), seed, scale=0.1)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Make what is initialised in the block the same each time, and leave the generator alone."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _perturbed(module: Any, seed: int, scale: float) -> Any:
    """Move every parameter, so that none is zero or one because it was never trained."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return module.eval()


def _saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


MAKERS: Mapping[str, Callable[[Path], Path]] = {
    "chat": make_chat,
    "towers": make_towers,
    "old towers": make_old_towers,
    "images": make_images,
    "texts": make_texts,
    "routes": make_routes,
    "late routes": make_late_routes,
    "left padded": make_left_padded,
    "static": make_static,
}
"""Every kind of model, for the family's own tests."""
