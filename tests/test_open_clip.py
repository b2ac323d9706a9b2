"""OpenCLIP's zoo and UniIR against open_clip called by hand, one item at a time, and themselves.

Every kind of model of the zoo is built tiny, from the real classes, under a name that open_clip is
told: only sizes differ.
"""

from __future__ import annotations

import json
import logging
import pickle
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.plugins import open_clip as plugin
from mmeb_harness.plugins import uniir as uniir_plugin
from PIL import Image
from tiny import open_clip as tiny
from tiny import uniir
from tiny_parts import drawn, wordpieces

pytestmark = pytest.mark.thorough

TEXTS = ("a cat", "Two dogs, on a RED sofa!", "in the rain " * 40 + "a boat")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
KINDS = ("clip", "quickgelu", "resnet", "eva", "vitamin", "siglip", "clipa", "coca", "hf_text")
WORDS = {"context_length": 16, "width": 16, "heads": 2, "layers": 2}
"""A text tower whose positions are fewer than the longest text has."""


def picture(turn: int = 0) -> Image.Image:
    """Draw a picture that differs with `turn`, of no special size."""
    gradient = Image.linear_gradient("L")
    bands = [gradient, gradient.rotate(90 + turn), gradient.rotate(2 * turn)]
    return Image.merge("RGB", bands).crop((0, 0, 100 + turn, 80))


PICTURES = (picture(), picture(30), picture(75).resize((40, 180)))


def items() -> list[mh.Item]:
    """Texts of several lengths, pictures of several sizes, and both together."""
    return [
        *(mh.Item(text=text) for text in TEXTS),
        *(mh.Item(image=image) for image in PICTURES),
        mh.Item(text=TEXTS[1], image=PICTURES[2]),
    ]


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare two arrays, shape first."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= tolerance


def by_hand(model: Any, transform: Any, tokenizer: Any) -> Any:
    """Return the vectors of the items, one at a time, from open_clip's own parts."""
    rows = []
    for item in items():
        parts = []
        if item.text is not None:
            parts.append(model.encode_text(tokenizer([item.text]), normalize=False))
        if item.image is not None:
            parts.append(model.encode_image(transform(item.image)[None], normalize=False))
        rows.append(torch.stack(parts).sum(0))
    return torch.cat(rows).numpy()


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    """Compute as in evaluation."""
    with torch.no_grad():
        yield


def some(*kinds: str) -> list[Any]:
    """Return every kind of model, those not named for `make test` only."""
    return [
        kind if kind in kinds else pytest.param(kind, marks=pytest.mark.thorough) for kind in KINDS
    ]


