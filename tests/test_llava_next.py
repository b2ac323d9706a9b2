"""LLaVA-NeXT against the reference's numbers, transformers called by hand, and itself."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mmeb_harness.embed import embed_items
from mmeb_harness.errors import AdapterMismatch, EnvironmentFault, ItemError, UsageError
from mmeb_harness.files import FileIndex
from mmeb_harness.plugins import built_in_cards
from mmeb_harness.subject import subject_from_object
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import llava_next as tiny

pytestmark = pytest.mark.thorough

LOW: dict[str, Any] = {"image_resolution": "low", "max_length": 256}
DEFAULT: dict[str, Any] = {"image_resolution": "default", "max_length": 1024}
RUNS = [pytest.param("low", LOW, id="low"), pytest.param("default", DEFAULT, id="default")]
SUBSETS = ("ImageNet-1K", "OK-VQA", "MSCOCO_t2i", "CIRR", "RefCOCO")
PLACEHOLDER = "<|image_1|>"
IMAGE_TOKENS_LOW = 16 + 8 * (8 + 1)  # the whole, and a full grid of 2 x 2 tiles with newlines
ODD_SHAPES = [
    (1, 1), (1, 400), (400, 1), (55, 57), (57, 55), (56, 56), (113, 56), (56, 113), (333, 517),
    (517, 333), (640, 30), (31, 1000), (100, 101), (1350, 28), (1349, 1351),
]  # fmt: skip

Items = Callable[[str, str], list[mh.Item]]
Encoders = Callable[..., Any]


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    """Return `(**options) -> encoder` over the golden model; equal options share one: no edits."""
    reference = tiny.make(tmp_path_factory.mktemp("tiny"))

    @cache
    def load(**options: Any) -> Any:
        return mh.load_encoder(reference, device="cpu", **options)

    return load


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny model over Llama."""
    folder = tmp_path_factory.mktemp("llama")
    tiny.make_llama(folder)
    return folder


