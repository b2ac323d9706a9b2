"""CLIP against the reference's numbers, transformers called by hand, and itself."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mmeb_harness.errors import ItemError, UsageError
from mmeb_harness.registry import build_registry
from mmeb_harness.selection import select_tasks, suite_tasks
from PIL import Image

SUBSETS = ("ImageNet-1K", "OK-VQA", "MSCOCO_t2i", "CIRR", "RefCOCO")
PLACEHOLDER = "<|image_1|>"
INSTRUCTION = "Represent the given image with the following question:"
IMAGE_TOKENS = 50
RUNS = [
    pytest.param("multimodal", {"prompt": "stored"}, id="multimodal"),
    pytest.param("unimodal", {"prompt": "stored", "fusion": "unimodal"}, id="unimodal"),
]

Clip = Callable[..., Any]
Items = Callable[[str, str], list[mh.Item]]


def expected_vectors(goldens: Path, run: str) -> dict[tuple[str, str], Any]:
    """Read a stored run as `{(subset, "qry", "tgt" or "scores"): array}`."""
    with np.load(goldens / f"expected/clip_siglip/clip_{run}.npz") as arrays:
        return {(name.split("/")[0], name.split("/")[1]): arrays[name] for name in arrays}


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare two arrays of vectors, shape first."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= tolerance


def picture(turn: int = 0) -> Image.Image:
    """Draw a picture that differs with `turn`."""
    gradient = Image.linear_gradient("L")
    bands = [gradient, gradient.rotate(90 + turn), gradient.rotate(2 * turn)]
    return Image.merge("RGB", bands).crop((0, 0, 100 + turn, 80))


def mixed_items() -> list[mh.Item]:
    """Text alone, image alone and both."""
    return [
        mh.Item(text="a cat"),
        mh.Item(text="a red square beside a blue one, and much more to say", image=picture(10)),
        mh.Item(image=picture(50)),
        mh.Item(text="two dogs"),
        mh.Item(text="one", image=picture(90)),
    ]


# -- the reference's numbers -----------------------------------------------------------------------


def test_vectors_are_those_of_the_reference(
    tiny_clip: Clip, goldens: Path, golden_items: Items
) -> None:
    encoder = tiny_clip(prompt="stored")
    for (subset, side), wanted in expected_vectors(goldens, "multimodal").items():
        if side != "scores":
            assert_close(encoder.encode(golden_items(subset, side)), wanted)


def test_unimodal_vectors_of_the_loaded_items_are_those_of_the_reference(
    tiny_clip: Clip, goldens: Path
) -> None:
    encoder = tiny_clip(prompt="stored", fusion="unimodal")
    keys = json.loads((goldens / "expected/keys.json").read_text())
    stored = expected_vectors(goldens, "unimodal")
    location = mh.DataLocation(
        data_dir=goldens / "data/eval", image_dir=goldens / "data/eval_images"
    )
    names = ["ImageNet-1K", "MSCOCO_t2i"]
    assert {subset for subset, _ in stored} == set(names)
    for task in select_tasks(suite_tasks(build_registry(), "mmeb"), names):
        data = task.load(location)
        vectors = encoder.encode(data.items)
        for role, side in (("query", "qry"), ("candidate", "tgt")):
            found = {
                (item.text or "", str(item.image or "")): vector
                for item, vector in zip(data.items, vectors, strict=True)
                if item.role == role
            }
            wanted_keys = [
                (text, str(location.image_dir / image) if image else "")
                for text, image in keys[task.name][side]
            ]
            assert found.keys() == set(wanted_keys)
            assert_close([found[key] for key in wanted_keys], stored[task.name, side])


@pytest.mark.parametrize(("run", "options"), RUNS)
def test_every_hit_and_score_is_that_of_the_reference(
    run: str, options: dict[str, str], tiny_clip: Clip, goldens: Path, tmp_path: Path
) -> None:
    results = json.loads((goldens / f"expected/clip_siglip/clip_{run}.json").read_text())
    stored = expected_vectors(goldens, run)
    outcome = mh.evaluate(
        tiny_clip(**options),
        tasks=list(results),
        data_dir=goldens / "data/eval",
        image_dir=goldens / "data/eval_images",
        output_dir=tmp_path / "run",
        scoring="reference",
    )
    for subset, result in results.items():
        assert outcome.tasks[subset].hit_at_1 == pytest.approx(result["acc"])
        rows = pq.read_table(tmp_path / f"run/tasks/{subset}.parquet").to_pylist()
        assert [row["top_candidates"][0] for row in rows] == result["pred_index"]
        hits = [float(chosen == 0) for chosen in result["pred_index"]]
        assert [row["hit_at_1"] for row in rows] == hits
        for row, scores in zip(rows, stored[subset, "scores"], strict=True):
            assert_close(row["top_scores"], scores[row["top_candidates"]])
            assert_close(row["top_scores"], np.sort(scores)[::-1][:10])


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("side", ["qry", "tgt"])
def test_tokens_and_pixels_are_those_of_the_reference(
    subset: str, side: str, tiny_clip: Clip, goldens: Path, golden_items: Items
) -> None:
    encoder = tiny_clip(prompt="stored")
    facts = json.loads((goldens / "expected/clip_siglip/clip_inputs.json").read_text())
    with np.load(goldens / "expected/clip_siglip/clip_inputs.npz") as arrays:
        ids, offsets = (arrays[f"{subset}/{side}/{name}"] for name in ("ids", "offsets"))
    items = golden_items(subset, side)
    assert len(items) == len(offsets) - 1
    for number, (item, fact) in enumerate(zip(items, facts[f"{subset}/{side}"], strict=True)):
        rendered = encoder.render(item)
        batch = encoder.prepare([rendered])
        assert batch.ids_TL[0].tolist() == ids[offsets[number] : offsets[number + 1]].tolist()
        assert int(batch.mask_TL.sum()) == fact["mask_sum"]
        assert encoder.size(rendered) == fact["n_ids"] + IMAGE_TOKENS * (item.image is not None)
        if item.image is None:
            assert batch.pixels is None
        else:
            assert list(batch.pixels.shape) == fact["shape"]
            assert sha256(batch.pixels.numpy().tobytes()).hexdigest()[:16] == fact["sha256"]


# -- transformers by hand --------------------------------------------------------------------------


def test_features_are_the_projected_pooled_outputs_with_the_end_token_masked(
    tiny_clip: Clip, goldens: Path
) -> None:
    from transformers import AutoTokenizer, CLIPModel

    folder = goldens / "models/tiny-clip"
    model = CLIPModel.from_pretrained(folder).eval()
    ids = AutoTokenizer.from_pretrained(folder)("a cat and a dog", return_tensors="pt").input_ids
    mask = torch.ones_like(ids)
    mask[0, -1] = 0  # as in the original, where padding is the end token and padding is masked
    pixels = np.asarray(picture().resize((224, 224), Image.Resampling.BICUBIC)) / 255
    mean, deviation = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
    pixels_1CHW = torch.tensor((pixels - mean) / deviation).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        pooled = model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        text = model.text_projection(pooled)
        image = model.visual_projection(model.vision_model(pixel_values=pixels_1CHW).pooler_output)
    square = picture().resize((224, 224), Image.Resampling.BICUBIC)
    found = tiny_clip().encode([mh.Item(text="a cat and a dog"), mh.Item(image=square)])
    assert_close(found, torch.cat([text, image]).numpy())


def test_a_padding_token_of_its_own_masks_padding_and_not_the_end(
    goldens: Path, tmp_path: Path
) -> None:
    """Some conversions (LAION's) pad with another token than the end; `ids != pad` then differs."""
    shutil.copytree(goldens / "models/tiny-clip", tmp_path / "clip")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = tmp_path / "clip" / name
        if path.is_file():
            path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "!"}))
    encoder = mh.load_encoder(f"clip:{tmp_path / 'clip'}", device="cpu", prompt="stored")
    rendered = [encoder.render(mh.Item(text=text)) for text in ("a cat", "a cat and a dog")]
    batch = encoder.prepare(rendered)
    assert encoder.tokenizer.pad_token == "!"
    assert batch.mask_TL.sum(1).tolist() == [encoder.size(one) for one in rendered]
    assert batch.ids_TL[0, -1] == encoder.tokenizer.pad_token_id


