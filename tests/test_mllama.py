"""Mllama against transformers called by hand, the published layouts of its weights, and itself."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from mmeb_harness.errors import ItemError, UsageError
from mmeb_harness.plugins.adapter import bind_adapter
from mmeb_harness.plugins.mllama import Mllama
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import mllama as tiny

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.filterwarnings(  # transformers before 5.20 warns of itself
        "ignore:.hidden_state. is deprecated:FutureWarning"
    ),
]

IMAGE, BEGIN = tiny.IMAGE, tiny.BEGIN
VISION_TOKENS = 4 * 5


def picture(turn: int, size: tuple[int, int]) -> Image.Image:
    """Draw a picture that differs with `turn` all over."""
    gradient = Image.linear_gradient("L")
    bands = [gradient.rotate(turn), gradient.rotate(90 + 2 * turn), gradient.rotate(40 * turn)]
    return Image.merge("RGB", bands).resize(size)


ONE, TWO, THREE, FOUR = (
    picture(10 + 20 * turn, size)
    for turn, size in enumerate([(20, 25), (50, 22), (22, 80), (130, 120)])
)

CASES: list[tuple[mh.Item, str]] = [
    (mh.Item(text="A cat and a dog"), "A cat and a dog"),
    (
        mh.Item(text="<|image_1|>\nRepresent the given image.\n", image=ONE),
        f"{IMAGE}{BEGIN}Represent the given image.\n",
    ),
    (mh.Item(text="Find me an image: a long text " * 9), "Find me an image: a long text " * 9),
    (
        mh.Item(text="<|image_1|>\nWhat stands beside the red chair?\n\n", image=TWO),
        f"{IMAGE}{BEGIN}What stands beside the red chair?\n\n",
    ),
    (mh.Item(image=THREE), f"{IMAGE}{BEGIN}"),
    (
        mh.Item(text="<|image_1|>\nFind: a stray placeholder\n"),
        f"{BEGIN}Find: a stray placeholder\n",
    ),
    (mh.Item(text="text before <|image_1|> and after", image=FOUR), ""),
]
CASES[-1] = (CASES[-1][0], f"text before {IMAGE}{BEGIN} and after")
ITEMS = [item for item, _ in CASES]
HAS_IMAGE = np.array([item.image is not None for item in ITEMS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny model."""
    path = tmp_path_factory.mktemp("mllama")
    tiny.make(path)
    return path


@pytest.fixture(scope="module")
def load(folder: Path) -> Callable[..., Any]:
    """Return `(**options) -> encoder` over the tiny model."""
    return lambda **options: mh.load_encoder(f"mllama:{folder}", device="cpu", **options)


@pytest.fixture(scope="module")
def encoder(load: Callable[..., Any]) -> Any:
    """Return an encoder that no test changes."""
    return load()


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare two arrays of vectors, shape first."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= tolerance


# -- transformers by hand --------------------------------------------------------------------------


def processor_of(folder: Path) -> Any:
    """Build the library's own processor, with the image processor that needs no torchvision."""
    from transformers import AutoTokenizer, MllamaImageProcessorPil, MllamaProcessor

    images = MllamaImageProcessorPil.from_pretrained(folder)
    return MllamaProcessor(images, AutoTokenizer.from_pretrained(folder))


def by_hand(folder: Path, image: Any, prompt: str, model: Any = None) -> Any:
    """Embed one item with the library's processor and model."""
    from transformers import MllamaModel

    images = None if image is None else [image]
    inputs = processor_of(folder)(images=images, text=prompt, return_tensors="pt")
    model = model or MllamaModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden_1LD = model(**inputs).last_hidden_state
    return torch.nn.functional.normalize(hidden_1LD[0, -1], dim=-1).numpy()