@pytest.fixture
def copied(goldens: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return `(file, **changes) -> folder`: a copy of the golden model, one JSON file changed."""

    def copy(file: str, **changes: Any) -> Path:
        folder = tmp_path / "copy"
        shutil.copytree(goldens / "models/tiny-llava-next", folder)
        settings = json.loads((folder / file).read_text())
        for name, value in changes.items():
            where = settings
            *parents, last = name.split("__")
            for parent in parents:
                where = where[parent]
            where[last] = value
        (folder / file).write_text(json.dumps(settings))
        return folder

    return copy


def load(folder: Path, **options: Any) -> Any:
    """Load an encoder of the test's own, which it may change."""
    return mh.load_encoder(f"llava-next:{folder}", device="cpu", **options)


def own(goldens: Path, **options: Any) -> Any:
    """Load the golden model for one test."""
    return load(goldens / "models/tiny-llava-next", **options)


def drawn(width: int, height: int, turn: int = 0) -> Image.Image:
    """Draw a picture whose content differs everywhere and between turns."""
    gradient = Image.linear_gradient("L")
    bands = [gradient, gradient.rotate(90 + turn), gradient.rotate(20 + 2 * turn)]
    return Image.merge("RGB", bands).resize((width, height))


def mixed_items() -> list[mh.Item]:
    """Text alone, image alone and both, of many lengths and shapes of grid."""
    return [
        mh.Item(text="a cat"),
        mh.Item(text=f"{PLACEHOLDER}\nRepresent the given image.", image=drawn(90, 70)),
        mh.Item(text="a much longer text about a dog, a boat and two blue squares " * 3),
        mh.Item(image=drawn(40, 151, 30)),
        mh.Item(text=f"before {PLACEHOLDER} after", image=drawn(301, 60, 60)),
        mh.Item(text="x"),
    ]


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare two arrays of vectors, shape first."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= tolerance


def expected(goldens: Path, run: str) -> dict[tuple[str, str], Any]:
    """Read a stored run as `{(subset, "qry", "tgt" or "scores"): array}`."""
    with np.load(goldens / f"expected/llava/llava_{run}.npz") as arrays:
        return {(name.split("/")[0], name.split("/")[1]): arrays[name] for name in arrays}


def digest(pixels: torch.Tensor) -> str:
    """Digest pixel values as the goldens do."""
    return sha256(pixels.numpy().tobytes()).hexdigest()[:16]


# -- the reference's numbers -----------------------------------------------------------------------


@pytest.mark.parametrize(("run", "options"), RUNS)
def test_vectors_are_those_of_the_reference(
    run: str, options: dict[str, Any], llava: Encoders, goldens: Path, golden_items: Items
) -> None:
    compared = 0
    for (subset, side), wanted in expected(goldens, run).items():
        if side != "scores":
            assert_close(llava(**options).encode(golden_items(subset, side)), wanted)
            compared += len(wanted)
    assert compared == 262


@pytest.mark.parametrize(("run", "options"), RUNS)
def test_every_hit_and_score_is_that_of_the_reference(
    run: str, options: dict[str, Any], llava: Encoders, goldens: Path, tmp_path: Path
) -> None:
    results = json.loads((goldens / f"expected/llava/llava_{run}.json").read_text())
    stored = expected(goldens, run)
    assert sorted(results) == sorted(SUBSETS)
    evaluated = mh.evaluate(
        llava(**options),
        tasks=list(results),
        data_dir=goldens / "data/eval",
        image_dir=goldens / "data/eval_images",
        output_dir=tmp_path / "run",
        scoring="reference",
    )
    for subset, result in results.items():
        assert evaluated.tasks[subset].hit_at_1 == result["acc"]
        rows = pq.read_table(tmp_path / f"run/tasks/{subset}.parquet").to_pylist()
        assert [row["top_candidates"][0] for row in rows] == result["pred_index"]
        for row, scores in zip(rows, stored[subset, "scores"], strict=True):
            assert_close(row["top_scores"], scores[row["top_candidates"]])
            assert_close(row["top_scores"], np.sort(scores)[::-1][:10])


@pytest.mark.parametrize(("run", "options"), RUNS)
def test_token_ids_are_those_of_the_reference(
    run: str, options: dict[str, Any], llava: Encoders, goldens: Path, golden_items: Items
) -> None:
    encoder, compared = llava(**options), 0
    with np.load(goldens / f"expected/llava/llava_{run}_inputs.npz") as arrays:
        stored = dict(arrays)
    for name in [name.removesuffix("/offsets") for name in stored if name.endswith("/offsets")]:
        starts, ids = stored[f"{name}/offsets"], stored[f"{name}/ids"]
        items = golden_items(*name.split("/"))
        for item, start, end in zip(items, starts[:-1], starts[1:], strict=True):
            rendered = encoder.render(item)
            assert encoder.prepare([rendered]).ids_BL[0].tolist() == ids[start:end].tolist()
            assert encoder.size(rendered) == end - start
            compared += 1
    assert compared == 262


def test_a_batch_padded_left_is_laid_out_as_in_the_reference(
    goldens: Path, golden_items: Items
) -> None:
    encoder, compared = own(goldens, **LOW), 0
    encoder.padding_side = "left"
    with np.load(goldens / "expected/llava/llava_low_inputs.npz") as arrays:
        stored = dict(arrays)
    for name in [name for name in stored if name.endswith("/batch8_input_ids")]:
        subset, side, _ = name.split("/")
        items = golden_items(subset, side)[:8]
        batch = encoder.prepare([encoder.render(item) for item in items])
        assert batch.ids_BL.tolist() == stored[name].tolist()
        mask = stored[f"{subset}/{side}/batch8_attention_mask"]
        assert batch.mask_BL.tolist() == mask.tolist()
        compared += 1
    assert compared == 10


# -- pixels ----------------------------------------------------------------------------------------


def golden_pictures(goldens: Path) -> dict[str, dict[str, Any]]:
    """Return what the reference made of each golden image, by its path."""
    keys = json.loads((goldens / "expected/keys.json").read_text())
    facts = json.loads((goldens / "expected/llava/llava_default_inputs.json").read_text())
    return {
        image: fact
        for name, stored in facts.items()
        for (_, image), fact in zip(
            keys[name.split("/")[0]][name.split("/")[1]], stored, strict=True
        )
        if image
    }


def odd_rest(encoder: Any, size: tuple[int, int]) -> bool:
    """Whether a (height, width), fitted into its grid, leaves an odd number of pixels."""
    from transformers.image_processing_utils import get_patch_output_size, select_best_resolution

    grid = select_best_resolution(size, encoder.config.image_grid_pinpoints)
    fitted = get_patch_output_size(np.empty((3, *size), np.uint8), grid, "channels_first")
    return any((whole - part) % 2 for whole, part in zip(grid, fitted, strict=True))


def test_pixels_of_all_150_images_are_those_of_the_reference(
    llava: Encoders, goldens: Path
) -> None:
    from transformers import LlavaNextImageProcessorPil

    encoder = llava(**DEFAULT)
    todays = LlavaNextImageProcessorPil.from_pretrained(goldens / "models/tiny-llava-next")
    pictures = golden_pictures(goldens)
    missed_today, odd = set(), set()
    for name, fact in pictures.items():
        picture = encoder.picture(goldens / "data/eval_images" / name)
        images, _ = encoder.process([picture])
        assert digest(images["pixels"]) == fact["sha256"], name
        assert images["sizes"].tolist() == fact["image_sizes"]
        if digest(todays(picture, return_tensors="pt")["pixel_values"]) != fact["sha256"]:
            missed_today.add(name)
        if odd_rest(encoder, (picture.height, picture.width)):
            odd.add(name)
    assert (len(pictures), len(missed_today)) == (150, 18)
    assert missed_today == odd  # the whole cause


@pytest.mark.parametrize("resolution", ["low", "mid", "high"])
def test_a_square_resize_leaves_no_rest_to_pad(resolution: str, llava: Encoders) -> None:
    from mmeb_harness.image import SQUARE_SIDES

    side = SQUARE_SIDES[resolution]
    assert not odd_rest(llava(image_resolution=resolution), (side, side))


def test_a_saved_image_processor_is_the_librarys(
    llava: Encoders, goldens: Path, tmp_path: Path
) -> None:
    from transformers import AutoImageProcessor

    llava().image_processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert saved["image_processor_type"] == "LlavaNextImageProcessor"
    again = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")
    assert type(again).__name__ == "LlavaNextImageProcessorPil"
    assert again.image_grid_pinpoints == llava().image_processor.image_grid_pinpoints


# -- image tokens ----------------------------------------------------------------------------------


@pytest.mark.parametrize("resolution", ["low", "default", "processor"])
def test_size_is_the_length_of_the_prepared_row_and_every_place_has_a_feature(
    resolution: str, llava: Encoders, tmp_path: Path
) -> None:
    encoder = llava(image_resolution=resolution)
    rendered = []
    for width, height in ODD_SHAPES:
        path = tmp_path / f"{width}x{height}.png"
        drawn(width, height).save(path)
        rendered.append(encoder.render(mh.Item(text=f"{PLACEHOLDER} what is this?", image=path)))
    places = set()
    for one in rendered:
        batch = encoder.prepare([one])
        assert encoder.size(one) == batch.ids_BL.shape[1]
        with torch.no_grad():
            assert len(encoder.features(batch.images)) == int(batch.is_image_BL.sum())
        places.add(int(batch.is_image_BL.sum()))
    assert places == {IMAGE_TOKENS_LOW} if resolution == "low" else len(places) > 8
    together = encoder.prepare(rendered)
    assert together.mask_BL.sum(1).tolist() == [encoder.size(one) for one in rendered]
    with torch.no_grad():
        assert len(encoder.features(together.images)) == int(together.is_image_BL.sum())


@pytest.mark.parametrize(
    ("size", "tokens"),
    [
        ((1344, 1344), 2928),  # 576 of the whole, and 48 rows of 48 and a newline
        ((336, 336), 576 + 24 * (24 + 1)),
        ((640, 480), 576 + 36 * (48 + 1)),
        ((480, 640), 576 + 48 * (36 + 1)),
        ((1200, 300), 576 + 18 * (72 + 1)),
    ],
)
def test_tokens_at_the_published_size(
    size: tuple[int, int], tokens: int, copied: Callable[..., Path], tmp_path: Path
) -> None:
    grids = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    folder = copied("config.json", vision_config__image_size=336, image_grid_pinpoints=grids)
    path = folder / "preprocessor_config.json"
    side = {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}
    path.write_text(
        json.dumps({**json.loads(path.read_text()), **side, "image_grid_pinpoints": grids})
    )
    encoder = load(folder, image_resolution="processor")
    drawn(*size).save(tmp_path / "image.png")
    assert encoder.image_tokens(tmp_path / "image.png") == tokens
    assert encoder.process([drawn(*size)])[1] == [tokens]


@pytest.mark.parametrize("max_length", [10, IMAGE_TOKENS_LOW, IMAGE_TOKENS_LOW + 5, 120])
def test_text_is_cut_and_image_tokens_are_not(max_length: int, goldens: Path) -> None:
    encoder = own(goldens, image_resolution="low", max_length=max_length)
    long = " ".join(f"word{number}" for number in range(200))
    for text in (f"{PLACEHOLDER}{long}", f"{long}{PLACEHOLDER}", f"{long}{PLACEHOLDER}{long}"):
        rendered = encoder.render(mh.Item(text=text, image=drawn(90, 70)))
        batch = encoder.prepare([rendered])
        assert int(batch.is_image_BL.sum()) == IMAGE_TOKENS_LOW
        assert batch.ids_BL.shape[1] == max(max_length, IMAGE_TOKENS_LOW) == encoder.size(rendered)
        words = [token for token in encoder.token_ids(rendered.text) if token != 3]
        kept = batch.ids_BL[~batch.is_image_BL].tolist()
        assert kept == words[: max(0, max_length - IMAGE_TOKENS_LOW)]
    short = encoder.render(mh.Item(text=long))
    ids = encoder.prepare([short]).ids_BL[0].tolist()
    assert ids == encoder.token_ids(long)[:max_length]
    assert ids[0] == encoder.tokenizer.bos_token_id


# -- the same vector by every way ------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("resolution", ["low", "processor"])
def test_a_vector_does_not_depend_on_its_batch(side: str, resolution: str, goldens: Path) -> None:
    encoder = own(goldens, image_resolution=resolution)
    items = mixed_items()
    alone = np.concatenate([encoder.encode([item]) for item in items])
    apart = np.abs(alone[:, None] - alone[None]).max(axis=2) + np.eye(len(items))
    assert apart.min() > 1e-2
    encoder.padding_side = side
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 4, 0, 3, 1], [4, 3], [2, 5], [5, 0], [1, 0, 4]):
        rendered = [encoder.render(items[place]) for place in order]
        with torch.no_grad():
            together = encoder.forward(encoder.prepare(rendered))
        assert_close(together.numpy(), alone[order])
    assert_close(encoder.encode(items[::-1]), alone[::-1])