# -- fusion and normalisation ----------------------------------------------------------------------


def test_text_and_image_together_are_the_sum_of_both(tiny_clip: Clip) -> None:
    encoder = tiny_clip()
    text, image, both = encoder.encode(
        [
            mh.Item(text="a cat"),
            mh.Item(image=picture()),
            mh.Item(text="a cat", image=picture()),
        ]
    )
    assert_close(both, text + image)
    assert np.abs(text).max() > 0.1
    assert np.abs(image).max() > 0.1


@pytest.mark.parametrize(
    ("modality", "alone"),
    [
        ("text", mh.Item(text="a cat")),
        ("image", mh.Item(image=picture())),
        (None, mh.Item(text="a cat", image=picture())),
    ],
)
def test_unimodal_fusion_takes_the_side_that_the_task_marks(
    modality: Any, alone: mh.Item, tiny_clip: Clip
) -> None:
    both = mh.Item(text="a cat", image=picture(), modality=modality)
    assert_close(tiny_clip(fusion="unimodal").encode([both]), tiny_clip().encode([alone]), 1e-6)


@pytest.mark.parametrize("modality", ["text", "image"])
def test_unimodal_fusion_takes_what_there_is_where_one_side_is_missing(
    modality: Any, tiny_clip: Clip
) -> None:
    items = [
        mh.Item(text="a cat", modality=modality),
        mh.Item(image=picture(), modality=modality),
    ]
    assert_close(tiny_clip(fusion="unimodal").encode(items), tiny_clip().encode(items), 1e-6)


def test_vectors_are_normalised_only_on_request(tiny_clip: Clip) -> None:
    plain = tiny_clip().encode(mixed_items())
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 0.1
    assert_close(tiny_clip(normalize=True).encode(mixed_items()), plain / lengths)


# -- prompts ---------------------------------------------------------------------------------------