def test_vectors_are_those_of_transformers_called_by_hand(encoder: Any, folder: Path) -> None:
    wanted = np.stack([by_hand(folder, item.image, prompt) for item, prompt in CASES])
    assert_close(encoder.encode(ITEMS), wanted)
    apart = np.abs(encoder.encode(ITEMS)[:, None] - wanted[None]).max(-1)
    assert apart[~np.eye(len(ITEMS), dtype=bool)].min() > 1e-2


def test_the_pictures_differ_in_tiles(encoder: Any) -> None:
    batch = encoder.prepare([encoder.render(item) for item in ITEMS])
    assert batch.images["aspect_ratio_mask"].sum((1, 2)).tolist() == [1, 2, 3, 4]
    assert len(set(batch.images["aspect_ratio_ids"].flatten().tolist())) == 4


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_both_kernels_give_the_same(kernel: str, encoder: Any, load: Callable[..., Any]) -> None:
    assert_close(load(attention=kernel).encode(ITEMS), encoder.encode(ITEMS))


@pytest.mark.parametrize(
    "text",
    [
        "a cat",
        f"{BEGIN}a cat",
        f"a {BEGIN} cat",
        f"{IMAGE}a cat",
        f"{IMAGE}{BEGIN}a cat",
        f"a {IMAGE} cat",
    ],
)
def test_begin_tokens_stand_where_the_processor_puts_them(
    text: str, encoder: Any, folder: Path
) -> None:
    images = [ONE] if IMAGE in text else None
    inputs = processor_of(folder)(images=images, text=text, return_tensors="pt")
    assert encoder.token_ids(text) == inputs["input_ids"][0].tolist()


def test_another_picture_and_no_picture_move_the_vector(encoder: Any) -> None:
    text = "<|image_1|>\nwhat is this?"
    one, other, none = encoder.encode(
        [mh.Item(text=text, image=FOUR), mh.Item(text=text, image=TWO), mh.Item(text=text)]
    )
    assert min(np.abs(one - other).max(), np.abs(one - none).max()) > 1e-2


def test_bfloat16_is_near_float32(encoder: Any, load: Callable[..., Any]) -> None:
    half = load(dtype="bfloat16").encode(ITEMS)
    assert (half * encoder.encode(ITEMS)).sum(1).min() > 0.995


# -- the same vector by every way ------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_vector_does_not_depend_on_its_batch(side: str, load: Callable[..., Any]) -> None:
    encoder = load()
    alone = np.concatenate([encoder.encode([item]) for item in ITEMS])
    encoder.padding_side = side
    for order in ([0, 1, 2, 3, 4, 5, 6], [6, 2, 4, 0, 3, 1, 5], [2, 0], [1, 4], [0, 6], [3]):
        batch = encoder.prepare([encoder.render(ITEMS[place]) for place in order])
        with torch.no_grad():
            assert_close(encoder.forward(batch).numpy(), alone[order])


def test_the_library_itself_lets_an_image_change_its_neighbour(encoder: Any, folder: Path) -> None:
    """Why items with and without an image run apart; fails when the library mends it."""
    from transformers import MllamaModel

    with_image = processor_of(folder)(
        images=[ONE], text=f"{IMAGE}{BEGIN}a cat", return_tensors="pt"
    )
    text = processor_of(folder)(text="a dog", return_tensors="pt").input_ids
    ids = torch.nn.functional.pad(text, (0, with_image["input_ids"].shape[1] - text.shape[1]))
    both = {key: torch.cat([value, torch.zeros_like(value)]) for key, value in with_image.items()}
    both |= {"input_ids": torch.cat([with_image["input_ids"], ids]), "attention_mask": None}
    with torch.no_grad():
        hidden_2LD = MllamaModel.from_pretrained(folder).eval()(**both).last_hidden_state
    beside = torch.nn.functional.normalize(hidden_2LD[1, text.shape[1] - 1], dim=-1).numpy()
    assert np.abs(beside - encoder.encode([mh.Item(text="a dog")])[0]).max() > 1e-2


