"""Phi-3.5-vision against the reference's numbers, transformers called by hand, and itself."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mmeb_harness.errors import EnvironmentFault, ItemError, UsageError
from mmeb_harness.plugins.phi3_v_images import (
    ImageSettings,
    crop_grid,
    crops_of,
    read_settings,
    token_count,
)
from mmeb_harness.plugins.vision_ops import mend_torchvision
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.thorough

CROPS_4: dict[str, Any] = {"num_crops": 4, "max_length": 256}
SUBSETS = ("ImageNet-1K", "OK-VQA", "MSCOCO_t2i")
PLACEHOLDER = "<|image_1|>"

Items = Callable[[str, str], list[mh.Item]]


@pytest.fixture(scope="module")
def model_folder(goldens: Path) -> Path:
    return goldens / "models/tiny-phi35v"


@pytest.fixture(scope="module")
def phi(model_folder: Path) -> Callable[..., Any]:
    """Return `(**options) -> encoder` over the tiny model; equal options share one: no edits."""

    @cache
    def load(**options: Any) -> Any:
        return mh.load_encoder(f"phi3-v:{model_folder}", device="cpu", **options)

    return load


@pytest.fixture
def own_phi(model_folder: Path) -> Callable[..., Any]:
    """Return a function that loads an encoder of the test's own, which it may change."""
    return lambda **options: mh.load_encoder(f"phi3-v:{model_folder}", device="cpu", **options)


