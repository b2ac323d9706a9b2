"""GME against transformers called by hand, and the authors' way with images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from mmeb_harness.errors import UsageError
from mmeb_harness.plugins.vision_ops import mend_torchvision
from PIL import Image

pytestmark = pytest.mark.thorough

DEFAULT = "You are a helpful assistant."
INSTRUCTION = "Find an image that matches the given text."
VISION = "<|vision_start|><|image_pad|><|vision_end|>"


def chat(system: str, user: str) -> str:
    """Write the authors' prompt out."""
    return (
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n"
        "<|im_start|>assistant\n<|endoftext|>"
    )


def picture(turn: int, size: tuple[int, int]) -> Image.Image:
    """Draw a picture that differs with `turn` all over."""
    gradient = Image.linear_gradient("L")
    bands = [gradient.rotate(turn), gradient.rotate(90 + 2 * turn), gradient.rotate(40 * turn)]
    return Image.merge("RGB", bands).resize(size)


WIDE, TALL, CLEAR = picture(10, (333, 120)), picture(40, (100, 210)), picture(70, (97, 64))
CLEAR.putalpha(Image.linear_gradient("L").resize(CLEAR.size))

CASES: list[tuple[mh.Item, str]] = [
    (mh.Item(text=" a cat\n"), chat(DEFAULT, " a cat\n")),
    (mh.Item(image=CLEAR, role="candidate"), chat(DEFAULT, VISION)),
    (
        mh.Item(text=f"{INSTRUCTION} a long text {'x y ' * 30}", instruction=INSTRUCTION),
        chat(INSTRUCTION, f"a long text {'x y ' * 30}".strip()),
    ),
    (
        mh.Item(text=f"<|image_1|>\n{INSTRUCTION} a dog\n", instruction=INSTRUCTION, image=WIDE),
        chat(INSTRUCTION, f"{VISION}a dog"),
    ),
    (
        mh.Item(
            text=f"<|image_1|>\n{INSTRUCTION} a dog\n",
            instruction=INSTRUCTION,
            image=TALL,
            role="candidate",
        ),
        chat(DEFAULT, f"{VISION}a dog"),
    ),
]
ITEMS = [item for item, _ in CASES]


@pytest.fixture(scope="module")
def load(goldens: Path) -> Callable[..., Any]:
    """Return `(**options) -> encoder` over the golden Qwen2-VL."""
    return lambda **options: mh.load_encoder(
        f"gme:{goldens}/models/tiny-qwen2vl", device="cpu", **options
    )


def by_hand(folder: Path, image: Image.Image | None, prompt: str) -> Any:
    """Embed one item with the library: an image resized twice, positions counted plainly."""
    mend_torchvision()
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen2VLModel
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    inputs = {}
    if image is not None:
        first = smart_resize(image.height, image.width, 28, 4 * 28 * 28, 16384 * 28 * 28)
        square = image.convert("RGB").resize(first[::-1])
        limits = {"min_pixels": 256 * 28 * 28, "max_pixels": 1280 * 28 * 28}
        processor = Qwen2VLImageProcessorPil.from_pretrained(folder, **limits)
        inputs = dict(processor(images=[square], return_tensors="pt"))
        tokens = int(inputs["image_grid_thw"].prod()) // 4
        assert tokens >= 256
        prompt = prompt.replace("<|image_pad|>", "<|image_pad|>" * tokens)
    ids = AutoTokenizer.from_pretrained(folder)(prompt, return_tensors="pt").input_ids
    model = Qwen2VLModel.from_pretrained(folder).eval()
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    with torch.no_grad():
        hidden_1LD = model(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            position_ids=positions,
            **inputs,
        ).last_hidden_state
    return torch.nn.functional.normalize(hidden_1LD[0, -1], dim=-1).numpy()


def test_vectors_are_those_of_transformers_called_by_hand(
    load: Callable[..., Any], goldens: Path
) -> None:
    folder = goldens / "models/tiny-qwen2vl"
    wanted = np.stack([by_hand(folder, item.image, prompt) for item, prompt in CASES])  # type: ignore[arg-type]  # ours are PIL images
    found = load().encode(ITEMS)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5
    apart = np.abs(found[:, None] - wanted[None]).max(-1)
    assert apart[~np.eye(len(ITEMS), dtype=bool)].min() > 1e-3


def test_the_second_resize_matters(load: Callable[..., Any]) -> None:
    encoder = load()
    twice = encoder.prepare([encoder.render(mh.Item(image=WIDE))]).images
    once = encoder.image_processor(images=[WIDE], return_tensors="pt")
    assert twice["grids"].tolist() != once["image_grid_thw"].tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_vector_does_not_depend_on_its_batch(side: str, load: Callable[..., Any]) -> None:
    encoder = load()
    alone = np.concatenate([encoder.encode([item]) for item in ITEMS])
    encoder.padding_side = side
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [1, 0]):
        batch = encoder.prepare([encoder.render(ITEMS[place]) for place in order])
        with torch.no_grad():
            assert np.abs(encoder.forward(batch).numpy() - alone[order]).max() <= 1e-5


FITTED = {  # by `smart_resize` of the authors' code
    (96, 64): (84, 56),
    (1, 1): (56, 56),
    (9, 1400): (28, 1400),
    (13, 14): (56, 84),
    (42, 70): (56, 56),
    (333, 517): (336, 504),
    (640, 30): (644, 28),
    (1800, 1300): (1792, 1288),
    (20, 9000): (28, 5600),
    (9000, 20): (5600, 28),
    (12000, 8000): (4368, 2912),
}


@pytest.mark.parametrize("size", FITTED)
def test_an_image_is_first_fitted_as_by_the_authors_code(
    size: tuple[int, int], load: Callable[..., Any]
) -> None:
    assert load().fitted(size) == FITTED[size]


@pytest.mark.parametrize("size", [(1, 1), (9, 1400), (20, 9000), (333, 517), (640, 30)])
def test_size_is_the_length_of_the_prepared_row(
    size: tuple[int, int], load: Callable[..., Any]
) -> None:
    encoder = load(min_pixels=3136, max_pixels=40_000)
    rendered = encoder.render(mh.Item(text="what is this?", image=picture(20, size)))
    batch = encoder.prepare([rendered])
    assert batch.ids_BL.shape[1] == encoder.size(rendered)
    assert int(batch.is_image_BL.sum()) == int(batch.images["grids"].prod()) // 4


def test_text_is_cut_and_image_tokens_are_not(load: Callable[..., Any]) -> None:
    encoder = load(max_length=300)
    rendered = encoder.render(mh.Item(text="a dog " * 400, image=TALL))
    tokens = int(encoder.prepare([rendered]).is_image_BL.sum())
    assert 256 <= tokens < 300
    assert encoder.prepare([rendered]).ids_BL.shape[1] == 300 == encoder.size(rendered)


def test_a_model_of_another_type_is_refused(goldens: Path) -> None:
    with pytest.raises(UsageError, match="'clip'; gme reads qwen2_vl"):
        mh.load_encoder(f"gme:{goldens}/models/tiny-clip")
