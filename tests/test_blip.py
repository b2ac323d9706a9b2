"""BLIP and BLIP-2 against transformers called by hand, one item at a time, and themselves."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pytest
import torch
from mmeb_harness.errors import EnvironmentFault, UsageError
from mmeb_harness.plugins.blip2 import caption
from PIL import Image
from tiny import blip, blip2

pytestmark = pytest.mark.thorough

FAMILIES = ("blip", "blip-2", "blip-2-unprojected")
TEXTS = (
    "a cat",
    "A woman and her dog sitting in a beach.",
    "two small boats beside a green house, while it rains in the street",
)
ASKED = "<|image_1|>\nRepresent the given image with the following question: what is it?\n"
Load = Callable[..., Any]


def picture(turn: int = 0) -> Image.Image:
    """Draw a picture that differs with `turn`, of no special size."""
    gradient = Image.linear_gradient("L")
    bands = [gradient, gradient.rotate(90 + turn), gradient.rotate(2 * turn)]
    return Image.merge("RGB", bands).crop((0, 0, 100 + turn, 80))


PICTURES = tuple(picture(turn) for turn in (0, 30, 75))


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


def unit(vectors: Any) -> Any:
    """Return vectors of length one."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the folder of each tiny model by its family."""
    root = tmp_path_factory.mktemp("blip")
    blip.make(root / "one")
    blip2.make(root / "two")
    return {"blip": root / "one", "blip-2": root / "two", "blip-2-unprojected": root / "two"}


@pytest.fixture(scope="module")
def load(folders: dict[str, Path]) -> Load:
    """Return `(family, **options) -> encoder`; equal options share one: no edits."""
    loaded: dict[Any, Any] = {}

    def load(family: str, **options: Any) -> Any:
        key = (family, *sorted(options.items()))
        if key not in loaded:
            loaded[key] = mh.load_encoder(f"{family}:{folders[family]}", device="cpu", **options)
        return loaded[key]

    return load