@pytest.fixture
def changed_model(model_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return `(**config) -> folder`: a copy of the tiny model with its config.json changed."""

    def change(**config: Any) -> Path:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(model_folder, folder)
        stored = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(stored | config))
        return folder

    return change


def picture(width: int, height: int, turn: int = 0) -> Image.Image:
    """Draw a picture whose every corner and colour differ."""
    gradient = Image.linear_gradient("L")
    bands = [gradient, gradient.rotate(90 + turn), Image.radial_gradient("L")]
    return Image.merge("RGB", bands).resize((width, height))


def mixed_items() -> list[mh.Item]:
    """Text alone and text with pictures of several shapes."""
    question = "Represent the given image with the following question: what is this?"
    return [
        mh.Item(text="a cat"),
        mh.Item(text=f"{PLACEHOLDER}\nRepresent the given image.", image=picture(90, 70)),
        mh.Item(text="a much longer text about a dog, a boat and two blue squares " * 3),
        mh.Item(text=f"{PLACEHOLDER} {question}\n", image=picture(80, 300, turn=40)),
        mh.Item(text=f"before {PLACEHOLDER} after", image=picture(500, 100, turn=70)),
        mh.Item(text="x"),
    ]


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare two arrays of vectors, shape first."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= tolerance


# -- the reference's numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("side", ["qry", "tgt"])
def test_vectors_are_those_of_the_reference(
    subset: str, side: str, phi: Callable[..., Any], goldens: Path, golden_items: Items
) -> None:
    with np.load(goldens / "expected/phi35v/phi35v_crops4.npz") as arrays:
        wanted = arrays[f"{subset}/{side}"]
    assert_close(phi(**CROPS_4).encode(golden_items(subset, side)), wanted)


def test_every_hit_and_score_is_that_of_the_reference(
    phi: Callable[..., Any], goldens: Path, tmp_path: Path
) -> None:
    run = mh.evaluate(
        phi(**CROPS_4),
        tasks=list(SUBSETS),
        data_dir=goldens / "data/eval",
        image_dir=goldens / "data/eval_images",
        output_dir=tmp_path / "run",
        scoring="reference",
    )
    stored = json.loads((goldens / "expected/phi35v/phi35v_crops4.json").read_text())
    scores = np.load(goldens / "expected/phi35v/phi35v_crops4.npz")
    assert set(stored) == set(SUBSETS)
    for subset, result in stored.items():
        assert (run.tasks[subset].status, run.tasks[subset].error) == ("ok", None)
        assert run.tasks[subset].hit_at_1 == result["acc"]
        rows = pq.read_table(tmp_path / f"run/tasks/{subset}.parquet").to_pylist()
        assert [row["top_candidates"][0] for row in rows] == result["pred_index"]
        for row, wanted in zip(rows, scores[f"{subset}/scores"], strict=True):
            assert_close(row["top_scores"], wanted[row["top_candidates"]])


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("side", ["qry", "tgt"])
def test_tokens_and_pixels_are_those_of_the_reference(
    subset: str, side: str, phi: Callable[..., Any], goldens: Path, golden_items: Items
) -> None:
    encoder = phi(**CROPS_4)
    with np.load(goldens / "expected/phi35v/phi35v_crops4_inputs.npz") as arrays:
        ids, offsets = (arrays[f"{subset}/{side}/{name}"] for name in ("ids", "offsets"))
    facts = json.loads((goldens / "expected/phi35v/phi35v_crops4_inputs.json").read_text())
    items = golden_items(subset, side)
    assert len(items) == len(offsets) - 1
    for number, (item, fact) in enumerate(zip(items, facts[f"{subset}/{side}"], strict=True)):
        rendered = encoder.render(item)
        batch = encoder.prepare([rendered])
        found = batch.ids_BL.masked_fill(batch.is_image_BL, -1)
        assert found[0].tolist() == ids[offsets[number] : offsets[number + 1]].tolist()
        assert found.shape[1] == fact["n_ids"] == encoder.size(rendered)
        if item.image is None:
            assert batch.images is None
            continue
        assert int(batch.is_image_BL.sum()) == fact["n_negative_ids"]
        assert (batch.images["grids"] * 336).tolist() == fact["image_sizes"]
        crops = batch.images["crops"].numpy()
        absent = [(0, fact["pixel_values_shape"][1] - len(crops)), (0, 0), (0, 0), (0, 0)]
        assert sha256(np.pad(crops, absent).tobytes()).hexdigest()[:16] == fact["sha256"]


# -- pictures --------------------------------------------------------------------------------------

SIZES = [(90, 70), (70, 90), (336, 336), (337, 336), (40, 400), (1600, 60), (2, 3), (700, 500)]


def crops_by_hand(image: Image.Image, num_crops: int) -> Any:
    """Cut a picture with torchvision's functions, as the original does."""
    mend_torchvision()
    from torchvision.transforms import functional as tv

    turned = image.width < image.height
    image = image.transpose(Image.Transpose.TRANSPOSE) if turned else image
    ratio = image.width / image.height
    fitting = [n for n in range(1, num_crops + 1) if n * np.ceil(n / ratio) <= num_crops]
    image = tv.resize(image, [int(max(fitting) * 336 / ratio), max(fitting) * 336])
    missing = -image.height % 336
    image = tv.pad(image, [0, missing // 2, 0, missing - missing // 2], fill=[255, 255, 255])
    image = image.transpose(Image.Transpose.TRANSPOSE) if turned else image
    pixels = tv.to_tensor(image)
    pixels = tv.normalize(
        pixels, [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    )
    views = [torch.nn.functional.interpolate(pixels[None], size=(336, 336), mode="bicubic")[0]]
    for top in range(0, pixels.shape[1], 336):
        for left in range(0, pixels.shape[2], 336):
            views.append(pixels[:, top : top + 336, left : left + 336])
    return torch.stack(views)


@pytest.mark.parametrize("num_crops", [1, 2, 4, 6, 16])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_crops_are_those_of_torchvision_called_by_hand(
    num_crops: int, width: int, height: int
) -> None:
    image = picture(width, height)
    found = crops_of(image, ImageSettings(num_crops=num_crops))
    wanted = crops_by_hand(image, num_crops)
    assert torch.equal(found, wanted)
    rows, columns = crop_grid(width, height, num_crops)
    assert len(found) == 1 + rows * columns <= 1 + num_crops


def test_the_tokens_of_a_picture_are_counted_as_published() -> None:
    assert token_count(1, 1) == 313
    assert token_count(2, 2) == 757
    assert token_count(4, 4) == 2509
    for rows, columns in ((1, 3), (3, 1), (2, 5)):
        height, width = 336 * rows, 336 * columns
        published = ((height // 336) * (width // 336) + 1) * 144 + 1 + (height // 336 + 1) * 12
        assert token_count(rows, columns) == published


def test_settings_are_the_cards_then_the_checkpoints_then_the_processors(tmp_path: Path) -> None:
    assert read_settings(tmp_path, None) == ImageSettings(num_crops=1)
    stored = {"num_crops": 9, "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    wanted = ImageSettings(num_crops=9, mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    assert read_settings(tmp_path, None) == wanted
    assert read_settings(tmp_path, 4).num_crops == 4
    crops = crops_of(picture(50, 40), wanted)
    assert torch.allclose(crops[0, 2].max(), torch.tensor((1 - 0.3) / 3), atol=0.1)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(EnvironmentFault, match=r"preprocessor_config\.json cannot be read"):
        read_settings(tmp_path, 4)


def test_a_picture_too_thin_to_be_resized_is_refused(phi: Callable[..., Any]) -> None:
    encoder = phi(**CROPS_4)
    for size in ((4000, 2), (2, 4000)):
        rendered = encoder.render(mh.Item(image=picture(*size)))
        for use in (encoder.size, lambda one: encoder.prepare([one])):
            with pytest.raises(ItemError, match="4000x2 pixels is too thin"):
                use(rendered)


@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_size_is_the_length_of_the_prepared_row_and_needs_no_pixels(
    num_crops: int, phi: Callable[..., Any], tmp_path: Path
) -> None:
    encoder = phi(num_crops=num_crops)
    for width, height in SIZES:
        path = tmp_path / f"{width}x{height}.png"
        picture(width, height).save(path)
        rendered = encoder.render(mh.Item(text=f"{PLACEHOLDER} what is this?", image=path))
        length = encoder.prepare([rendered]).ids_BL.shape[1]
        path.write_bytes(path.read_bytes()[:64])  # the header alone
        assert encoder.size(rendered) == length


def test_alpha_is_dropped_and_other_modes_become_colour(
    phi: Callable[..., Any], tmp_path: Path
) -> None:
    encoder = phi(**CROPS_4)
    colour = picture(90, 70)
    with_alpha = colour.copy()
    with_alpha.putalpha(Image.linear_gradient("L").resize(colour.size))
    for image in (with_alpha, colour.convert("L"), colour.convert("P"), colour.convert("CMYK")):
        path = tmp_path / f"{image.mode}.tiff"
        image.save(path)
        found, wanted = (
            encoder.prepare([encoder.render(mh.Item(image=one))]).images["crops"]
            for one in (path, image.convert("RGB"))
        )
        assert torch.equal(found, wanted)


# -- transformers by hand --------------------------------------------------------------------------


def by_hand(folder: Path, item: mh.Item, num_crops: int) -> np.ndarray[Any, Any]:
    """Embed one item with transformers' parts, plain loops, and nothing of ours."""
    from tokenizers import Tokenizer
    from transformers import Phi3Config, Phi3Model

    stored = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    factors = {name: stored["rope_scaling"][name] for name in ("short_factor", "long_factor")}
    original = stored["original_max_position_embeddings"]
    stored["rope_scaling"] = {
        **factors, "rope_type": "longrope", "original_max_position_embeddings": original
    }  # fmt: skip
    decoder = Phi3Model(Phi3Config(**stored, attn_implementation="eager")).eval()
    own = {name.removeprefix("model."): weights[name] for name in weights}
    assert decoder.load_state_dict(own, strict=False).missing_keys == []
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    parts = (item.text or "").split(PLACEHOLDER) if item.image is not None else [item.text]
    embedded = [decoder.embed_tokens(torch.tensor(tokenizer.encode(part).ids)) for part in parts]
    if item.image is not None:
        embedded.insert(1, picture_by_hand(weights, item.image, num_crops))
    with torch.no_grad():
        hidden_LD = decoder(inputs_embeds=torch.cat(embedded)[None]).last_hidden_state[0]
    last_D: np.ndarray[Any, Any] = hidden_LD[-1].numpy()
    return last_D / np.linalg.norm(last_D)


def picture_by_hand(weights: dict[str, Any], image: Any, num_crops: int) -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    place = "model.vision_embed_tokens."
    tower = CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
            image_size=336, patch_size=14, hidden_act="quick_gelu", attn_implementation="eager",
        )
    ).eval()  # fmt: skip
    prefix = f"{place}img_processor.vision_model."
    own = {name[len(prefix) :]: weights[name] for name in weights if name.startswith(prefix)}
    tower.load_state_dict(own)
    crops = crops_by_hand(image, num_crops)
    rows, columns = crop_grid(*image.size, num_crops)
    with torch.no_grad():
        patches = tower(crops, output_hidden_states=True).hidden_states[-2][:, 1:]
    patches = patches.reshape(-1, 24, 24, 32)

    def token(crop: int, row: int, column: int) -> Any:
        square = [patches[crop, 2 * row + y, 2 * column + x] for y in (0, 1) for x in (0, 1)]
        return torch.cat(square)

    end, between = weights[f"{place}sub_GN"][0, 0, 0], weights[f"{place}glb_GN"][0, 0]
    tokens = []
    for row in range(rows * 12):
        for column in range(columns * 12):
            crop = 1 + row // 12 * columns + column // 12
            tokens.append(token(crop, row % 12, column % 12))
        tokens.append(end)
    tokens.append(between)
    for row in range(12):
        tokens += [*(token(0, row, column) for column in range(12)), end]
    merged = torch.stack(tokens)
    first, second = f"{place}img_projection.0.", f"{place}img_projection.2."
    inner = merged @ weights[f"{first}weight"].T + weights[f"{first}bias"]
    inner = 0.5 * inner * (1 + torch.erf(inner / 2**0.5))
    return inner @ weights[f"{second}weight"].T + weights[f"{second}bias"]


@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_vectors_are_those_of_transformers_called_by_hand(
    num_crops: int, phi: Callable[..., Any], model_folder: Path
) -> None:
    items = mixed_items()[:2] if num_crops == 16 else mixed_items()
    found = phi(num_crops=num_crops).encode(items)
    wanted = [by_hand(model_folder, item, num_crops) for item in items]
    assert_close(found, np.stack(wanted))


def test_the_number_of_crops_changes_items_with_an_image_and_no_others(
    phi: Callable[..., Any],
) -> None:
    one, four = (phi(num_crops=number).encode(mixed_items()) for number in (1, 4))
    moved = np.abs(one - four).max(axis=1)
    has_image = np.array([item.image is not None for item in mixed_items()])
    assert moved[has_image].min() > 1e-3
    assert moved[~has_image].max() <= 1e-5


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_kernels_agree(attention: str, phi: Callable[..., Any]) -> None:
    encoder = phi(**CROPS_4, attention=attention)
    assert_close(encoder.encode(mixed_items()), phi(**CROPS_4).encode(mixed_items()))
    tower = encoder.module.image_embedding.img_processor["vision_model"]
    used = {encoder.module.config._attn_implementation, tower.config._attn_implementation}
    assert used == {attention}


def test_half_precision_keeps_the_position_tables_whole(phi: Callable[..., Any]) -> None:
    half, full = phi(**CROPS_4, dtype="bfloat16"), phi(**CROPS_4)
    assert {one.dtype for one in half.module.parameters()} == {torch.bfloat16}
    tables = [module.module.language_model.rotary_emb.inv_freq for module in (half, full)]
    assert torch.equal(*tables)
    found, wanted = (one.encode(mixed_items()) for one in (half, full))
    assert (found * wanted).sum(axis=1).min() > 0.99


# -- positions -------------------------------------------------------------------------------------


LIMIT = 340


@pytest.fixture
def short_phi(changed_model: Callable[..., Path]) -> tuple[Any, Path]:
    """Return a model whose short rope factors end at 340 tokens, and its folder."""
    limits = {"original_max_position_embeddings": LIMIT, "max_position_embeddings": 32 * LIMIT}
    folder = changed_model(**limits)
    return mh.load_encoder(f"phi3-v:{folder}", device="cpu", num_crops=1), folder


def lengths_around_the_limit() -> list[mh.Item]:
    """Texts and pictures (313 tokens) that are short, at the limit, and long."""
    return [
        mh.Item(text="a cat"),
        mh.Item(text="one two three four five six seven " * 40),
        mh.Item(text=f"{PLACEHOLDER} what?", image=picture(60, 50)),
        mh.Item(text="!" * (LIMIT - 1)),
        mh.Item(text=f"{PLACEHOLDER} and {'what ' * 40}", image=picture(60, 90, turn=30)),
        mh.Item(text="!" * LIMIT),
    ]


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_and_short_items_take_their_own_rope_factors_in_one_batch(
    side: str, short_phi: tuple[Any, Path]
) -> None:
    encoder, folder = short_phi
    encoder.padding_side = side
    items = lengths_around_the_limit()
    lengths = [encoder.size(encoder.render(item)) for item in items]
    assert [length > LIMIT for length in lengths] == [False, True, False, False, True, True]
    assert lengths[3] == LIMIT == lengths[5] - 1
    wanted = np.stack([by_hand(folder, item, 1) for item in items])
    assert_close(np.concatenate([encoder.encode([item]) for item in items]), wanted)
    for order in ([0, 1, 2, 3, 4, 5], [4, 0, 2], [5, 3], [3, 0, 2], [1, 2, 4], [2, 5], [1, 4]):
        batch = encoder.prepare([encoder.render(items[place]) for place in order])
        with torch.no_grad():
            assert_close(encoder.forward(batch).numpy(), wanted[order])


def test_the_two_sets_of_rope_factors_differ(
    short_phi: tuple[Any, Path], changed_model: Callable[..., Path]
) -> None:
    encoder, _ = short_phi
    scale = encoder.module.language_model.rotary_emb.attention_scaling
    assert scale == pytest.approx((1 + np.log(32) / np.log(LIMIT)) ** 0.5)
    folder = changed_model(original_max_position_embeddings=4096)
    other = mh.load_encoder(f"phi3-v:{folder}", device="cpu", num_crops=1)
    other.module.language_model.rotary_emb.attention_scaling = scale
    items = lengths_around_the_limit()
    moved = np.abs(encoder.encode(items) - other.encode(items)).max(axis=1)
    assert moved[[1, 4, 5]].min() > 1e-3
    assert moved[[0, 2, 3]].max() <= 1e-5


def test_a_text_beyond_the_published_limit_is_that_of_transformers(
    own_phi: Callable[..., Any], model_folder: Path
) -> None:
    item = mh.Item(text="!" * 4200)
    encoder = own_phi(max_length=8192)
    rendered = [encoder.render(one) for one in (mh.Item(text="a cat"), item)]
    assert encoder.size(rendered[1]) > 4096
    with torch.no_grad():
        found = encoder.forward(encoder.prepare(rendered)).numpy()
    assert_close(found[0], by_hand(model_folder, mh.Item(text="a cat"), 1))
    assert_close(found[1], by_hand(model_folder, item, 1))


# -- the same vector by every way ------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_vector_does_not_depend_on_its_batch(side: str, own_phi: Callable[..., Any]) -> None:
    encoder = own_phi(**CROPS_4)
    items = mixed_items()
    alone = np.concatenate([encoder.encode([item]) for item in items])
    encoder.padding_side = side
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 4, 0, 3, 1], [2, 5], [5, 0], [1, 0, 4]):
        batch = encoder.prepare([encoder.render(items[place]) for place in order])
        with torch.no_grad():
            assert_close(encoder.forward(batch).numpy(), alone[order])
    assert_close(encoder.encode(items), alone)


def test_a_pickled_encoder_prepares_the_same_batch_and_carries_no_weights(
    phi: Callable[..., Any],
) -> None:
    encoder, items = phi(**CROPS_4), mixed_items()
    before = encoder.encode(items)  # the weights are loaded
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 200_000  # the weights are 937 kB
    other = pickle.loads(pickled)
    batch, again = (one.prepare([one.render(item) for item in items]) for one in (encoder, other))
    for name in ("ids_BL", "mask_BL", "is_image_BL"):
        assert torch.equal(getattr(batch, name), getattr(again, name))
    for name in ("crops", "grids"):
        assert torch.equal(batch.images[name], again.images[name])
    assert_close(other.encode(items), before, 1e-6)


def test_forward_is_encode_with_a_gradient_for_all_but_the_layer_that_comes_to_nothing(
    own_phi: Callable[..., Any],
) -> None:
    encoder = own_phi(**CROPS_4)
    batch = encoder.prepare([encoder.render(item) for item in mixed_items()])
    vectors = encoder.forward(batch)
    assert_close(vectors.detach().numpy(), encoder.encode(mixed_items()))
    (vectors * torch.arange(vectors.numel()).reshape(vectors.shape).cos()).sum().backward()
    tower = "model.vision_embed_tokens.img_processor.vision_model."
    for name, parameter in encoder.module.named_parameters():
        idle = parameter.grad is None or not parameter.grad.abs().sum() > 0
        assert idle == name.startswith((f"{tower}encoder.layers.2.", f"{tower}post_layernorm."))


@pytest.mark.parametrize("name", ["sub_GN", "glb_GN", "img_projection.0.weight"])
def test_a_gradient_is_the_slope_of_the_vectors(name: str, own_phi: Callable[..., Any]) -> None:
    encoder = own_phi(num_crops=1)
    batch = encoder.prepare([encoder.render(item) for item in mixed_items()[:2]])
    weight = encoder.module.get_parameter(f"model.vision_embed_tokens.{name}")
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    chosen = torch.randn(2, 64, generator=torch.Generator().manual_seed(2))
    (encoder.forward(batch) * chosen).sum().backward()
    slope, step, values = float((weight.grad * direction).sum()), 1e-3, []
    with torch.no_grad():
        for sign in (1, -1):
            weight += sign * step * direction
            values.append(float((encoder.forward(batch).double() * chosen).sum()))
            weight -= sign * step * direction
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=2e-2, abs=2e-4)
    assert abs(slope) > 1e-3


def test_checkpointed_gradients_are_plain_gradients(own_phi: Callable[..., Any]) -> None:
    gradients = []
    for checkpointing in (False, True):
        encoder = own_phi(num_crops=1)
        if checkpointing:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # it is about to be renamed
                encoder.module.gradient_checkpointing_enable()
        encoder.module.train()
        batch = encoder.prepare([encoder.render(item) for item in mixed_items()])
        encoder.forward(batch)[:, 0].sum().backward()
        gradients.append({n: p.grad for n, p in encoder.module.named_parameters()})
    for name, gradient in gradients[0].items():
        if gradient is not None:
            assert torch.allclose(gradients[1][name], gradient, rtol=1e-4, atol=1e-6), name


# -- texts -----------------------------------------------------------------------------------------


def test_text_alone_is_cut_and_items_with_an_image_are_not(phi: Callable[..., Any]) -> None:
    encoder, whole = phi(num_crops=1, max_length=12), phi(num_crops=1)
    long = " ".join(f"word{number}" for number in range(50))
    text, with_image = (
        mh.Item(text=long), mh.Item(text=f"{long}{PLACEHOLDER}{long}", image=picture(50, 40))
    )  # fmt: skip
    found, full = (one.prepare([one.render(text)]).ids_BL[0] for one in (encoder, whole))
    assert len(full) > 100
    assert found.tolist() == full[:12].tolist()
    assert encoder.size(encoder.render(text)) == 12
    found, full = (one.prepare([one.render(with_image)]).ids_BL[0] for one in (encoder, whole))
    assert found.tolist() == full.tolist()
    assert len(found) == encoder.size(encoder.render(with_image)) > 200 + token_count(1, 1)


def test_a_stray_placeholder_stays_text_beside_images(phi: Callable[..., Any]) -> None:
    encoder = phi(**CROPS_4)
    stray = mh.Item(text=f"{PLACEHOLDER}\nRepresent the text: a cat")
    bare = mh.Item(text="Represent the text: a cat")
    items = [mixed_items()[1], stray, mixed_items()[3]]
    assert_close(encoder.encode(items)[1], encoder.encode([stray])[0])
    assert np.abs(encoder.encode([stray]) - encoder.encode([bare])).max() > 1e-3
    dropped = phi(**CROPS_4, stray_placeholder="drop")
    assert_close(dropped.encode([stray]), encoder.encode([bare]), 1e-6)


def test_an_image_without_placeholder_gets_one_in_front(phi: Callable[..., Any]) -> None:
    encoder, image = phi(**CROPS_4), picture(50, 40)
    bare, placed = mh.Item(text="a cat", image=image), f"{PLACEHOLDER}\na cat"
    assert_close(encoder.encode([bare]), encoder.encode([mh.Item(text=placed, image=image)]), 1e-6)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (mh.Item(text=""), "neither text nor image"),
        (mh.Item(text=f"{PLACEHOLDER} {PLACEHOLDER}", image=picture(9, 9)), "2 placeholders"),
        (mh.Item(text=f"{PLACEHOLDER} <|image_2|>", image=picture(9, 9)), "2 image tags, not one"),
        (mh.Item(text="x", image=b"not an image"), "not an image file"),
    ],
)
def test_an_unusable_item_is_refused(item: mh.Item, why: str, phi: Callable[..., Any]) -> None:
    encoder = phi(**CROPS_4)
    with pytest.raises(ItemError, match=why):
        encoder.prepare([encoder.render(item)])