def test_a_pickled_encoder_prepares_the_same_batch_and_carries_no_weights(llava: Encoders) -> None:
    encoder, items = llava(), mixed_items()
    before = encoder.encode(items)  # the weights are loaded
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 400_000  # the weights are 807 kB
    other = pickle.loads(pickled)
    batch, again = (one.prepare([one.render(item) for item in items]) for one in (encoder, other))
    for name in ("ids_BL", "mask_BL", "is_image_BL"):
        assert torch.equal(getattr(batch, name), getattr(again, name))
    for name in ("pixels", "sizes"):
        assert torch.equal(batch.images[name], again.images[name])
    assert_close(other.encode(items), before, 1e-6)


@pytest.mark.thorough
def test_worker_processes_give_the_same_vectors(
    llava: Encoders, golden_items: Items, tmp_path: Path
) -> None:
    encoder, items = llava(**DEFAULT), golden_items("MSCOCO_t2i", "tgt")
    index = FileIndex(tmp_path / "cache")
    found = embed_items(
        subject_from_object(encoder, index),
        items, index=index, cache_dir=tmp_path / "cache", batch_tokens=256, workers=2,
    )  # fmt: skip
    assert_close(found, encoder.encode(items))
    index.close()


def test_forward_is_encode_with_a_gradient_for_all_that_a_vector_depends_on(goldens: Path) -> None:
    encoder = own(goldens)
    rendered = [encoder.render(item) for item in mixed_items()]
    vectors = encoder.forward(encoder.prepare(rendered))
    assert_close(vectors.detach().numpy(), encoder.encode(mixed_items()))
    (vectors * torch.arange(vectors.numel()).reshape(vectors.shape).cos()).sum().backward()
    idle = {
        name
        for name, parameter in encoder.module.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    }
    unread = ("vision_tower.encoder.layers.2.", "vision_tower.post_layernorm.")  # features: -2
    assert idle == {
        name for name, _ in encoder.module.named_parameters() if name.startswith(unread)
    }