@pytest.fixture(scope="module")
def library(folders: dict[str, Path]) -> dict[str, tuple[Any, Any]]:
    """Return transformers' model and processor of each kind, loaded without the harness."""
    from transformers import (
        AutoTokenizer,
        Blip2ForImageTextRetrieval,
        Blip2Processor,
        BlipForImageTextRetrieval,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    def parts(folder: Path) -> tuple[Any, Any]:
        images = BlipImageProcessorPil.from_pretrained(folder)
        return images, AutoTokenizer.from_pretrained(folder)

    one, two = folders["blip"], folders["blip-2"]
    return {
        "blip": (
            BlipForImageTextRetrieval.from_pretrained(one, attn_implementation="eager").eval(),
            BlipProcessor(*parts(one)),
        ),
        "blip-2": (
            Blip2ForImageTextRetrieval.from_pretrained(two).eval(),
            Blip2Processor(*parts(two)),
        ),
    }


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    """Compute as in evaluation."""
    with torch.no_grad():
        yield


# -- transformers by hand --------------------------------------------------------------------------


def test_cosines_are_the_scores_of_blip_itself(load: Load, library: dict[str, Any]) -> None:
    model, processor = library["blip"]
    vectors = load("blip", normalize=True).encode(items())
    for row, text in enumerate(TEXTS):
        for column, image in enumerate(PICTURES):
            inputs = processor(images=image, text=text, return_tensors="pt")
            score = float(model(**inputs, use_itm_head=False).itm_score)
            assert vectors[row] @ vectors[len(TEXTS) + column] == pytest.approx(score, abs=1e-5)


def test_blip_features_are_the_projected_first_tokens(load: Load, library: dict[str, Any]) -> None:
    model, processor = library["blip"]
    wanted = []
    for text in TEXTS:
        states = model.text_encoder(**processor(text=text, return_tensors="pt"))[0]
        wanted.append(model.text_proj(states[:, 0]))
    for image in PICTURES:
        states = model.vision_model(**processor(images=image, return_tensors="pt"))[0]
        wanted.append(model.vision_proj(states[:, 0]))
    wanted.append(wanted[1] + wanted[5])
    assert_close(load("blip").encode(items()), torch.cat(wanted).numpy())


def test_blip2_vectors_are_the_contrastive_ones_with_the_first_querys_for_an_image(
    load: Load, library: dict[str, Any]
) -> None:
    model, processor = library["blip-2"]
    vectors = unit(load("blip-2").encode(items()))
    for row, (text, image) in enumerate(zip(TEXTS, PICTURES, strict=True)):
        out = model(**processor(images=image, text=text, return_tensors="pt"))
        assert_close(vectors[row], out.text_embeds[0].numpy())
        assert_close(vectors[len(TEXTS) + row], out.image_embeds[0, 0].numpy())
        others = out.image_embeds[0, 1:] - out.image_embeds[0, :1]
        assert float(others.abs().max(-1).values.min()) > 1e-3, "the queries would be alike"


def test_blip2_features_are_added_unnormalised(load: Load, library: dict[str, Any]) -> None:
    model, processor = library["blip-2"]
    inputs = processor(images=PICTURES[2], text=TEXTS[1], return_tensors="pt")
    text, image = by_hand(model, inputs)
    wanted = model.text_projection(text) + model.vision_projection(image)
    assert_close(load("blip-2").encode(items()[-1:]), wanted.numpy())


def by_hand(model: Any, inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what BLIP-2's projections are given: of a text, and of an image's first query."""
    text = model(**inputs).text_model_output.last_hidden_state[:, 0]
    patches = model.vision_model(inputs["pixel_values"])[0]
    states = model.qformer(
        query_embeds=model.query_tokens,
        encoder_hidden_states=patches,
        encoder_attention_mask=torch.ones(patches.shape[:2], dtype=torch.long),
    )
    return text, states.last_hidden_state[:, 0]


def test_unprojected_vectors_are_the_states_before_the_projections(
    load: Load, library: dict[str, Any]
) -> None:
    model, processor = library["blip-2"]
    encoder = load("blip-2-unprojected")
    for text, image in zip(TEXTS, PICTURES, strict=True):
        inputs = processor(images=image, text=caption(text), return_tensors="pt")
        found = encoder.encode(
            [mh.Item(text=text), mh.Item(image=image), mh.Item(text=text, image=image)]
        )
        first, second = by_hand(model, inputs)
        assert_close(found, torch.cat([first, second, first + second]).numpy())


@pytest.mark.parametrize(
    ("text", "worded"),
    [
        ('A "Cat"!', "a cat"),
        ("  what (is) this: a #dog*~; or?", "what is this a dog or?"),
        ("<|image_1|>\nRepresent it.\n", "<|image_1|>\nrepresent it"),
        (" ".join(f"w{number}" for number in range(60)), " ".join(f"w{n}" for n in range(50))),
        ("...", ""),
        ("it's 3,000 km - so it is", "it's 3,000 km - so it is"),
    ],
)
def test_texts_of_the_unprojected_are_worded_as_lavis_does(text: str, worded: str) -> None:
    assert caption(text) == worded


def test_only_the_unprojected_are_worded_so(load: Load) -> None:
    item = mh.Item(text='A "Cat"!')
    assert load("blip-2").render(item).text == item.text
    assert load("blip-2-unprojected").render(item).text == "a cat"


# -- the same vector by every way ------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vector_does_not_depend_on_its_batch(family: str, load: Load) -> None:
    encoder, chosen = load(family), items()
    alone = np.concatenate([encoder.encode([item]) for item in chosen])
    for order in (range(7), [6, 2, 0, 5, 1], [0, 2], [4, 3]):
        batch = encoder.prepare([encoder.render(chosen[place]) for place in order])
        assert_close(encoder.forward(batch).numpy(), alone[list(order)])
    apart = np.abs(alone[:, None] - alone[None]).max(-1) + np.eye(len(alone))
    assert apart.min() > 1e-2, "the items would be alike"


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pickled_encoder_prepares_the_same_batch(family: str, load: Load) -> None:
    encoder = load(family)
    encoder.encode(items())
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 150_000  # the weights are 200 kB and more
    other = pickle.loads(pickled)
    batch, again = (one.prepare([one.render(i) for i in items()]) for one in (encoder, other))
    assert torch.equal(batch.ids_TL, again.ids_TL)
    assert torch.equal(batch.pixels, again.pixels)


@pytest.mark.parametrize("family", ["blip", "blip-2"])
def test_long_text_is_cut_to_the_positions_of_the_tower_and_keeps_its_end(
    family: str, load: Load
) -> None:
    long = mh.Item(text="boats " * 40 + "in the rain of a street " * 30)
    for encoder, length in ((load(family), 96), (load(family, max_length=9), 9)):
        ids = encoder.prepare([encoder.render(long)]).ids_TL[0].tolist()
        assert len(ids) == length == encoder.size(encoder.render(long))
        assert ids[-1] == encoder.tokenizer.sep_token_id
        assert np.isfinite(encoder.encode([long])).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_gives_nearly_the_same_vectors(family: str, load: Load) -> None:
    chosen = load(family)
    half = mh.load_encoder(f"{family}:{chosen.base}", device="cpu", dtype="bfloat16")
    cosines = (unit(half.encode(items())) * unit(chosen.encode(items()))).sum(-1)
    assert cosines.min() > 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_encoder_loads_from_its_folder(family: str, load: Load, tmp_path: Path) -> None:
    encoder = load(family, normalize=True)
    encoder.save(tmp_path / "saved")
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert_close(again.encode(items()), encoder.encode(items()), 1e-6)
    assert again.card.vector_settings() == encoder.card.vector_settings()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_plain_prompt_leaves_out_instruction_and_placeholder(family: str, load: Load) -> None:
    asked = ASKED.removeprefix("<|image_1|>\n").partition(": ")[0] + ":"
    item = mh.Item(text=ASKED, instruction=asked, image=PICTURES[0])
    assert load(family).render(item).text == "what is it?"


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("blip", "BlipForConditionalGeneration"),
        ("blip", "BlipForQuestionAnswering"),
        ("blip-2", "Blip2ForConditionalGeneration"),
    ],
)
def test_a_checkpoint_that_generates_is_refused(
    family: str, kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders[family], tmp_path / "model")
    config = json.loads((tmp_path / "model/config.json").read_text())
    (tmp_path / "model/config.json").write_text(json.dumps({**config, "architectures": [kind]}))
    with pytest.raises(UsageError, match=f"{kind} and has no contrastive head"):
        mh.load_encoder(f"{family}:{tmp_path / 'model'}", device="cpu")


@pytest.mark.parametrize(("family", "part"), [("blip", "text_proj"), ("blip-2", "embeddings")])
def test_a_checkpoint_without_the_head_is_refused(
    family: str, part: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(folders[family], tmp_path / "model")
    path = tmp_path / "model/model.safetensors"
    state = {name: one for name, one in load_file(path).items() if not name.startswith(part)}
    save_file(state, path, metadata={"format": "pt"})
    encoder = mh.load_encoder(f"{family}:{tmp_path / 'model'}", device="cpu")
    with pytest.raises(EnvironmentFault, match="they would be random"):
        encoder.encode([mh.Item(text="a cat")])


def test_a_model_of_another_kind_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="type 'blip-2'; blip reads blip"):
        mh.load_encoder(f"blip:{folders['blip-2']}", device="cpu")
