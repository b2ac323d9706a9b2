"""SigLIP and SigLIP 2 against the reference's numbers, transformers called by hand, and itself."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.plugins import built_in_cards
from PIL import Image
from tiny import siglip2

pytestmark = pytest.mark.thorough

SUBSETS = ("ImageNet-1K", "OK-VQA", "MSCOCO_t2i", "CIRR", "RefCOCO")
IMAGE_TOKENS, LENGTH = 49, 64
FIXED = {"text_padding": "max_length"}

Items = Callable[[str, str], list[mh.Item]]
Siglip = Callable[..., Any]


@pytest.fixture(scope="module")
def golden(goldens: Path) -> Path:
    """Return the folder of the golden SigLIP."""
    return goldens / "models/tiny-siglip"


@pytest.fixture(scope="module")
def tiny_siglip(golden: Path) -> Siglip:
    """Return `(**options) -> encoder` over the golden SigLIP."""
    return lambda **options: mh.load_encoder(f"siglip:{golden}", device="cpu", **options)


@pytest.fixture(scope="module")
def fixed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of a tiny SigLIP 2 of fixed resolution."""
    return siglip2.make(tmp_path_factory.mktemp("fixed"))


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the name of a tiny SigLIP 2 that keeps an image's own shape."""
    return siglip2.make_native(tmp_path_factory.mktemp("native"))


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare two arrays of vectors, shape first."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= tolerance


def picture(turn: int = 0, size: tuple[int, int] = (100, 80)) -> Image.Image:
    """Draw a picture that differs with `turn`."""
    gradient = Image.linear_gradient("L")
    bands = [gradient, gradient.rotate(90 + turn), gradient.rotate(2 * turn)]
    return Image.merge("RGB", bands).crop((0, 0, *size))


def mixed_items() -> list[mh.Item]:
    """Text alone, image alone and both, of many lengths and shapes."""
    return [
        mh.Item(text="a cat"),
        mh.Item(text="a red square beside a blue one, and much more to say", image=picture(10)),
        mh.Item(image=picture(50, (40, 90))),
        mh.Item(text="Two dogs. " * 40),
        mh.Item(text="?!", image=picture(90, (200, 20))),
        mh.Item(text="..."),
        mh.Item(text="one", image=picture(20).convert("L")),
    ]


def alone(encoder: Any, items: list[mh.Item]) -> Any:
    """Encode item by item."""
    return np.concatenate([encoder.encode([item]) for item in items])


# -- the reference's numbers -----------------------------------------------------------------------


def test_vectors_are_those_of_the_reference(
    tiny_siglip: Siglip, goldens: Path, golden_items: Items
) -> None:
    encoder = tiny_siglip(prompt="stored")
    compared = 0
    with np.load(goldens / "expected/clip_siglip/siglip_multimodal_bs1.npz") as arrays:
        for name in arrays:
            subset, side = name.split("/")
            if side != "scores":
                assert_close(encoder.encode(golden_items(subset, side)), arrays[name])
                compared += 1
    assert compared == 2 * len(SUBSETS)


def test_every_hit_and_score_is_that_of_the_reference(
    tiny_siglip: Siglip, goldens: Path, tmp_path: Path
) -> None:
    expected = goldens / "expected/clip_siglip/siglip_multimodal_bs1"
    results = json.loads(expected.with_suffix(".json").read_text())
    outcome = mh.evaluate(
        tiny_siglip(prompt="stored"),
        tasks=list(results),
        data_dir=goldens / "data/eval",
        image_dir=goldens / "data/eval_images",
        output_dir=tmp_path / "run",
        scoring="reference",
    )
    assert set(results) == set(SUBSETS)
    with np.load(expected.with_suffix(".npz")) as arrays:
        for subset, result in results.items():
            assert outcome.tasks[subset].hit_at_1 == pytest.approx(result["acc"])
            rows = pq.read_table(tmp_path / f"run/tasks/{subset}.parquet").to_pylist()
            assert [row["top_candidates"][0] for row in rows] == result["pred_index"]
            for row, scores in zip(rows, arrays[f"{subset}/scores"], strict=True):
                assert_close(row["top_scores"], scores[row["top_candidates"]])
                assert_close(row["top_scores"], np.sort(scores)[::-1][:10])


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("side", ["qry", "tgt"])
def test_tokens_and_pixels_are_those_of_the_reference(
    subset: str, side: str, tiny_siglip: Siglip, goldens: Path, golden_items: Items
) -> None:
    encoder = tiny_siglip(prompt="stored")
    facts = json.loads((goldens / "expected/clip_siglip/siglip_inputs.json").read_text())
    with np.load(goldens / "expected/clip_siglip/siglip_inputs.npz") as arrays:
        ids, offsets = (arrays[f"{subset}/{side}/{name}"] for name in ("ids", "offsets"))
    items = golden_items(subset, side)
    assert len(items) == len(offsets) - 1
    for number, (item, fact) in enumerate(zip(items, facts[f"{subset}/{side}"], strict=True)):
        rendered = encoder.render(item)
        batch = encoder.prepare([rendered])
        assert batch.ids_TL[0].tolist() == ids[offsets[number] : offsets[number + 1]].tolist()
        assert fact["mask_sum"] == fact["n_ids"] - 1  # the reference hides the end token
        assert encoder.size(rendered) == fact["n_ids"] + IMAGE_TOKENS * (item.image is not None)
        if item.image is not None:
            pixels = batch.pixels["pixel_values"]
            assert list(pixels.shape) == fact["shape"]
            assert sha256(pixels.numpy().tobytes()).hexdigest()[:16] == fact["sha256"]