def test_a_saved_encoder_loads_from_its_folder_with_its_card(
    llava: Encoders, tmp_path: Path
) -> None:
    encoder = llava(image_resolution="low", normalize=False, max_length=100)
    encoder.save(tmp_path / "saved")
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert_close(again.encode(mixed_items()), encoder.encode(mixed_items()), 1e-6)
    assert again.card.vector_settings() == encoder.card.vector_settings()


# -- transformers by hand --------------------------------------------------------------------------


def by_hand(folder: Path, texts: Sequence[str], images: Sequence[Image.Image | None]) -> Any:
    """Embed one item at a time with the library's generation class and its own processor."""
    from transformers import (
        AutoTokenizer,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessorPil,
        LlavaNextProcessor,
    )

    model = LlavaNextForConditionalGeneration.from_pretrained(folder).eval()
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessorPil.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        patch_size=tiny.PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    rows = []
    for text, image in zip(texts, images, strict=True):
        inputs = processor(text=text, images=image, return_tensors="pt")
        with torch.no_grad():
            last_D = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
        rows.append(torch.nn.functional.normalize(last_D, dim=-1).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("model", ["mistral", "llama"])
def test_vectors_are_those_of_transformers_called_by_hand(
    model: str, goldens: Path, llama_folder: Path
) -> None:
    folder = llama_folder if model == "llama" else goldens / "models/tiny-llava-next"
    encoder = load(folder, image_resolution="processor")
    words = ["", "\nwhat is in the image", " a cat and a dog\n", "\nRepresent the question: é?\n"]
    pictures = [drawn(112, 56), drawn(45, 130, 30), drawn(40, 39, 60), drawn(300, 201, 90)]
    assert not any(odd_rest(encoder, (one.height, one.width)) for one in pictures)
    items = [
        mh.Item(text=f"{PLACEHOLDER}{text}", image=one)
        for text, one in zip(words, pictures, strict=True)
    ]
    items += [mh.Item(text=text) for text in words[1:]]
    texts = [f"<image>{text}" for text in words] + words[1:]
    assert_close(encoder.encode(items), by_hand(folder, texts, [*pictures, None, None, None]))


def test_the_card_of_e5_v_asks_as_its_authors_do(llama_folder: Path) -> None:
    card = next(card for card in built_in_cards() if card.name == "e5-v")
    encoder = load(llama_folder, prompt="template", template=card.template)
    turn = (
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n \n"
    )
    prompts = [
        turn.format("A dog sitting in the grass.\nSummary above sentence in one word: "),
        turn.format("<image>\nSummary above image in one word: "),
    ]
    image = drawn(112, 112)
    items = [mh.Item(text="A dog sitting in the grass."), mh.Item(image=image)]
    assert_close(encoder.encode(items), by_hand(llama_folder, prompts, [None, image]))


def test_the_tokenizer_file_decides_and_not_the_class_that_its_configuration_names(
    llama_folder: Path,
) -> None:
    from tokenizers import Tokenizer
    from transformers import LlamaTokenizer

    text = "<image>\nwhat is in the image"
    wanted = Tokenizer.from_file(str(llama_folder / "tokenizer.json")).encode(text).ids
    assert LlamaTokenizer.from_pretrained(llama_folder)(text)["input_ids"] != wanted  # the trap
    assert load(llama_folder).token_ids(text) == wanted


# -- adapters --------------------------------------------------------------------------------------

LAYOUTS = {  # a key's beginning before transformers 4.52, from 4.52, from 5, and the bare model's
    "old": {
        "language_model.": "language_model.model.",
        "vision_tower.": "vision_tower.vision_model.",
    },
    "4.52": {
        "language_model.": "model.language_model.",
        "vision_tower.": "model.vision_tower.vision_model.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    },
    "today": {
        "language_model.": "model.language_model.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    },
    "bare": {},
}
MODULES = {  # VLM2Vec's target names, and the projector
    **{f"language_model.layers.{n}.self_attn.{k}_proj": 0 for n in (0, 1) for k in "qkvo"},
    **{f"language_model.layers.{n}.mlp.down_proj": 0 for n in (0, 1)},
    **{
        f"vision_tower.encoder.layers.{n}.self_attn.{k}_proj": 0
        for n in (0, 1, 2)
        for k in ("q", "k", "v", "out")
    },
    "multi_modal_projector.linear_1": 0,
}


def make_adapter(goldens: Path, folder: Path, layout: str, *, dora: bool) -> dict[str, Any]:
    """Save a random adapter under a layout's keys; return the weights that it makes of the base."""
    base = dict(own(goldens).load_module().named_parameters())
    generator = torch.Generator().manual_seed(3)
    tensors, merged = {}, {}
    for module in MODULES:
        weight = base[f"{module}.weight"].detach()
        rows, columns = weight.shape
        down = torch.randn(4, columns, generator=generator) * 0.2
        up = torch.randn(rows, 4, generator=generator) * 0.2
        magnitude = weight.norm(dim=1) * (1 + 0.1 * torch.randn(rows, generator=generator))
        new = weight + 2.0 * up @ down
        merged[f"{module}.weight"] = (
            magnitude[:, None] * new / new.norm(dim=1, keepdim=True) if dora else new
        )
        key = module
        for start, replacement in LAYOUTS[layout].items():
            if module.startswith(start):
                key = replacement + module.removeprefix(start)
        tensors[f"base_model.model.{key}.lora_A.weight"] = down
        tensors[f"base_model.model.{key}.lora_B.weight"] = up
        if dora:
            tensors[f"base_model.model.{key}.lora_magnitude_vector"] = magnitude
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = [*(f"{name}_proj" for name in ("q", "k", "v", "o", "out", "down")), "linear_1"]
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {
                "peft_type": "LORA", "r": 4, "lora_alpha": 8, "use_dora": dora, "bias": "none",
                "target_modules": targets, "task_type": None, "lora_dropout": 0.0,
            }
        )
    )  # fmt: skip
    return merged


@pytest.mark.parametrize("dora", [True, False], ids=["dora", "lora"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_adapter_binds_whatever_library_named_its_keys(
    layout: str, dora: bool, goldens: Path, tmp_path: Path
) -> None:
    merged = make_adapter(goldens, tmp_path / "adapter", layout, dora=dora)
    adapted = own(goldens, adapter=str(tmp_path / "adapter"))
    plain = own(goldens)
    before = plain.encode(mixed_items())
    found = dict(adapted.module.named_parameters())
    for name, parameter in plain.module.named_parameters():
        if name in merged:
            assert not torch.equal(found[name], parameter)
            assert_close(found[name].detach(), merged[name])
            parameter.data.copy_(merged[name])
        else:
            assert torch.equal(found[name], parameter)
    assert_close(adapted.encode(mixed_items()), plain.encode(mixed_items()))
    assert np.abs(adapted.encode(mixed_items()) - before).max(axis=1).min() > 1e-3


@pytest.mark.parametrize(
    ("key", "change", "named"),
    [
        ("language_model.model.layers.1.self_attn.q_proj.lora_A.weight", "drop", "it lacks 1"),
        ("vision_tower.vision_model.encoder.layers.0.self_attn.out_proj.lora_magnitude_vector",
         "drop", "it lacks 1"),
        ("language_model.model.layers.0.mlp.down_proj.lora_B.weight", "move", "no module takes 1"),
    ],
)  # fmt: skip
def test_an_adapter_that_does_not_fit_is_refused_by_the_name_of_its_key(
    key: str, change: str, named: str, goldens: Path, tmp_path: Path
) -> None:
    make_adapter(goldens, tmp_path / "adapter", "old", dora=True)
    path = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(path)
    tensor = tensors.pop(f"base_model.model.{key}")
    if change == "move":
        tensors[f"base_model.model.{key.replace('layers.0', 'layers.7')}"] = tensor
    save_file(tensors, path)
    with pytest.raises(AdapterMismatch, match=named) as refusal:
        own(goldens, adapter=str(tmp_path / "adapter")).encode([mh.Item(text="a cat")])
    assert key.split("layers.")[1] in str(refusal.value)


# -- what cannot be used ---------------------------------------------------------------------------


def test_another_kind_of_model_is_refused(goldens: Path) -> None:
    with pytest.raises(UsageError, match=r"type 'qwen2_vl'; llava-next reads llava_next"):
        load(goldens / "models/tiny-qwen2vl")


def test_a_missing_tensor_is_named(copied: Callable[..., Path]) -> None:
    folder = copied("config.json")
    tensors = load_file(folder / "model.safetensors")
    del tensors["image_newline"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EnvironmentFault, match="image_newline"):
        load(folder).encode([mh.Item(text="a cat")])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"crop_size": {"height": 28, "width": 28}}, r"28 pixels.*56 pixels"),
        ({"image_grid_pinpoints": [[112, 56], [56, 112]]}, r"\[\[112, 56\], \[56, 112\]\]"),
    ],
)
def test_tiles_that_the_model_does_not_expect_are_refused(
    changes: dict[str, Any], named: str, copied: Callable[..., Path]
) -> None:
    encoder = load(copied("preprocessor_config.json", **changes))
    with pytest.raises(EnvironmentFault, match=named):
        encoder.encode([mh.Item(image=drawn(60, 60))])