def test_a_gradient_reaches_every_parameter(load: Callable[..., Any]) -> None:
    encoder = load()
    vectors = encoder.forward(encoder.prepare([encoder.render(item) for item in ITEMS]))
    assert_close(vectors.detach().numpy(), encoder.encode(ITEMS))
    (vectors * torch.arange(vectors.numel()).reshape(vectors.shape).cos()).sum().backward()
    idle = [name for name, one in encoder.module.named_parameters() if one.grad is None]
    assert idle == []


def test_a_pickled_encoder_prepares_the_same_batch_and_carries_no_weights(encoder: Any) -> None:
    encoder.encode(ITEMS)  # the weights are loaded
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 200_000  # the weights are 441 kB
    other = pickle.loads(pickled)
    batch, again = (one.prepare([one.render(item) for item in ITEMS]) for one in (encoder, other))
    assert torch.equal(batch.ids_BL, again.ids_BL)
    for name, value in batch.images.items():
        assert torch.equal(value, again.images[name])


def test_a_saved_encoder_loads_from_its_folder_with_its_card(
    load: Callable[..., Any], tmp_path: Path
) -> None:
    encoder = load(max_length=9, normalize=False)
    encoder.save(tmp_path / "saved")
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert_close(again.encode(ITEMS), encoder.encode(ITEMS), 1e-6)
    assert again.card.vector_settings() == encoder.card.vector_settings()


# -- published layouts -----------------------------------------------------------------------------


def test_a_checkpoint_of_todays_layout_loads_whole(
    encoder: Any, folder: Path, tmp_path: Path
) -> None:
    """The tiny one, as transformers writes it, has the older layout, which mmE5's has too."""
    stored = load_file(folder / "model.safetensors")
    assert {key.split(".")[0] for key in stored} == {
        "language_model", "vision_model", "multi_modal_projector",
    }  # fmt: skip
    newer = {
        f"model.{key}".replace("model.language_model.model.", "model.language_model.").replace(
            "model.language_model.lm_head", "lm_head"
        ): value
        for key, value in stored.items()
    }
    for path in folder.glob("*.json"):
        (tmp_path / path.name).write_text(path.read_text())
    save_file(newer, tmp_path / "model.safetensors", {"format": "pt"})
    found = mh.load_encoder(f"mllama:{tmp_path}", device="cpu").encode(ITEMS)
    assert_close(found, encoder.encode(ITEMS), 1e-6)


TODAY, OLDER = "base_model.model.model.", "base_model.model."
LAYOUTS = {
    "today's generation class": lambda key: key,
    "today's base class": lambda key: key.replace(TODAY, OLDER),
    "before transformers 4.52": lambda key: key.replace(TODAY, OLDER).replace(
        "language_model.", "language_model.model."
    ),
}