def test_a_plain_prompt_leaves_out_instruction_and_placeholder(tiny_clip: Clip) -> None:
    stored = mh.Item(text=f"{PLACEHOLDER}\n{INSTRUCTION} how many?\n", instruction=INSTRUCTION)
    encoder = tiny_clip()
    assert encoder.card.prompt == "plain"
    assert encoder.render(stored).text == "how many?"
    assert_close(encoder.encode([stored]), encoder.encode([mh.Item(text="how many?")]), 1e-6)
    verbatim = tiny_clip(prompt="stored")
    assert verbatim.render(stored).text == stored.text
    assert np.abs(verbatim.encode([stored]) - encoder.encode([stored])).max() > 1e-2


def test_an_image_whose_text_is_all_instruction_is_the_image_alone(tiny_clip: Clip) -> None:
    item = mh.Item(text=f"{PLACEHOLDER}\n{INSTRUCTION}\n", instruction=INSTRUCTION, image=picture())
    assert_close(tiny_clip().encode([item]), tiny_clip().encode([mh.Item(image=picture())]), 1e-6)


def test_a_text_that_is_all_instruction_is_refused(tiny_clip: Clip) -> None:
    with pytest.raises(ItemError, match="nothing is left of it"):
        tiny_clip().render(mh.Item(text=INSTRUCTION, instruction=INSTRUCTION))


def test_an_item_with_neither_text_nor_image_is_refused(tiny_clip: Clip) -> None:
    with pytest.raises(ItemError, match="neither text nor image"):
        tiny_clip(prompt="stored").render(mh.Item())


def test_a_stray_placeholder_can_be_dropped(tiny_clip: Clip) -> None:
    stray = mh.Item(text=f"{PLACEHOLDER}\na cat")
    assert tiny_clip(prompt="stored").render(stray).text == stray.text
    assert tiny_clip(prompt="stored", stray_placeholder="drop").render(stray).text == "a cat"


def test_an_option_that_clip_does_not_have_is_refused_by_name(goldens: Path) -> None:
    with pytest.raises(UsageError, match="positions"):
        mh.load_encoder(f"clip:{goldens}/models/tiny-clip", positions="mrope")


# -- the same vector by every way ------------------------------------------------------------------


def test_a_vector_does_not_depend_on_its_batch(tiny_clip: Clip) -> None:
    encoder, items = tiny_clip(), mixed_items()
    alone = np.concatenate([encoder.encode([item]) for item in items])
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [1, 0], [2, 3], [2]):
        batch = encoder.prepare([encoder.render(items[place]) for place in order])
        with torch.no_grad():
            assert_close(encoder.forward(batch).numpy(), alone[order])
    assert_close(encoder.encode(items[::-1]), alone[::-1])


def test_forward_is_encode_with_a_gradient_for_both_towers(goldens: Path) -> None:
    encoder = mh.load_encoder(f"clip:{goldens}/models/tiny-clip", device="cpu")
    vectors = encoder.forward(encoder.prepare([encoder.render(item) for item in mixed_items()]))
    assert_close(vectors.detach().numpy(), encoder.encode(mixed_items()))
    (vectors * torch.arange(vectors.numel()).reshape(vectors.shape).cos()).sum().backward()
    idle = [name for name, one in encoder.module.named_parameters() if one.grad is None]
    assert idle == ["logit_scale"]


def test_a_pickled_encoder_prepares_the_same_batch(tiny_clip: Clip) -> None:
    encoder = tiny_clip()
    encoder.encode(mixed_items())
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 400_000  # the weights are 665 kB
    other = pickle.loads(pickled)
    batch, again = (one.prepare([one.render(i) for i in mixed_items()]) for one in (encoder, other))
    assert torch.equal(batch.ids_TL, again.ids_TL)
    assert torch.equal(batch.pixels, again.pixels)
    assert (batch.text_rows, batch.image_rows) == ([0, 1, 3, 4], [1, 2, 4])
    assert (again.text_rows, again.image_rows) == ([0, 1, 3, 4], [1, 2, 4])


def test_long_text_is_cut_to_the_positions_of_the_tower_and_keeps_its_end_token(
    tiny_clip: Clip,
) -> None:
    long = mh.Item(text="a cat " * 200)
    for encoder, length in ((tiny_clip(), 77), (tiny_clip(max_length=9), 9)):
        ids = encoder.prepare([encoder.render(long)]).ids_TL[0].tolist()
        assert len(ids) == length == encoder.size(encoder.render(long))
        assert ids[-1] == encoder.tokenizer.eos_token_id
    assert tiny_clip(max_length=5000).max_length == 77


def test_a_saved_encoder_loads_from_its_folder_with_its_card(
    tiny_clip: Clip, tmp_path: Path
) -> None:
    encoder = tiny_clip(prompt="stored", normalize=True, max_length=20)
    encoder.save(tmp_path / "saved")
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert_close(again.encode(mixed_items()), encoder.encode(mixed_items()), 1e-6)
    assert again.card.name == "saved"
    assert again.card.vector_settings() == encoder.card.vector_settings()