# -- the published tokenizer's ways ----------------------------------------------------------------


def llama_tokenizer(folder: Path, **config: Any) -> None:
    """Write a tokenizer such as Phi-3's: byte fallback, a space mark put before every text."""
    from tokenizers import AddedToken, Tokenizer, models, normalizers

    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += ["▁▁", *"Represnthgivma"]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [("▁", "▁")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.add_special_tokens(
        [AddedToken(one, special=True) for one in ("<s>", "<|endoftext|>", "<|user|>")]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    stored = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", "unk_token": "<unk>", "model_max_length": 131072,
        "auto_map": {"AutoProcessor": "processing_phi3_v.Phi3VProcessor"},
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(stored | config))
    (folder / "special_tokens_map.json").unlink()


@pytest.mark.parametrize("flag", [{}, {"add_bos_token": True}, {"add_bos_token": False}])
def test_every_text_begins_as_in_the_original(
    flag: dict[str, bool], changed_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    remote = {"AutoConfig": "configuration_phi3_v.Phi3VConfig"}
    folder = changed_model(auto_map=remote)
    llama_tokenizer(folder, **flag)

    def asked(*_: Any) -> str:
        raise AssertionError("the user was asked whether to run remote code")

    monkeypatch.setattr("builtins.input", asked)
    encoder = mh.load_encoder(f"phi3-v:{folder}", device="cpu", num_crops=1)
    start = [] if flag == {"add_bos_token": False} else ["<s>"]

    def tokens(item: mh.Item) -> list[str]:
        batch = encoder.prepare([encoder.render(item)])
        marked = zip(batch.ids_BL[0].tolist(), batch.is_image_BL[0].tolist(), strict=True)
        names = ["IMAGE" if is_image else one for one, is_image in marked]
        return [n if n == "IMAGE" else encoder.tokenizer.convert_ids_to_tokens(n) for n in names]

    image = picture(40, 30)
    pictures = ["IMAGE"] * token_count(1, 1)
    found = tokens(mh.Item(text=f"<|user|>\n{PLACEHOLDER}\nR", image=image))
    assert found == [*start, "<|user|>", "▁", "<0x0A>", *pictures, *start, "▁", "<0x0A>", "R"]
    found = tokens(mh.Item(text=f"{PLACEHOLDER} R", image=image))
    assert found == [*start, *pictures, *start, "▁▁", "R"]
    assert tokens(mh.Item(text="Re")) == [*start, "▁", "R", "e"]
    assert np.isfinite(encoder.encode([mh.Item(text="Re")])).all()


def test_a_folder_without_a_tokenizer_is_told_so(changed_model: Callable[..., Path]) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        folder = changed_model()
        (folder / name).unlink()
        encoder = mh.load_encoder(f"phi3-v:{folder}", device="cpu")
        with pytest.raises(EnvironmentFault, match=r"has no usable tokenizer\.json"):
            encoder.encode([mh.Item(text="a cat")])
        shutil.rmtree(folder)


# -- cards -----------------------------------------------------------------------------------------


def test_the_probes_are_the_published_ones() -> None:
    from mmeb_harness.registry import build_registry

    card: mh.Card = build_registry().cards["vlm2vec-phi3.5v-full"].thing
    first, second = card.probes
    assert (first.others_role, second.others_role) == ("candidate", "query")
    assert [dict(probe.settings) for probe in card.probes] == [{"num_crops": 16}] * 2
    assert card.num_crops == 4
    assert [values[0] for probe in card.probes for values in probe.others.values()] == [
        0.3008, 0.2051, 0.2930, 0.2012,
    ]  # fmt: skip


def test_a_square_resize_is_no_option_of_this_family(model_folder: Path) -> None:
    with pytest.raises(UsageError, match="image_resolution"):
        mh.load_encoder(f"phi3-v:{model_folder}", device="cpu", image_resolution="low")
