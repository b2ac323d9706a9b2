"""Qwen3-VL against transformers called by hand, its images against qwen-vl-utils, and itself."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from mmeb_harness.errors import AdapterMismatch, ItemError, UsageError
from mmeb_harness.plugins.adapter import bind_adapter
from mmeb_harness.plugins.decoder import Decoder
from mmeb_harness.plugins.qwen3_vl import Qwen3VL
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import qwen3_vl as tiny

pytestmark = pytest.mark.thorough

DEFAULT = "Represent the user's input."
QUESTION = "Represent the given image with the following question:"
VISION = "<|vision_start|><|image_pad|><|vision_end|>"


def chat(system: str, user: str) -> str:
    """Write the authors' prompt out."""
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def picture(turn: int, size: tuple[int, int]) -> Image.Image:
    """Draw a picture that differs with `turn` all over."""
    gradient = Image.linear_gradient("L")
    bands = [gradient.rotate(turn), gradient.rotate(90 + 2 * turn), gradient.rotate(40 * turn)]
    return Image.merge("RGB", bands).resize(size)


WIDE, TALL, SMALL = picture(10, (333, 120)), picture(40, (100, 210)), picture(70, (96, 64))

CASES: list[tuple[mh.Item, str]] = [
    (mh.Item(text="a cat"), chat(DEFAULT, "a cat")),
    (mh.Item(text="  A cat \n and more\n"), chat(DEFAULT, "  A cat \n and more\n")),
    (mh.Item(image=SMALL, role="candidate"), chat(DEFAULT, VISION)),
    (
        mh.Item(
            text=f"<|image_1|>\n{QUESTION} what stands beside the red chair?\n",
            instruction=QUESTION,
            image=WIDE,
            role="query",
        ),
        chat(QUESTION, f"{VISION}what stands beside the red chair?"),
    ),
    (
        mh.Item(text="Find it a long text " * 12, instruction="Find it", role="query"),
        chat("Find it.", ("a long text Find it " * 12).removesuffix(" Find it ")),
    ),
    (
        mh.Item(
            text="<|image_1|>\nRepresent the given image. a dog\n",
            instruction="Represent the given image.",
            image=TALL,
            role="candidate",
        ),
        chat(DEFAULT, f"{VISION}a dog"),
    ),
]
ITEMS = [item for item, _ in CASES]
HAS_IMAGE = np.array([item.image is not None for item in ITEMS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny model."""
    path = tmp_path_factory.mktemp("qwen3_vl")
    tiny.make(path)
    return path


@pytest.fixture(scope="module")
def load(folder: Path) -> Callable[..., Any]:
    """Return `(**options) -> encoder` over the tiny model."""
    return lambda **options: mh.load_encoder(f"qwen3-vl:{folder}", device="cpu", **options)


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


def by_hand(folder: Path, image: Image.Image | None, prompt: str, model: Any = None) -> Any:
    """Embed one item with the library's processor and model, images resized as the authors do."""
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLModel
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    images = Qwen2VLImageProcessorPil.from_pretrained(folder)
    inputs = {}
    if image is not None:
        height, width = smart_resize(image.height, image.width, 32, 4096, 1_843_200)
        square = image.resize((width, height))
        inputs = dict(images(images=[square], do_resize=False, return_tensors="pt"))
        tokens = int(inputs["image_grid_thw"].prod()) // 4
        prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * tokens)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    image_token = tokenizer.convert_tokens_to_ids("<|image_pad|>")
    model = model or Qwen3VLModel.from_pretrained(folder).eval()
    with torch.no_grad():
        hidden_1LD = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == image_token).int(),
            **inputs,
        ).last_hidden_state
    return torch.nn.functional.normalize(hidden_1LD[0, -1], dim=-1).numpy()