# -- transformers by hand --------------------------------------------------------------------------


def siglip_by_hand(folder: Path, texts: list[str], *, padded: bool) -> tuple[Any, Any, Any]:
    """Return text vectors one at a time, and the model and token ids they came from."""
    from transformers import SiglipModel, SiglipTokenizer

    model = SiglipModel.from_pretrained(folder).eval()
    tokenizer = SiglipTokenizer.from_pretrained(folder)
    settings = {"padding": "max_length"} if padded else {}
    rows = [
        tokenizer(text, truncation=True, max_length=LENGTH, **settings)["input_ids"]
        for text in texts
    ]
    with torch.no_grad():
        vectors = [model.get_text_features(torch.tensor([row])).pooler_output for row in rows]
    return torch.cat(vectors).numpy(), model, rows


def test_fixed_padding_is_what_the_authors_do(tiny_siglip: Siglip, golden: Path) -> None:
    texts = ["a cat", "A photo of 2 cats!", "...", "much to say " * 40]
    wanted, _, rows = siglip_by_hand(golden, texts, padded=True)
    assert {len(row) for row in rows} == {LENGTH}
    encoder = tiny_siglip(**FIXED)
    assert_close(encoder.encode([mh.Item(text=text) for text in texts]), wanted)
    script = tiny_siglip().encode([mh.Item(text=text) for text in texts])
    assert np.abs(script - wanted).max(axis=1).min() > 1e-2


def test_a_shorter_length_is_padded_to_just_that(tiny_siglip: Siglip, golden: Path) -> None:
    from transformers import AutoTokenizer, SiglipModel

    model = SiglipModel.from_pretrained(golden).eval()
    ids = AutoTokenizer.from_pretrained(golden)(
        "a cat", padding="max_length", truncation=True, max_length=20, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        wanted = model.get_text_features(input_ids=ids).pooler_output
    encoder = tiny_siglip(text_padding="max_length", max_length=20)
    assert_close(encoder.encode([mh.Item(text="a cat")]), wanted)
    assert ids.shape == (1, 20)


def test_the_end_token_is_hidden_and_pools_itself_without_padding(
    tiny_siglip: Siglip, golden: Path
) -> None:
    wanted, model, ((*_, end),) = siglip_by_hand(golden, ["a cat"], padded=False)
    encoder = tiny_siglip()
    ids_1L = encoder.prepare([encoder.render(mh.Item(text="a cat"))]).ids_TL
    assert int(ids_1L[0, -1]) == end == model.config.text_config.eos_token_id
    hidden = torch.ones_like(ids_1L)
    hidden[0, -1] = 0
    with torch.no_grad():
        masked = model.get_text_features(ids_1L, attention_mask=hidden).pooler_output
    found = encoder.encode([mh.Item(text="a cat")])
    assert_close(found, masked.numpy())
    assert np.abs(found - wanted).max() > 1e-2


def test_a_text_of_nothing_but_an_end_token_attends_to_that(
    tiny_siglip: Siglip, golden: Path
) -> None:
    wanted, _, rows = siglip_by_hand(golden, ["?!"], padded=False)
    assert [len(row) for row in rows] == [1]
    items = [mh.Item(text="a longer text"), mh.Item(text="?!")]
    assert_close(tiny_siglip().encode(items)[1:], wanted)


def test_cosines_are_those_of_the_model_itself(tiny_siglip: Siglip, golden: Path) -> None:
    _, model, rows = siglip_by_hand(golden, ["a cat", "two dogs"], padded=True)
    encoder = tiny_siglip(**FIXED, normalize=True)
    pixels = encoder.prepare([encoder.render(mh.Item(image=picture()))]).pixels["pixel_values"]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(rows), pixel_values=pixels).logits_per_image
        scale, bias = model.logit_scale.exp().item(), model.logit_bias.item()
    text, other, image = encoder.encode(
        [mh.Item(text="a cat"), mh.Item(text="two dogs"), mh.Item(image=picture())]
    )
    assert_close([[image @ text * scale + bias, image @ other * scale + bias]], logits.numpy())