# -- the kinds of models in the zoo ----------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def timm_names() -> None:
    """Tell timm of tiny models by its own entry points for EVA-CLIP, ViTamin and SigLIP."""
    tiny.library()
    from timm.models import eva, register_model, vision_transformer, vitamin

    sizes = {"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2}

    @register_model
    def tiny_eva(**options: Any) -> Any:
        grid = {"patch_size": 8, "ref_feat_shape": (4, 4)}
        return eva.eva02_base_patch16_clip_224(**sizes, **grid, **options)

    @register_model
    def tiny_vitamin(**options: Any) -> Any:
        stages = vitamin.VitCfg(
            embed_dim=(8, 16, 32),
            depths=(1, 1, 1),
            stem_width=8,
            conv_cfg=vitamin.VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
            head_type="1d",
        )
        return vitamin.vitamin_small_224(embed_cfg=stages, **sizes, **options)

    @register_model
    def tiny_siglip(**options: Any) -> Any:
        return vision_transformer.vit_base_patch16_siglip_224(patch_size=8, **sizes, **options)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with BERT's tokenizer and a configuration, no weights."""
    from transformers import BertConfig

    folder = tmp_path_factory.mktemp("bert")
    tokenizer = wordpieces()
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    BertConfig(vocab_size=len(tokenizer), num_hidden_layers=2, **sizes).save_pretrained(folder)
    return folder


def timm(name: str, pool: str, projection: str | None) -> dict[str, Any]:
    """Return the configuration of an image tower of timm."""
    return {
        "image_size": 32,
        "timm_model_name": name,
        "timm_pool": pool,
        "timm_proj": projection,
        "timm_model_pretrained": False,
    }


def configs(bert: Path) -> dict[str, dict[str, Any]]:
    """Return a tiny configuration for each kind of model that the zoo has."""
    small = {**WORDS, "vocab_size": 600, "hf_tokenizer_name": str(bert)}
    all_ways = {**small, "no_causal_mask": True, "pool_type": "last"}
    vit = {"embed_dim": 24, "vision_cfg": tiny.VISION, "text_cfg": WORDS}
    return {
        "clip": vit,
        "quickgelu": {**vit, "quick_gelu": True},
        "resnet": {
            **vit,
            "vision_cfg": {
                "image_size": 64,
                "layers": [1, 1, 1, 1],
                "width": 8,
                "patch_size": None,
            },
        },
        "eva": {**vit, "vision_cfg": timm("tiny_eva", "token", None), "custom_text": True},
        "vitamin": {**vit, "vision_cfg": timm("tiny_vitamin", "", "linear"), "custom_text": True},
        "siglip": {
            "embed_dim": 32,
            "init_logit_bias": -10,
            "custom_text": True,
            "vision_cfg": timm("tiny_siglip", "map", "none"),
            "text_cfg": {
                **all_ways,
                "tokenizer_kwargs": {"clean": "canonicalize"},
                "proj_bias": True,
                "norm_kwargs": {"eps": 1e-6},
                "act_kwargs": {"approximate": "tanh"},
            },
        },
        "clipa": {
            **vit,
            "vision_cfg": {**tiny.VISION, "no_ln_pre": True, "pool_type": "avg"},
            "text_cfg": {**all_ways, "tokenizer_kwargs": {"strip_sep_token": True}},
        },
        "coca": {
            **vit,
            "vision_cfg": {
                **tiny.VISION,
                "attentional_pool": True,
                "attn_pooler_heads": 2,
                "attn_pooler_queries": 5,
                "output_tokens": True,
            },
            "text_cfg": {**WORDS, "embed_cls": True, "output_tokens": True},
            "multimodal_cfg": {**WORDS, "attn_pooler_heads": 2},
            "custom_text": True,
        },
        "hf_text": {
            **vit,
            "text_cfg": {
                "context_length": 16,
                "hf_model_name": str(bert),
                "hf_tokenizer_name": str(bert),
                "hf_pooler_type": "mean_pooler",
            },
        },
    }


@pytest.fixture(scope="module")
def zoo(
    tmp_path_factory: pytest.TempPathFactory, bert: Path, timm_names: None
) -> dict[str, tuple[str, Path]]:
    """Return for each kind a name that open_clip knows, and the path of a checkpoint."""
    folder = tmp_path_factory.mktemp("zoo")
    made: dict[str, tuple[str, Path]] = {}
    assert tuple(configs(bert)) == KINDS
    for number, (kind, config) in enumerate(configs(bert).items()):
        name = f"tiny-{kind}"
        (folder / f"{name}.json").write_text(json.dumps(config))
        tiny.library().add_model_config(folder / f"{name}.json")

        def build(name: str) -> Any:
            return tiny.library().create_model(name, pretrained_text=False)

        state = tiny.small_state(drawn(build, name, 40 + number))
        if kind == "resnet":  # its random convolutions let hardly any picture through
            state |= {key: 1.5 * one for key, one in state.items() if one.ndim == 4}
        held = {"epoch": 3, "state_dict": {f"module.{key}": one for key, one in state.items()}}
        torch.save(held, folder / f"{kind}.pt")
        made[kind] = name, folder / f"{kind}.pt"
    return made


@pytest.fixture(scope="module")
def load(zoo: dict[str, tuple[str, Path]]) -> Callable[..., Any]:
    """Return `(kind, **options) -> encoder`; equal options share one: no edits."""
    loaded: dict[Any, Any] = {}

    def load(kind: str, **options: Any) -> Any:
        key = (kind, *sorted(options.items()))
        if key not in loaded:
            name, path = zoo[kind]
            loaded[key] = mh.load_encoder(f"open-clip:{name}@{path}", device="cpu", **options)
        return loaded[key]

    return load


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_the_zoo_gives_open_clips_vectors(
    kind: str, load: Callable[..., Any], zoo: dict[str, tuple[str, Path]]
) -> None:
    name, path = zoo[kind]
    model, _, transform = tiny.library().create_model_and_transforms(name, pretrained=str(path))
    wanted = by_hand(model.eval(), transform, tiny.library().get_tokenizer(name))
    found = load(kind).encode(items())
    assert_close(found, wanted)
    lengths = np.linalg.norm(found, axis=1)
    assert np.abs(lengths - 1).min() > 1e-2, "normalised features would go unnoticed"
    apart = np.abs(found[:, None] - found[None]).max(-1) + np.eye(len(found))
    assert apart.min() > 1e-3, "the items would be alike"


@pytest.mark.parametrize("kind", some("hf_text"))
def test_a_vector_does_not_depend_on_its_batch(kind: str, load: Callable[..., Any]) -> None:
    encoder, chosen = load(kind), items()
    alone = np.concatenate([encoder.encode([item]) for item in chosen])
    for order in ([6, 2, 0, 5, 1], [0, 2], [4, 3]):
        batch = encoder.prepare([encoder.render(chosen[place]) for place in order])
        assert_close(encoder.forward(batch).numpy(), alone[list(order)])


@pytest.mark.parametrize("kind", some("clip", "hf_text"))
def test_half_precision_gives_nearly_the_same_vectors(kind: str, load: Callable[..., Any]) -> None:
    encoder = load(kind)
    half = mh.load_encoder(f"open-clip:{encoder.card.base}", device="cpu", dtype="bfloat16")
    one, other = half.encode(items()), encoder.encode(items())
    cosines = (one * other).sum(-1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert cosines.min() > 0.99


@pytest.mark.parametrize("kind", some("quickgelu", "siglip", "hf_text"))
def test_a_saved_encoder_is_open_clips_layout_and_loads_from_its_folder(
    kind: str, load: Callable[..., Any], tmp_path: Path
) -> None:
    encoder = load(kind, normalize=True)
    encoder.save(tmp_path / "saved")
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert_close(again.encode(items()), encoder.encode(items()), 1e-6)
    assert again.card.vector_settings() == encoder.card.vector_settings()
    name = f"local-dir:{tmp_path / 'saved'}"
    model, transform = tiny.library().create_model_from_pretrained(name)
    wanted = by_hand(model.eval(), transform, tiny.library().get_tokenizer(name))
    assert_close(load(kind).encode(items()), wanted)


@pytest.mark.parametrize("kind", ["eva", "siglip"])
def test_a_worker_needs_neither_the_weights_nor_the_name(
    kind: str, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was never told of a name: open_clip would fall back to its defaults."""
    load(kind).encode(items())
    rendered = [load(kind).render(item) for item in items()]
    fresh = mh.load_encoder(f"open-clip:{load(kind).card.base}", device="cpu")
    wanted = load(kind).prepare(rendered)
    halves = [pickle.dumps(one) for one in (load(kind), fresh)]
    assert len(halves[0]) < 8_000_000, "the tokenizer's tables alone"
    monkeypatch.setattr(tiny.library().factory, "_MODEL_CONFIGS", {})
    for half in halves:
        batch = pickle.loads(half).prepare(rendered)
        assert torch.equal(batch.ids_TL, wanted.ids_TL)
        assert torch.equal(batch.pixels, wanted.pixels)


# -- a folder in open_clip's layout ----------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model in open_clip's layout; no edits."""
    place = tmp_path_factory.mktemp("layout") / "model"
    tiny.make(place)
    return place


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Any:
    """Return the encoder over that folder; no edits."""
    return mh.load_encoder(f"open-clip:{folder}", device="cpu")


def test_a_folder_gives_open_clips_vectors(encoder: Any, folder: Path) -> None:
    name = f"local-dir:{folder}"
    model, transform = tiny.library().create_model_from_pretrained(name)
    wanted = by_hand(model.eval(), transform, tiny.library().get_tokenizer(name))
    assert_close(encoder.encode(items()), wanted)


def test_a_folder_says_how_its_pictures_are_prepared(folder: Path, tmp_path: Path) -> None:
    facts = {"mean": [0.5] * 3, "std": 0.25, "interpolation": "bilinear", "resize_mode": "squash"}
    config = {"model_cfg": tiny.CONFIG, "preprocess_cfg": facts}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    (tmp_path / "open_clip_model.safetensors").symlink_to(folder / "open_clip_pytorch_model.bin")
    encoder = mh.load_encoder(f"open-clip:{tmp_path}", device="cpu")
    square = PICTURES[0].resize((32, 32), Image.Resampling.BILINEAR)
    wanted = (np.asarray(square) / 255 - 0.5) / 0.25
    found = encoder.prepare([encoder.render(mh.Item(image=PICTURES[0]))]).pixels
    assert_close(found[0].permute(1, 2, 0), wanted)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_pictures_are_resized_in_their_own_mode(mode: str, encoder: Any, folder: Path) -> None:
    image = PICTURES[0].copy()
    image.putalpha(Image.radial_gradient("L").resize(image.size))
    image = (
        image.convert("RGB").convert(mode) if mode in ("P", "1", "CMYK") else image.convert(mode)
    )
    _, transform = tiny.library().create_model_from_pretrained(f"local-dir:{folder}")
    found = encoder.prepare([encoder.render(mh.Item(image=image))]).pixels
    assert torch.equal(found[0], transform(image))


def test_a_transparent_palette_gives_no_warning_and_no_other_colours(encoder: Any) -> None:
    image = PICTURES[0].convert("P")
    rendered = [encoder.render(mh.Item(image=image))]
    wanted = encoder.prepare(rendered).pixels
    image.info["transparency"] = bytes(range(256))
    assert torch.equal(encoder.prepare(rendered).pixels, wanted)
    assert "transparency" in image.info, "the caller's image was changed"


def test_text_is_counted_at_the_length_to_which_it_is_padded(encoder: Any) -> None:
    for text in TEXTS:
        assert encoder.size(encoder.render(mh.Item(text=text))) == 77
    both = mh.Item(text=TEXTS[0], image=PICTURES[0])
    assert encoder.size(encoder.render(both)) == 77 + 17


def test_the_program_s_logging_is_left_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    mh.load_encoder(f"open-clip:{folder}", device="cpu").encode(items()[:4])
    assert logging.getLogger().handlers == []
    assert capfd.readouterr().err == ""


# -- what is where ---------------------------------------------------------------------------------


def test_weights_are_told_apart_by_their_file_and_their_configuration(
    zoo: dict[str, tuple[str, Path]], load: Callable[..., Any], folder: Path, tmp_path: Path
) -> None:
    plain, quick = load("clip"), load("quickgelu")
    assert plain.weight_folders() == (zoo["clip"][1],)
    name = zoo["quickgelu"][0]
    other = mh.load_encoder(f"open-clip:{name}@{zoo['clip'][1]}", device="cpu")
    assert other.weight_folders() == plain.weight_folders()
    assert other.fingerprint() != plain.fingerprint()
    assert other.fingerprint() == quick.fingerprint()
    assert np.abs(other.encode(items()) - plain.encode(items())).max() > 1e-3

    path = tmp_path / "mine.pt"
    path.write_bytes(zoo["clip"][1].read_bytes())
    mine = mh.load_encoder(f"open-clip:{zoo['clip'][0]}@{path}", device="cpu")
    assert mine.module is not None
    assert mine.weight_folders() == (path,)
    path.write_bytes(zoo["quickgelu"][1].read_bytes())
    assert mine.weight_folders() == (), "the file is no more what was loaded"
    assert "in memory" in mine.fingerprint()


def test_a_tokenizer_of_transformers_counts_as_weights(
    load: Callable[..., Any], bert: Path
) -> None:
    assert bert in load("siglip").weight_folders()


# -- names, tags and repositories ------------------------------------------------------------------


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return `(repository, files) -> folder`: a repository as the Hub's client keeps it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repository: str, files: dict[str, bytes]) -> Path:
        root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        for name, content in files.items():
            path = root / "snapshots" / COMMIT / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        (root / "refs").mkdir()
        (root / "refs/main").write_text(COMMIT)
        return root / "snapshots" / COMMIT

    return put


def test_a_tag_brings_its_weights_and_its_preparation_of_pictures(
    zoo: dict[str, tuple[str, Path]],
    cached: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, path = zoo["eva"]
    tables = tiny.library().pretrained
    half = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
    facts = tables._pcfg(hf_hub="timm/tiny.mine/", interpolation="bilinear") | half
    monkeypatch.setitem(tables._PRETRAINED, name, {"mine": facts})
    files = {"config.json": b"{}", "open_clip_pytorch_model.bin": path.read_bytes()}
    place = cached("timm/tiny.mine", files)
    encoder = mh.load_encoder(f"open-clip:{name}@mine", device="cpu")
    assert encoder.weight_folders() == (place,)
    model, _, transform = tiny.library().create_model_and_transforms(name, pretrained="mine")
    wanted = by_hand(model.eval(), transform, tiny.library().get_tokenizer(name))
    assert_close(encoder.encode(items()), wanted)


def test_a_tag_may_name_its_file(
    zoo: dict[str, tuple[str, Path]],
    cached: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, path = zoo["clip"]
    tables = tiny.library().pretrained
    facts = tables._pcfg(hf_hub="someone/models/pytorch_model.bin")
    monkeypatch.setitem(tables._PRETRAINED, name, {"mine": facts})
    cached("someone/models", {"pytorch_model.bin": path.read_bytes()})
    found = mh.load_encoder(f"open-clip:{name}@MINE", device="cpu").encode(items())
    wanted = mh.load_encoder(f"open-clip:{name}@{path}", device="cpu").encode(items())
    assert_close(found, wanted, 1e-6)


def test_a_repository_of_the_hub_in_open_clips_layout(
    folder: Path, encoder: Any, cached: Callable[..., Path]
) -> None:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    place = cached("someone/model", files)
    for options in ({}, {"revision": COMMIT}):
        found = mh.load_encoder("open-clip:hf-hub:someone/model", device="cpu", **options)
        assert found.weight_folders() == (place,)
        assert_close(found.encode(items()), encoder.encode(items()), 1e-6)


def test_weights_that_are_not_there_are_named(folder: Path, cached: Callable[..., Path]) -> None:
    config = (folder / "open_clip_config.json").read_bytes()
    cached("someone/model", {"open_clip_config.json": config})
    encoder = mh.load_encoder("open-clip:hf-hub:someone/model", device="cpu")
    with pytest.raises(EnvironmentFault, match=r"no .*safetensors and no .*\.bin, here"):
        encoder.encode(items())


@pytest.mark.parametrize(
    "reference",
    ["hf-hub:someone/nothing", "ViT-B-32@laion2b_s34b_b79k", "EVA02-B-16@merged2b_s8b_b131k"],
)
def test_without_the_network_it_says_so(reference: str, cached: Callable[..., Path]) -> None:
    with pytest.raises(EnvironmentFault, match="Hub cannot be reached"):
        mh.load_encoder(f"open-clip:{reference}", device="cpu")


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        (
            "ViT-B-33@laion2b_s34b_b79k",
            "unknown OpenCLIP model 'ViT-B-33'; did you mean 'ViT-B-32'",
        ),
        ("ViT-B/32", "ViT-B-32 alone would be random: .* one of its tags .openai, laion400m_e31,"),
        ("ViT-B-32@laion2b_s34b", "did you mean 'laion2b_s34b_b79k'.*one of its tags .openai"),
        (
            "ViT-B-32@./nothing.pt",
            "unknown weights of ViT-B-32 './nothing.pt'.*a checkpoint's path",
        ),
        ("ViT-e-14@webli", "unknown weights of ViT-e-14 'webli'.*no tag is known"),
        ("./nothing", "there is no folder './nothing'"),
        ("local-dir:nothing", "there is no folder 'local-dir:nothing'"),
        ("ViT-B-32@openai", "another activation .*: ViT-B-32-quickgelu@openai"),
        ("ViT-H-14@dfn5b", "ViT-H-14-quickgelu@dfn5b"),
    ],
)
def test_a_reference_to_nothing_is_refused_with_what_there_is(reference: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        mh.load_encoder(f"open-clip:{reference}", device="cpu")


def test_a_folder_that_is_none_of_open_clips_is_refused(folder: Path, tmp_path: Path) -> None:
    def refused(kind: type[Exception], said: str, reference: Any = tmp_path) -> None:
        with pytest.raises(kind, match=said):
            mh.load_encoder(f"open-clip:{reference}", device="cpu")

    refused(EnvironmentFault, "holds no weights")
    refused(UsageError, "holds 0 checkpoints", f"ViT-B-32@{tmp_path}")
    (tmp_path / "one.pt").write_bytes(b"")
    refused(UsageError, "has no open_clip_config.json")
    (tmp_path / "two.pt").write_bytes(b"")
    refused(UsageError, "holds 2 checkpoints: one.pt, two.pt; give", f"ViT-B-32@{tmp_path}")
    for content in ("{", "[]", '{"embed_dim": 3}', '{"model_cfg": {"embed_dim": 3}}'):
        (tmp_path / "open_clip_config.json").write_text(content)
        refused(EnvironmentFault, "is no configuration of open_clip")


def test_a_folder_with_one_checkpoint_serves_a_name(zoo: Any, tmp_path: Path) -> None:
    name, path = zoo["clip"]
    (tmp_path / "any name.pt").symlink_to(path)
    found = mh.load_encoder(f"open-clip:{name}@{tmp_path}", device="cpu")
    assert found.weight_folders() == (tmp_path / "any name.pt",)


@pytest.mark.parametrize("damage", ["missing", "stranger", "shape", "bytes"])
def test_weights_that_do_not_fit_are_refused(damage: str, zoo: Any, tmp_path: Path) -> None:
    name, path = zoo["clip"]
    state = torch.load(path, weights_only=True)["state_dict"]
    if damage == "missing":
        del state["module.ln_final.bias"]
    elif damage == "stranger":
        state["module.another"] = torch.ones(2)
    elif damage == "shape":
        state["module.text_projection"] = torch.ones(16, 25)
    torch.save(state, tmp_path / "mine.pt")
    if damage == "bytes":
        (tmp_path / "mine.pt").write_bytes(path.read_bytes()[:5000])
    encoder = mh.load_encoder(f"open-clip:{name}@{tmp_path / 'mine.pt'}", device="cpu")
    with pytest.raises(EnvironmentFault, match=r"the weights in .*mine\.pt cannot be loaded"):
        encoder.encode(items())


def test_every_row_of_open_clips_tables_resolves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No name or tag is out of reach, but those whose activation does not fit their weights."""
    asked = []

    def fetch(repository: str, *_: Any) -> Path:
        asked.append(repository)
        return tmp_path

    monkeypatch.setattr(plugin, "fetch_model", fetch)
    refused = 0
    for name, tag in tiny.library().list_pretrained():
        try:
            source = plugin.find_source(f"{name}@{tag}", None)
        except UsageError as error:
            better = str(error).rpartition(" ")[2]
            assert plugin.find_source(better, None).config["quick_gelu"]
            refused += 1
        else:
            facts = tiny.library().get_pretrained_cfg(name, tag)
            assert facts["hf_hub"].startswith(f"{source.repository}/")
            assert source.files[-1] == (facts["hf_hub"].rpartition("/")[2] or plugin.HUB_FILES[-1])
            assert source.preprocess["mean"] == facts["mean"]
            assert source.preprocess["resize_mode"] == facts["resize_mode"]
    assert len(asked) > 190
    assert refused < 40


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name",
    ["EVA02-L-14-336", "ViTamin-S", "convnext_base_w", "RN50x4", "coca_ViT-B-32", "ViT-L-14-CLIPA"],
)
def test_pictures_get_the_size_of_the_published_towers(name: str) -> None:
    config = tiny.library().get_model_config(name)
    model = tiny.library().create_model(name, device="meta")
    size = plugin.preprocess_of(config, {})["size"]
    assert model.visual.image_size in (size, (size, size))


# -- UniIR -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a tiny checkpoint as UniIR's training writes it; no edits."""
    place = tmp_path_factory.mktemp("uniir")
    uniir.make(place)
    return place / "clip_sf_large.pth"


@pytest.fixture(scope="module")
def clip_sf(checkpoint: Path) -> Any:
    """Return the encoder over that checkpoint, texts as they are; no edits."""
    return mh.load_encoder(f"uniir-clip-sf:{checkpoint}", device="cpu", prompt="stored")


def test_uniir_vectors_are_the_sums_of_unnormalised_features(
    clip_sf: Any, checkpoint: Path
) -> None:
    model = tiny.library().CLIP(**uniir.CONFIG)
    held = torch.load(checkpoint, weights_only=True)["model"]
    model.load_state_dict({name.removeprefix("clip_model."): one for name, one in held.items()})
    transform = tiny.library().image_transform(224, is_train=False)
    wanted = by_hand(model.eval(), transform, tiny.library().get_tokenizer("ViT-L-14-quickgelu"))
    found = clip_sf.encode(items())
    assert_close(found, wanted)
    assert np.abs(found[6] - found[1] - found[5]).max() < 1e-5
    ids = clip_sf.prepare([clip_sf.render(items()[2])]).ids_TL[0]
    assert len(ids) == 77 and ids[-1] == 49407, "cut, with the end token"


def test_the_sizes_of_the_published_checkpoint_are_read_from_its_tensors() -> None:
    """Every size and head of ViT-L/14, as open_clip states them, comes from the tensors alone."""
    config = tiny.library().get_model_config("ViT-L-14-quickgelu")
    with torch.device("meta"):
        state = tiny.library().CLIP(**config).state_dict()
    found = uniir_plugin.towers_of(state)
    assert found == config | {"vision_cfg": config["vision_cfg"] | {"head_width": 64}}


def test_uniir_makes_rgb_of_a_picture_first(clip_sf: Any) -> None:
    image = PICTURES[0].convert("P")
    one, other = (
        clip_sf.prepare([clip_sf.render(mh.Item(image=picture))]).pixels
        for picture in (image, image.convert("RGB"))
    )
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("item", "worded"),
    [
        (mh.Item(text="a cat and a dog"), "A cat and a dog."),
        (mh.Item(text=' "is it so?" \r'), "Is it so?"),
        (mh.Item(text="find it: a cat", instruction="find it:"), "Find it: a cat."),
        (mh.Item(text="find it: a cat", instruction="find it:", role="query"), "Find it: a cat."),
        (mh.Item(text="find it: a cat", instruction="find it:", role="candidate"), "A cat."),
        (
            mh.Item(
                text="<|image_1|>\nFind the like.\n", instruction="Find the like.", image="a.png"
            ),
            "Find the like.",
        ),
        (
            mh.Item(
                text="<|image_1|>\nFind the like.\n",
                instruction="Find the like.",
                image="a.png",
                role="candidate",
            ),
            None,
        ),
    ],
)
def test_texts_are_worded_as_uniir_does(
    item: mh.Item, worded: str | None, checkpoint: Path
) -> None:
    encoder = mh.load_encoder(f"uniir-clip-sf:{checkpoint}", device="cpu")
    assert encoder.render(item).text == worded


def test_what_else_a_checkpoint_holds_is_never_run(
    clip_sf: Any, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The published file holds an object of a library that is not here; another, worse."""
    foreign = types.ModuleType("foreign")
    exec(
        "class Settings(dict):\n"
        "    def __reduce__(self): return Settings, (), {'model': {'size': 3}}, None, None\n"
        "class Harm:\n"
        "    def __reduce__(self): return exec, (\"open('harm', 'w')\",)\n",
        foreign.__dict__,
    )
    for kind in ("Settings", "Harm"):
        getattr(foreign, kind).__module__ = "foreign"
    monkeypatch.setitem(sys.modules, "foreign", foreign)
    held = torch.load(checkpoint, weights_only=True)
    torch.save(
        {**held, "config": foreign.Settings(), "harm": foreign.Harm()}, tmp_path / "full.pth"
    )
    monkeypatch.delitem(sys.modules, "foreign")
    other = mh.load_encoder(f"uniir-clip-sf:{tmp_path}", device="cpu", prompt="stored")
    assert_close(other.encode(items()[:4]), clip_sf.encode(items()[:4]), 1e-6)
    assert not Path("harm").exists()


def test_a_saved_uniir_is_open_clips_layout(clip_sf: Any, tmp_path: Path) -> None:
    clip_sf.save(tmp_path / "saved")
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert type(again) is type(clip_sf)
    assert_close(again.encode(items()), clip_sf.encode(items()), 1e-6)


def test_the_published_uniir_is_taken_from_the_hub(
    clip_sf: Any, checkpoint: Path, cached: Callable[..., Path]
) -> None:
    files = {"README.md": b"", "checkpoint/CLIP_SF/clip_sf_large.pth": checkpoint.read_bytes()}
    place = cached("TIGER-Lab/UniIR", files)
    encoder = mh.load_encoder("uniir-clip-sf:TIGER-Lab/UniIR", device="cpu", prompt="stored")
    assert encoder.weight_folders() == (place,)
    assert_close(encoder.encode(items()[:4]), clip_sf.encode(items()[:4]), 1e-6)
    assert mh.load_encoder(f"uniir-clip-sf:{place}").weight_folders() == (
        place / "checkpoint/CLIP_SF/clip_sf_large.pth",
    )


@pytest.mark.parametrize(
    ("held", "said"),
    [
        ({"epoch": 3}, "holds no 'model'"),
        ({"model": {}}, "no CLIP_SF checkpoint"),
        ({"model": {"clip_model.a": 0, "t5_layers.b": 0}}, r"tensors like \['t5_layers.b'\]"),
        ({"model": {"clip_model.ln_final.weight": torch.ones(64)}}, "cannot be loaded: KeyError"),
        ([1], "holds no 'model'"),
        (None, "cannot be loaded"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(held: Any, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"no checkpoint") if held is None else torch.save(held, path)
    encoder = mh.load_encoder(f"uniir-clip-sf:{path}", device="cpu")
    with pytest.raises(EnvironmentFault, match=said):
        encoder.encode([mh.Item(text="a cat")])


def test_towers_with_a_tensor_too_few_or_of_another_size_are_refused(
    checkpoint: Path, tmp_path: Path
) -> None:
    held = torch.load(checkpoint, weights_only=True)["model"]
    fewer = {name: one for name, one in held.items() if not name.endswith("ln_pre.bias")}
    larger = held | {"clip_model.visual.positional_embedding": torch.ones(65, 128)}
    for state, said in ((fewer, "ln_pre.bias"), (larger, "takes pictures of 256 pixels")):
        torch.save({"model": state}, tmp_path / "mine.pth")
        encoder = mh.load_encoder(f"uniir-clip-sf:{tmp_path / 'mine.pth'}", device="cpu")
        with pytest.raises(EnvironmentFault, match=said):
            encoder.encode([mh.Item(text="a cat")])


@pytest.mark.parametrize("reference", ["./nothing", "nothing.pth", "~/nothing.pth"])
def test_a_checkpoint_that_is_not_there_is_named(reference: str) -> None:
    with pytest.raises(UsageError, match="there is no checkpoint"):
        mh.load_encoder(f"uniir-clip-sf:{reference}", device="cpu")


def test_a_folder_with_no_checkpoint_or_several_is_refused(tmp_path: Path) -> None:
    for count, name in enumerate(("one.pth", "two.pth", "three.pth")):
        if count != 1:
            with pytest.raises(UsageError, match=f"holds {count} checkpoints"):
                mh.load_encoder(f"uniir-clip-sf:{tmp_path}", device="cpu")
        (tmp_path / name).write_bytes(b"")


def test_a_folder_of_open_clips_is_uniirs_only_by_its_card(clip_sf: Any, tmp_path: Path) -> None:
    clip_sf.save(tmp_path / "saved")
    again = mh.load_encoder(f"uniir-clip-sf:{tmp_path / 'saved'}", device="cpu", prompt="stored")
    assert_close(again.encode(items()[:2]), clip_sf.encode(items()[:2]), 1e-6)
    (tmp_path / "saved/card.json").unlink()
    with pytest.raises(UsageError, match="name it -m open-clip:"):
        mh.load_encoder(f"uniir-clip-sf:{tmp_path / 'saved'}")