def test_a_folder_without_image_processor_says_which_file_it_lacks(
    copied: Callable[..., Path],
) -> None:
    folder = copied("config.json")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(EnvironmentFault, match=r"preprocessor_config\.json is missing"):
        load(folder).encode([mh.Item(image=drawn(60, 60))])


def test_a_text_without_tokens_is_refused_where_no_start_token_is_added(
    copied: Callable[..., Path], llava: Encoders
) -> None:
    blank = mh.Item(text=" ")
    assert np.isfinite(llava().encode([blank])).all()
    folder = copied(
        "tokenizer.json",
        post_processor=None,
        normalizer={"type": "Strip", "strip_left": True, "strip_right": True},
    )
    with pytest.raises(ItemError, match="no tokens"):
        load(folder).encode([blank])


def test_a_stray_placeholder_stays_text_beside_images(llava: Encoders) -> None:
    encoder = llava(**LOW)
    items = [
        mh.Item(text=f"{PLACEHOLDER}\nRepresent the given image.", image=drawn(90, 70)),
        mh.Item(text=f"{PLACEHOLDER}\nRepresent the text: a cat"),
        mh.Item(text=f"{PLACEHOLDER}\nIs there a square?", image=drawn(70, 90, 40)),
    ]
    alone = np.concatenate([encoder.encode([item]) for item in items])
    batch = encoder.prepare([encoder.render(item) for item in items])
    assert batch.is_image_BL.sum(1).tolist() == [IMAGE_TOKENS_LOW, 0, IMAGE_TOKENS_LOW]
    with torch.no_grad():
        assert_close(encoder.forward(batch).numpy(), alone)
    bare = encoder.encode([mh.Item(text="Represent the text: a cat")])
    assert np.abs(alone[1] - bare[0]).max() > 1e-3