def test_vectors_are_those_of_transformers_called_by_hand(encoder: Any, folder: Path) -> None:
    wanted = [by_hand(folder, item.image, prompt) for item, prompt in CASES]  # type: ignore[arg-type]  # ours are PIL images
    assert_close(encoder.encode(ITEMS), np.stack(wanted))
    apart = np.abs(encoder.encode(ITEMS)[:, None] - np.stack(wanted)[None]).max(-1)
    assert apart[~np.eye(len(ITEMS), dtype=bool)].min() > 1e-2


def test_the_tokenizers_own_end_token_is_put_and_pooled(tmp_path: Path) -> None:
    tiny.make(tmp_path, closing=True)
    encoder = mh.load_encoder(f"qwen3-vl:{tmp_path}", device="cpu")
    wanted = [by_hand(tmp_path, item.image, prompt) for item, prompt in CASES]  # type: ignore[arg-type]  # ours are PIL images
    assert_close(encoder.encode(ITEMS), np.stack(wanted))
    ids = encoder.prepare([encoder.render(ITEMS[0])]).ids_BL[0].tolist()
    assert ids[-1] == encoder.tokenizer.convert_tokens_to_ids(tiny.END)


def test_features_of_every_depth_are_used(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = encoder.prepare([encoder.render(item) for item in ITEMS])
    last = batch.mask_BL.sum(1) - 1
    rows = torch.arange(len(last))
    with torch.no_grad():
        whole = encoder.hidden_states(batch)[rows, last]
        monkeypatch.setattr(encoder, "inputs", partial(Decoder.inputs, encoder))
        without = encoder.hidden_states(batch)[rows, last]
    moved = (whole - without).abs().amax(1).numpy()
    assert moved[HAS_IMAGE].min() > 1e-2
    assert moved[~HAS_IMAGE].max() <= 1e-5


def test_each_depth_alone_moves_the_vector(load: Callable[..., Any]) -> None:
    whole, changed = load().encode(ITEMS), load()
    for merger in changed.module.visual.deepstack_merger_list:
        with torch.no_grad():
            before = merger.linear_fc2.weight.clone()
            merger.linear_fc2.weight.zero_()
            moved = np.abs(changed.encode(ITEMS) - whole).max(1)
            merger.linear_fc2.weight.copy_(before)
        assert moved[HAS_IMAGE].min() > 1e-3


def test_positions_of_three_dimensions_move_items_with_an_image_and_no_others(
    encoder: Any, load: Callable[..., Any]
) -> None:
    moved = np.abs(encoder.encode(ITEMS) - load(positions="sequential").encode(ITEMS)).max(1)
    assert moved[HAS_IMAGE].min() > 1e-3
    assert moved[~HAS_IMAGE].max() <= 1e-5


def test_bfloat16_is_near_float32(encoder: Any, load: Callable[..., Any]) -> None:
    half = load(dtype="bfloat16").encode(ITEMS)
    assert (half * encoder.encode(ITEMS)).sum(1).min() > 0.995


# -- the same vector by every way ------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_a_vector_does_not_depend_on_its_batch(
    side: str, positions: str, load: Callable[..., Any]
) -> None:
    encoder = load(positions=positions)
    alone = np.concatenate([encoder.encode([item]) for item in ITEMS])
    encoder.padding_side = side
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 4, 0, 3, 1], [2, 0], [1, 4], [3, 4, 2]):
        batch = encoder.prepare([encoder.render(ITEMS[place]) for place in order])
        with torch.no_grad():
            assert_close(encoder.forward(batch).numpy(), alone[order])


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
    assert len(pickled) < 200_000  # the weights are 549 kB
    other = pickle.loads(pickled)
    batch, again = (one.prepare([one.render(item) for item in ITEMS]) for one in (encoder, other))
    assert torch.equal(batch.ids_BL, again.ids_BL)
    assert torch.equal(batch.images["pixels"], again.images["pixels"])


def test_a_saved_encoder_loads_from_its_folder_with_its_card(
    load: Callable[..., Any], tmp_path: Path
) -> None:
    encoder = load(min_pixels=30_000, max_length=50)
    encoder.save(tmp_path / "saved")
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert_close(again.encode(ITEMS), encoder.encode(ITEMS), 1e-6)
    assert again.card.vector_settings() == encoder.card.vector_settings()