@pytest.fixture(scope="module")
def adapted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Save a DoRA adapter with values everywhere; return its folder and the merged model."""
    from peft import LoraConfig, get_peft_model
    from transformers import MllamaForConditionalGeneration

    path = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(3)
    targets = ["q_proj", "k_proj", "down_proj", "fc1", "multi_modal_projector"]
    base = MllamaForConditionalGeneration.from_pretrained(folder)
    settings: dict[str, Any] = {"r": 2, "lora_alpha": 8, "target_modules": targets}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by names that it has given up
        config = LoraConfig(**settings, use_dora=True, init_lora_weights=False)
        bound = get_peft_model(base, config)
        bound.save_pretrained(path)
        merged = bound.merge_and_unload()
    return path, merged.model.eval()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_adapter_binds_in_every_layout(
    layout: str, adapted: tuple[Path, Any], folder: Path, load: Callable[..., Any], tmp_path: Path
) -> None:
    source, merged = adapted
    stored = load_file(source / "adapter_model.safetensors")
    renamed = {LAYOUTS[layout](key): value for key, value in stored.items()}
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((source / "adapter_config.json").read_text())
    encoder = load(adapter=str(tmp_path))
    wanted = np.stack([by_hand(folder, item.image, prompt, merged) for item, prompt in CASES])
    assert_close(encoder.encode(ITEMS), wanted)
    assert np.abs(encoder.encode(ITEMS) - load().encode(ITEMS)).max(1).min() > 1e-3
    bound = bind_adapter(load().load_module(), tmp_path, Mllama.adapter_rules)
    found = [name for name, _ in bound.named_parameters() if ".lora_" in name]
    assert len(found) == len(stored)


# -- sizes and lengths -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 2), (28, 28), (333, 517)])
def test_size_is_the_text_and_what_the_vision_tower_sees(
    size: tuple[int, int], encoder: Any
) -> None:
    item = mh.Item(text="<|image_1|>\nwhat is this?", image=picture(20, size))
    rendered = encoder.render(item)
    batch = encoder.prepare([rendered])
    assert batch.images["pixel_values"].shape == (1, 1, 4, 3, 28, 28)
    assert encoder.size(rendered) == batch.ids_BL.shape[1] + VISION_TOKENS
    states = encoder.module.vision_model(**encoder.on_device(batch.images)).last_hidden_state
    assert states.flatten(0, -2).shape[0] == VISION_TOKENS
    assert np.isfinite(encoder.encode([item])).all()


@pytest.mark.parametrize("max_length", [1, 3, 8, 20])
@pytest.mark.parametrize("image", [None, TWO])
def test_text_is_cut_as_by_the_processor_and_the_image_is_not(
    max_length: int, image: Any, load: Callable[..., Any], folder: Path
) -> None:
    encoder = load(max_length=max_length)
    rendered = encoder.render(mh.Item(text="a dog beside two red chairs " * 30, image=image))
    batch = encoder.prepare([rendered])
    assert int(batch.is_image_BL.sum()) == (image is not None)
    assert batch.ids_BL.shape[1] == max_length
    if (
        max_length > 1 or image is None
    ):  # the processor cuts the image's token, and gives a zero mask
        inputs = processor_of(folder)(
            text=rendered.text,
            images=None if image is None else [image],
            truncation=True,
            max_length=max_length,
        )
        assert batch.ids_BL.tolist() == list(inputs["input_ids"])


def test_a_transparent_image_lies_on_white_as_by_the_processor(encoder: Any, folder: Path) -> None:
    clear = FOUR.copy()
    clear.putalpha(Image.linear_gradient("L").resize(FOUR.size))
    grey = FOUR.convert("LA")
    grey.putalpha(clear.getchannel("A"))
    palette = io.BytesIO()
    clear.quantize(16).save(palette, "PNG")
    images = [clear, grey, Image.open(palette), FOUR.convert("L"), FOUR.convert("CMYK")]
    wanted = [by_hand(folder, image, f"{IMAGE}{BEGIN}") for image in images]
    assert_close(encoder.encode([mh.Item(image=image) for image in images]), np.stack(wanted))
    dropped = encoder.encode([mh.Item(image=clear.convert("RGB"))])[0]
    assert np.abs(dropped - wanted[0]).max() > 1e-3


# -- what does not fit -----------------------------------------------------------------------------


def test_flash_attention_is_refused(load: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="no flash attention: -M attention=sdpa"):
        load(attention="flash")


def test_a_second_image_token_is_refused(encoder: Any) -> None:
    rendered = encoder.render(mh.Item(text=f"a {IMAGE} cat", image=ONE))
    with pytest.raises(ItemError, match="2 image tokens, not one"):
        encoder.prepare([rendered])


def test_a_model_of_another_type_is_refused(goldens: Path) -> None:
    with pytest.raises(UsageError, match="'clip'; mllama reads mllama"):
        mh.load_encoder(f"mllama:{goldens}/models/tiny-clip")