TEXTS = (
    "a photo of a cat",
    "A Photo of TWO Cats, é 漢",
    "x",
    "the man holds a large umbrella " * 9,
)


def siglip2_by_hand(name: str) -> tuple[Any, list[list[int]]]:
    """Return a model of transformers, and the ids of TEXTS: lower case, end, padding right."""
    from tokenizers import Tokenizer
    from transformers import AutoModel

    folder = name.partition(":")[2]
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    length, (pad, end) = 24, (0, 1)
    rows = [tokenizer.encode(text.lower(), add_special_tokens=False).ids for text in TEXTS]
    cut = [[*row[: length - 1], end] for row in rows]
    return AutoModel.from_pretrained(folder).eval(), [
        [*row, *[pad] * (length - len(row))] for row in cut
    ]


@pytest.mark.parametrize("kind", ["fixed", "native"])
def test_siglip2_texts_are_lowered_ended_and_padded_right(
    kind: str, request: pytest.FixtureRequest
) -> None:
    name = request.getfixturevalue(kind)
    model, rows = siglip2_by_hand(name)
    encoder = mh.load_encoder(name, device="cpu")
    items = [mh.Item(text=text) for text in TEXTS]
    batch = encoder.prepare([encoder.render(item) for item in items])
    assert batch.ids_TL.tolist() == rows
    assert batch.mask_TL is None
    with torch.no_grad():
        wanted = [model.get_text_features(torch.tensor([row])).pooler_output for row in rows]
    assert_close(encoder.encode(items), torch.cat(wanted).numpy())
    assert [encoder.size(encoder.render(item)) for item in items] == [24] * 4


def test_siglip2_of_fixed_resolution_sees_square_pictures(fixed: str) -> None:
    from transformers import SiglipImageProcessorPil, SiglipModel

    folder = fixed.partition(":")[2]
    model = SiglipModel.from_pretrained(folder).eval()
    processor = SiglipImageProcessorPil.from_pretrained(folder)
    pictures = [picture(30), picture(60, (30, 90))]
    with torch.no_grad():
        wanted = [
            model.get_image_features(**processor(images=one, return_tensors="pt")).pooler_output
            for one in pictures
        ]
    encoder = mh.load_encoder(fixed, device="cpu")
    assert_close(encoder.encode([mh.Item(image=one) for one in pictures]), torch.cat(wanted))


def test_native_siglip2_keeps_the_shape_of_a_picture(native: str) -> None:
    from transformers import Siglip2ImageProcessorPil, Siglip2Model

    folder = native.partition(":")[2]
    model = Siglip2Model.from_pretrained(folder).eval()
    processor = Siglip2ImageProcessorPil.from_pretrained(folder)
    pictures = [picture(30, (90, 90)), picture(60, (30, 90)), picture(60, (90, 30))]
    wanted, grids = [], set()
    for one in pictures:
        inputs = processor(images=one, return_tensors="pt")
        grids.add(tuple(inputs["spatial_shapes"][0].tolist()))
        with torch.no_grad():
            wanted.append(model.get_image_features(**inputs).pooler_output)
    assert len(grids) == 3
    encoder = mh.load_encoder(native, device="cpu")
    items = [mh.Item(image=one) for one in pictures]
    assert_close(encoder.encode(items), torch.cat(wanted))
    assert [encoder.size(encoder.render(item)) for item in items] == [20] * 3


@pytest.mark.parametrize("kind", ["fixed", "native"])
def test_siglip2_cosines_are_those_of_the_model_itself(
    kind: str, request: pytest.FixtureRequest
) -> None:
    name = request.getfixturevalue(kind)
    model, rows = siglip2_by_hand(name)
    encoder = mh.load_encoder(name, device="cpu", normalize=True)
    image = mh.Item(image=picture())
    pixels = encoder.prepare([encoder.render(image)]).pixels
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(rows), **pixels).logits_per_image
        scale, bias = model.logit_scale.exp().item(), model.logit_bias.item()
    texts = encoder.encode([mh.Item(text=text) for text in TEXTS])
    assert_close(encoder.encode([image]) @ texts.T * scale + bias, logits.numpy())


# -- the same vector by every way ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["longest", "max_length", "fixed", "native"])
def test_a_vector_does_not_depend_on_its_batch(
    kind: str, tiny_siglip: Siglip, request: pytest.FixtureRequest
) -> None:
    if kind in ("longest", "max_length"):
        encoder = tiny_siglip(text_padding=kind)
    else:
        encoder = mh.load_encoder(request.getfixturevalue(kind), device="cpu")
    items = mixed_items()
    wanted = alone(encoder, items)
    for order in ([*range(7)], [6, 4, 2, 0, 5, 3, 1], [5, 3], [2, 4]):
        batch = encoder.prepare([encoder.render(items[place]) for place in order])
        with torch.no_grad():
            assert_close(encoder.forward(batch).numpy(), wanted[order])
    differences = np.abs(wanted[:, None] - wanted[None]).max(-1) + np.eye(7)
    assert differences.min() > 1e-3