# -- adapters --------------------------------------------------------------------------------------

LAYOUTS = {
    "today's generation class": lambda key: key,
    "today's base class": lambda key: key.replace("model.model.", "model."),
    "before transformers 4.52": lambda key: key.replace("model.language_model.", "model.").replace(
        "model.model.visual.", "model.visual."
    ),
}


@pytest.fixture(scope="module")
def adapted(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Save an adapter with values everywhere; return its folder and the model with it merged in."""
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3VLForConditionalGeneration

    path = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(3)
    targets = ["q_proj", "v_proj", "down_proj", "qkv", "linear_fc2"]
    base = Qwen3VLForConditionalGeneration.from_pretrained(folder)
    settings: dict[str, Any] = {"r": 2, "lora_alpha": 8, "target_modules": targets}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft asks transformers by names that it has given up
        bound = get_peft_model(base, LoraConfig(**settings, init_lora_weights=False))
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
    assert any(".visual." in key for key in renamed)
    encoder = load(adapter=str(tmp_path))
    wanted = [by_hand(folder, item.image, prompt, merged) for item, prompt in CASES]  # type: ignore[arg-type]  # ours are PIL images
    assert_close(encoder.encode(ITEMS), np.stack(wanted))
    assert np.abs(encoder.encode(ITEMS) - load().encode(ITEMS)).max(1).min() > 1e-3
    bound = bind_adapter(load().load_module(), tmp_path, Qwen3VL.adapter_rules)
    found = [name for name, _ in bound.named_parameters() if ".lora_" in name]
    assert len(found) == len(stored)


def test_an_adapter_with_one_key_renamed_is_refused(
    adapted: tuple[Path, Any], load: Callable[..., Any], tmp_path: Path
) -> None:
    stored = load_file(adapted[0] / "adapter_model.safetensors")
    key = next(key for key in stored if "deepstack" in key)
    stored[key.replace("deepstack", "depth")] = stored.pop(key)
    save_file(stored, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((adapted[0] / "adapter_config.json").read_text())
    with pytest.raises(AdapterMismatch, match="deepstack_merger_list"):
        load(adapter=str(tmp_path)).encode(ITEMS)


# -- images ----------------------------------------------------------------------------------------

FITTED = {  # by qwen-vl-utils 0.0.14: smart_resize(height, width, 32, 4096, 1843200)
    (96, 64): (96, 64),
    (1, 1): (64, 64),
    (9, 1400): (32, 1408),
    (15, 16): (64, 96),
    (47, 333): (32, 320),
    (48, 80): (64, 64),
    (333, 517): (320, 512),
    (640, 30): (640, 32),
    (1350, 28): (1344, 32),
    (1800, 1300): (1568, 1152),
    (4000, 3000): (1536, 1152),
    (31, 6100): (32, 6112),
    (12000, 8000): (1632, 1088),
}


@pytest.mark.parametrize("size", FITTED)
def test_an_image_is_fitted_as_by_the_authors_package(size: tuple[int, int], encoder: Any) -> None:
    assert encoder.fitted(size) == FITTED[size]


@pytest.mark.parametrize("size", [(1, 1), (9, 1400), (15, 16), (333, 517), (47, 333), (9000, 45)])
@pytest.mark.parametrize("limits", [{}, {"min_pixels": 40_000, "max_pixels": 90_000}])
def test_size_is_the_length_of_the_prepared_row(
    size: tuple[int, int], limits: dict[str, int], load: Callable[..., Any], tmp_path: Path
) -> None:
    encoder = load(**limits)
    picture(20, size).save(tmp_path / "picture.png")
    item = mh.Item(text="<|image_1|> what is this?", image=tmp_path / "picture.png")
    rendered = encoder.render(item)
    batch = encoder.prepare([rendered])
    width, height = encoder.fitted(size)
    assert batch.images["grids"].tolist() == [[1, height // 16, width // 16]]
    assert int(batch.is_image_BL.sum()) == width * height // 32**2
    assert batch.ids_BL.shape[1] == encoder.size(rendered)
    assert np.isfinite(encoder.encode([item])).all()


def test_an_image_far_too_long_is_refused(encoder: Any) -> None:
    rendered = encoder.render(mh.Item(image=Image.new("RGB", (10, 2001))))
    for step in (encoder.size, lambda one: encoder.prepare([one])):
        with pytest.raises(ItemError, match="10x2001 pixels is more than 200 times"):
            step(rendered)


def test_a_transparent_image_lies_on_white(encoder: Any) -> None:
    alpha = Image.linear_gradient("L").resize(SMALL.size)
    clear = SMALL.copy()
    clear.putalpha(alpha)
    white = Image.composite(SMALL, Image.new("RGB", SMALL.size, "white"), alpha)
    found, wanted, dropped = encoder.encode([mh.Item(image=one) for one in (clear, white, SMALL)])
    assert_close(found, wanted, 1e-6)
    assert np.abs(found - dropped).max() > 1e-3


# -- lengths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("max_length", [5, 40, 70])
def test_text_is_cut_as_the_tokenizer_cuts_it(
    closing: bool, max_length: int, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tiny.make(tmp_path, closing=closing)
    encoder = mh.load_encoder(f"qwen3-vl:{tmp_path}", device="cpu", max_length=max_length)
    rendered = encoder.render(mh.Item(text="a dog beside two red chairs " * 30))
    apart = AutoTokenizer.from_pretrained(tmp_path)  # a call leaves its limits in a tokenizer
    wanted = apart(rendered.text, truncation=True, max_length=max_length)["input_ids"]
    assert encoder.prepare([rendered]).ids_BL[0].tolist() == wanted
    assert encoder.size(rendered) == max_length
    end = encoder.tokenizer.convert_tokens_to_ids(tiny.END)
    assert (wanted[-1] == end) == closing


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("max_length", [1, 20, 45, 75])
def test_image_tokens_are_never_cut(closing: bool, max_length: int, tmp_path: Path) -> None:
    tiny.make(tmp_path, closing=closing)
    encoder = mh.load_encoder(f"qwen3-vl:{tmp_path}", device="cpu", max_length=max_length)
    tokens = (TALL.width // 32) * round(TALL.height / 32)
    rendered = encoder.render(mh.Item(text="a dog beside two red chairs " * 30, image=TALL))
    batch = encoder.prepare([rendered])
    assert int(batch.is_image_BL.sum()) == tokens
    assert batch.ids_BL.shape[1] == max(max_length, tokens) == encoder.size(rendered)


# -- prompts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instruction", "told"),
    [
        ("Find it", "Find it."),
        ("Find it:", "Find it:"),
        ("Find it?", "Find it?"),
        ("找到它。", "找到它。"),  # a full stop of another script
        ("Find it )", "Find it )"),
        ("Cost in $", "Cost in $."),  # a currency sign is a symbol, not punctuation
        ("a^", "a^."),
        (" Find it \n", "Find it."),
        (" ", DEFAULT),
        (None, DEFAULT),
    ],
)
def test_an_instruction_stands_in_the_system_turn_and_ends_in_punctuation(
    instruction: str | None, told: str, encoder: Any
) -> None:
    item = mh.Item(text=f"{instruction or ''} a cat", instruction=instruction)
    assert encoder.render(item).text == chat(told, " a cat" if not instruction else "a cat")


# -- what does not fit -----------------------------------------------------------------------------


def test_a_model_of_another_type_is_refused(goldens: Path) -> None:
    with pytest.raises(UsageError, match="'qwen2_vl'; qwen3-vl reads qwen3_vl"):
        mh.load_encoder(f"qwen3-vl:{goldens}/models/tiny-qwen2vl")


def test_the_published_configuration_is_the_one_tested(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen3VLForConditionalGeneration"]
    names = load_file(folder / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"model", "lm_head"}