def test_long_texts_are_cut_to_the_positions_of_the_tower(tiny_siglip: Siglip) -> None:
    long = mh.Item(text="a cat " * 200)
    for options, length in (({}, LENGTH), ({"max_length": 9}, 9), ({"max_length": 999}, LENGTH)):
        encoder = tiny_siglip(**options)
        ids = encoder.prepare([encoder.render(long)]).ids_TL[0].tolist()
        assert len(ids) == length == encoder.size(encoder.render(long))
        assert ids[-1] == encoder.tokenizer.eos_token_id


@pytest.mark.parametrize("kind", ["longest", "max_length", "native"])
def test_a_pickled_encoder_prepares_the_same_batch(
    kind: str, tiny_siglip: Siglip, native: str
) -> None:
    encoder = (
        mh.load_encoder(native, device="cpu")
        if kind == "native"
        else tiny_siglip(text_padding=kind)
    )
    encoder.encode(mixed_items())
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 100_000
    batch, again = (
        one.prepare([one.render(item) for item in mixed_items()])
        for one in (encoder, pickle.loads(pickled))
    )
    assert torch.equal(batch.ids_TL, again.ids_TL)
    assert batch.pixels.keys() == again.pixels.keys()
    assert all(torch.equal(batch.pixels[name], again.pixels[name]) for name in batch.pixels)


def test_forward_is_encode_with_a_gradient_for_both_towers(tiny_siglip: Siglip) -> None:
    encoder = tiny_siglip()
    vectors = encoder.forward(encoder.prepare([encoder.render(item) for item in mixed_items()]))
    assert_close(vectors.detach().numpy(), encoder.encode(mixed_items()))
    (vectors * torch.arange(vectors.numel()).reshape(vectors.shape).cos()).sum().backward()
    idle = [name for name, one in encoder.module.named_parameters() if one.grad is None]
    assert idle == ["logit_scale", "logit_bias"]


@pytest.mark.parametrize("kind", ["golden", "fixed", "native"])
def test_a_saved_encoder_loads_from_its_folder_with_its_card(
    kind: str, tiny_siglip: Siglip, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind == "golden":
        encoder = tiny_siglip(**FIXED, max_length=20)
    else:
        encoder = mh.load_encoder(request.getfixturevalue(kind), device="cpu", max_length=20)
    encoder.save(tmp_path / "saved")
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert_close(again.encode(mixed_items()), encoder.encode(mixed_items()), 1e-6)
    assert again.card.vector_settings() == encoder.card.vector_settings()


# -- cards and refusals ----------------------------------------------------------------------------


def test_every_published_checkpoint_is_padded_as_it_was_trained() -> None:
    cards = [card for card in built_in_cards() if card.family in ("siglip", "siglip2")]
    assert len(cards) > 6
    assert {card.text_padding for card in cards} == {"max_length"}
    families = {card.name: card for card in built_in_cards() if card.is_family}
    assert families["siglip"].text_padding == "longest"
    assert families["siglip2"].text_padding == "max_length"


def test_the_way_of_padding_decides_the_key_of_a_vector(tiny_siglip: Siglip) -> None:
    padded, script = tiny_siglip(**FIXED).card, tiny_siglip().card
    assert padded.vector_settings() != script.vector_settings()


def test_a_padding_that_does_not_exist_is_refused(golden: Path) -> None:
    with pytest.raises(UsageError, match="text_padding"):
        mh.load_encoder(f"siglip:{golden}", text_padding="left")


def test_another_model_is_refused_by_its_type(goldens: Path) -> None:
    with pytest.raises(UsageError, match=r"'clip'.*siglip reads siglip, siglip2"):
        mh.load_encoder(f"siglip:{goldens}/models/tiny-clip")


def test_weights_that_lack_a_tensor_are_refused(golden: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    for path in golden.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(golden / "model.safetensors")
    del tensors["text_model.head.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EnvironmentFault, match=r"text_model\.head\.weight"):
        mh.load_encoder(f"siglip:{tmp_path}", device="cpu").encode([mh.Item(text="a")])


def test_each_generation_has_a_family_of_its_own(golden: Path, fixed: str) -> None:
    with pytest.raises(UsageError, match="has the tokenizer of siglip: name it -m siglip:"):
        mh.load_encoder(f"siglip2:{golden}")
    with pytest.raises(UsageError, match="has the tokenizer of siglip2: name it -m siglip2:"):
        mh.load_encoder(fixed.replace("siglip2:", "siglip:"))
