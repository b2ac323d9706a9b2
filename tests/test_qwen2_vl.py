"""Qwen2-VL against the reference's numbers, transformers called by hand, and itself."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import mmeb_harness as mh
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from mmeb_harness.cli.main import _run as run_command
from mmeb_harness.embed import embed_items
from mmeb_harness.errors import AdapterMismatch, ItemError, UsageError
from mmeb_harness.files import FileIndex
from mmeb_harness.plugins.adapter import bind_adapter
from mmeb_harness.plugins.qwen2_vl import Qwen2VL
from mmeb_harness.subject import subject_from_object
from PIL import Image
from safetensors.torch import load_file, save_file

LOW: dict[str, Any] = {"image_resolution": "low", "max_length": 256}
RANDOM_ADAPTER, NEW_ADAPTER = "tiny-qwen2vl-dora-init-randB", "tiny-qwen2vl-dora-init-ref"
SUBSETS = ("ImageNet-1K", "OK-VQA", "MSCOCO_t2i", "CIRR", "RefCOCO")
PLACEHOLDER = "<|image_1|>"
IMAGE_TOKENS_LOW = 25

RUNS = [
    pytest.param("low", LOW, id="low"),
    pytest.param(
        "default", {"image_resolution": "default"}, id="default", marks=pytest.mark.thorough
    ),
    pytest.param("mid", {"image_resolution": "mid"}, id="mid", marks=pytest.mark.thorough),
    pytest.param("high", {"image_resolution": "high"}, id="high", marks=pytest.mark.thorough),
    pytest.param(
        "low_eos_nonorm",
        {**LOW, "pooling": "eos", "normalize": False, "similarity": "dot"},
        id="low_eos_nonorm",
    ),
    pytest.param("low_padright", LOW, id="low_padright"),
    pytest.param("low_dora_merged", {**LOW, "adapter": RANDOM_ADAPTER}, id="low_dora_merged"),
]

Items = Callable[[str, str], list[mh.Item]]


@pytest.fixture(scope="module")
def qwen(tiny_qwen: Callable[..., Any], goldens: Path) -> Callable[..., Any]:
    """Return `tiny_qwen` with an adapter named by its golden folder."""

    def load(**options: Any) -> Any:
        if "adapter" in options:
            options["adapter"] = str(goldens / "models" / options["adapter"])
        return tiny_qwen(**options)

    return load


@pytest.fixture
def own_qwen(goldens: Path) -> Callable[..., Any]:
    """Return a function that loads an encoder of the test's own, which it may change."""
    return lambda **options: mh.load_encoder(
        f"qwen2-vl:{goldens}/models/tiny-qwen2vl", device="cpu", **options
    )


def expected_vectors(goldens: Path, run: str) -> dict[tuple[str, str], Any]:
    """Read a stored run as `{(subset, "qry", "tgt" or "scores"): array}`."""
    with np.load(goldens / f"expected/qwen2vl/qwen2vl_{run}.npz") as arrays:
        return {(name.split("/")[0], name.split("/")[1]): arrays[name] for name in arrays}


def expected_predictions(goldens: Path, run: str) -> dict[str, list[int]]:
    """Read which candidate the reference chose for each query, by subset."""
    results = json.loads((goldens / f"expected/qwen2vl/qwen2vl_{run}.json").read_text())
    return {subset: result["pred_index"] for subset, result in results.items()}


def evaluated(encoder: Any, subsets: list[str], goldens: Path, folder: Path) -> dict[str, Any]:
    """Run the engine on the golden data; return each subset's rows, a dictionary a query."""
    run = mh.evaluate(
        encoder,
        tasks=subsets,
        data_dir=goldens / "data/eval",
        image_dir=goldens / "data/eval_images",
        output_dir=folder,
        scoring="reference",
    )
    assert [(task.status, task.error) for task in run.tasks.values()] == [("ok", None)] * len(
        subsets
    )
    return {
        subset: pq.read_table(folder / f"tasks/{subset}.parquet").to_pylist() for subset in subsets
    }


def stored_vectors(cache: Path) -> Any:
    """Read every vector that a run has left under its cache."""
    rows = []
    for path in cache.rglob("*.arrow"):
        with pa.memory_map(str(path)) as source:
            rows += pa.ipc.open_file(source).read_all()["vector"].to_pylist()
    return np.array(rows, dtype=np.float32)


def shapes(count: int = 3) -> list[Image.Image]:
    """Draw small pictures that differ in size and content."""
    gradient = Image.linear_gradient("L")
    return [
        Image.merge("RGB", [gradient, gradient.rotate(90 + 40 * n), gradient.rotate(20 * n)]).crop(
            (0, 0, 90 + 31 * n, 70 + 45 * n)
        )
        for n in range(count)
    ]


def mixed_items() -> list[mh.Item]:
    """Text alone and text with image, of many lengths."""
    first, second, third = shapes()
    return [
        mh.Item(text="a cat"),
        mh.Item(text=f"{PLACEHOLDER}\nRepresent the given image.", image=first),
        mh.Item(text="a much longer text about a dog, a boat and two blue squares " * 3),
        mh.Item(text=f"{PLACEHOLDER}\nIs there a green square in the picture?\n", image=second),
        mh.Item(text=f"before {PLACEHOLDER} after", image=third),
        mh.Item(text="x"),
    ]


def assert_close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    """Compare two arrays of vectors, shape first."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert float(np.abs(found - wanted).max()) <= tolerance


# -- the reference's numbers -----------------------------------------------------------------------


@pytest.mark.parametrize(("run", "options"), RUNS)
def test_vectors_are_those_of_the_reference(
    run: str, options: dict[str, Any], qwen: Callable[..., Any], goldens: Path, golden_items: Items
) -> None:
    encoder = qwen(**options)
    for (subset, side), wanted in expected_vectors(goldens, run).items():
        if side != "scores":
            assert_close(encoder.encode(golden_items(subset, side)), wanted)


@pytest.mark.parametrize(("run", "options"), RUNS)
def test_every_hit_and_score_is_that_of_the_reference(
    run: str, options: dict[str, Any], qwen: Callable[..., Any], goldens: Path, tmp_path: Path
) -> None:
    predictions = expected_predictions(goldens, run)
    stored = expected_vectors(goldens, run)
    rows = evaluated(qwen(**options), list(predictions), goldens, tmp_path / "run")
    for subset, chosen in predictions.items():
        assert [row["hit_at_1"] for row in rows[subset]] == [float(one == 0) for one in chosen]
        assert [row["top_candidates"][0] for row in rows[subset]] == chosen
        for row, scores in zip(rows[subset], stored[subset, "scores"], strict=True):
            tolerance = 1e-5 * max(1, np.abs(scores).max())  # raw dot products reach 56
            assert_close(row["top_scores"], scores[row["top_candidates"]], tolerance)
            assert_close(row["top_scores"], np.sort(scores)[::-1][:10], tolerance)


@pytest.mark.thorough
def test_bfloat16_is_near_the_reference_and_chooses_alike_where_the_margin_is_wide(
    qwen: Callable[..., Any], goldens: Path, golden_items: Items, tmp_path: Path
) -> None:
    encoder = qwen(**LOW, dtype="bfloat16")
    assert next(encoder.module.parameters()).dtype == torch.bfloat16
    stored = expected_vectors(goldens, "low_bf16")
    rows = evaluated(encoder, list(SUBSETS), goldens, tmp_path / "run")
    cache, compared = tmp_path / "cache", 0
    index = FileIndex(cache)
    subject = subject_from_object(encoder, index)  # whose vectors the run has left in the cache
    for subset, chosen in expected_predictions(goldens, "low_bf16").items():
        for side in ("qry", "tgt"):
            vectors = embed_items(subject, golden_items(subset, side), index=index, cache_dir=cache)
            wanted = stored[subset, side]
            lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(wanted, axis=1)
            assert ((vectors * wanted).sum(axis=1) / lengths).min() > 0.999
        for row, scores, winner in zip(rows[subset], stored[subset, "scores"], chosen, strict=True):
            others = scores[scores < scores.max() - 1e-6]
            if scores.max() - others.max() > 2e-2:
                assert row["top_candidates"][0] == winner
                compared += 1
    index.close()
    assert compared > 60


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("side", ["qry", "tgt"])
def test_tokens_and_pixels_are_those_of_the_reference(
    subset: str, side: str, qwen: Callable[..., Any], goldens: Path, golden_items: Items
) -> None:
    encoder = qwen(**LOW)
    with np.load(goldens / "expected/qwen2vl/qwen2vl_low_inputs.npz") as arrays:
        ids, offsets = (arrays[f"{subset}/{side}/{name}"] for name in ("ids", "offsets"))
    facts = json.loads((goldens / "expected/qwen2vl/qwen2vl_low_inputs.json").read_text())
    items = golden_items(subset, side)
    assert len(items) == len(offsets) - 1
    for number, (item, fact) in enumerate(zip(items, facts[f"{subset}/{side}"], strict=True)):
        rendered = encoder.render(item)
        batch = encoder.prepare([rendered])
        start = fact["text_after_replacement"].removesuffix(" ...")  # long ones are stored cut
        assert rendered.text.startswith(start)
        assert rendered.text == start or fact["text_after_replacement"].endswith(" ...")
        assert batch.ids_BL[0].tolist() == ids[offsets[number] : offsets[number + 1]].tolist()
        assert batch.ids_BL.shape[1] == fact["n_ids"] == encoder.size(rendered)
        if item.image is None:
            assert batch.images is None
            assert int(batch.is_image_BL.sum()) == 0
        else:
            assert batch.images["grids"].tolist() == fact["image_grid_thw"]
            assert int(batch.is_image_BL.sum()) == np.prod(fact["image_grid_thw"]) // 4
            assert (
                sha256(batch.images["pixels"].numpy().tobytes()).hexdigest()[:16] == fact["sha256"]
            )


@pytest.mark.parametrize("subset", SUBSETS)
@pytest.mark.parametrize("side", ["qry", "tgt"])
def test_a_batch_padded_left_is_laid_out_as_in_the_reference(
    subset: str,
    side: str,
    qwen: Callable[..., Any],
    goldens: Path,
    golden_items: Items,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = qwen(**LOW)
    monkeypatch.setattr(encoder, "padding_side", "left")
    with np.load(goldens / "expected/qwen2vl/qwen2vl_low_inputs.npz") as arrays:
        ids = arrays[f"{subset}/{side}/batch8_input_ids"]
        mask = arrays[f"{subset}/{side}/batch8_attention_mask"]
    batch = encoder.prepare([encoder.render(item) for item in golden_items(subset, side)[:8]])
    assert batch.ids_BL.tolist() == ids.tolist()
    assert batch.mask_BL.tolist() == mask.tolist()


def test_pixels_of_grey_rgba_palette_and_wide_images_are_those_of_the_reference(
    qwen: Callable[..., Any], goldens: Path
) -> None:
    encoder = qwen(**LOW)
    modes = []
    with np.load(goldens / "expected/qwen2vl/qwen2vl_low_pixels.npz") as arrays:
        for name in arrays:
            path = goldens / "data/eval_images" / name.partition(":")[2]
            batch = encoder.prepare([encoder.render(mh.Item(image=path))])
            assert np.array_equal(batch.images["pixels"].numpy(), arrays[name])
            with Image.open(path) as image:
                modes.append(image.mode)
    assert sorted(modes) == ["L", "P", "RGB", "RGBA"]


# -- the same vector by every way ------------------------------------------------------------------


def test_the_embed_command_gives_the_vectors_of_encode(
    qwen: Callable[..., Any], goldens: Path, golden_items: Items, tmp_path: Path
) -> None:
    items = golden_items("CIRR", "qry")[:5] + golden_items("OK-VQA", "tgt")[:5]
    images = goldens / "data/eval_images"
    lines = [
        {"text": item.text}
        | ({"image": str(Path(str(item.image)).relative_to(images))} if item.image else {})
        for item in items
    ]
    (tmp_path / "items.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    command = ["embed", "-m", f"qwen2-vl:{goldens}/models/tiny-qwen2vl", "--device", "cpu"]
    command += ["-M", "image_resolution=low", "-M", "max_length=256", "--image-dir", str(images)]
    command += [str(tmp_path / "items.jsonl"), "-o", str(tmp_path / "vectors.npz")]
    assert run_command(command) == 0
    with np.load(tmp_path / "vectors.npz") as arrays:
        embeddings = arrays["embeddings"]
    assert embeddings.dtype == np.float32
    assert_close(embeddings, qwen(**LOW).encode(items), 1e-6)


def test_encode_engine_and_forward_give_one_vector(
    qwen: Callable[..., Any], goldens: Path, golden_items: Items, tmp_path: Path
) -> None:
    encoder = qwen(**LOW)
    items = golden_items("OK-VQA", "qry") + golden_items("OK-VQA", "tgt")
    wanted = encoder.encode(items)
    evaluated(encoder, ["OK-VQA"], goldens, tmp_path / "run")
    stored = stored_vectors(tmp_path / "cache")
    assert stored.shape == wanted.shape
    nearest = np.abs(stored[:, None] - wanted[None]).max(axis=2)
    assert max(nearest.min(axis=0).max(), nearest.min(axis=1).max()) <= 1e-5

    index = FileIndex(tmp_path / "cache")
    subject = subject_from_object(encoder, index)
    engine = embed_items(subject, items, index=index, cache_dir=tmp_path / "other")
    assert_close(engine, wanted)
    with torch.no_grad():
        forward = encoder.forward(encoder.prepare([encoder.render(item) for item in items]))
    assert_close(forward.numpy(), wanted)
    index.close()


@pytest.mark.thorough
def test_worker_processes_give_the_same_vectors(
    qwen: Callable[..., Any], golden_items: Items, tmp_path: Path
) -> None:
    encoder = qwen(**LOW)
    items = golden_items("OK-VQA", "qry")
    index = FileIndex(tmp_path / "cache")
    subject = subject_from_object(encoder, index)
    found = embed_items(
        subject, items, index=index, cache_dir=tmp_path / "cache", batch_tokens=256, workers=2
    )
    assert_close(found, encoder.encode(items))
    index.close()


def test_a_pickled_encoder_prepares_the_same_batch_and_carries_no_weights(
    qwen: Callable[..., Any],
) -> None:
    encoder = qwen(**LOW)
    items = mixed_items()
    before = encoder.encode(items)  # the weights are loaded
    pickled = pickle.dumps(encoder)
    assert len(pickled) < 400_000  # the weights are 818 kB
    other = pickle.loads(pickled)
    batch, again = (one.prepare([one.render(item) for item in items]) for one in (encoder, other))
    for name in ("ids_BL", "mask_BL", "is_image_BL"):
        assert torch.equal(getattr(batch, name), getattr(again, name))
    for name in ("pixels", "grids"):
        assert torch.equal(batch.images[name], again.images[name])
    assert_close(other.encode(items), before, 1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_a_vector_does_not_depend_on_its_batch(
    side: str, positions: str, own_qwen: Callable[..., Any]
) -> None:
    encoder = own_qwen(**LOW, positions=positions)
    items = mixed_items()
    alone = np.concatenate([encoder.encode([item]) for item in items])
    encoder.padding_side = side
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 4, 0, 3, 1], [2, 5], [5, 0], [1, 0, 4]):
        rendered = [encoder.render(items[place]) for place in order]
        with torch.no_grad():
            together = encoder.forward(encoder.prepare(rendered))
        assert_close(together.numpy(), alone[order])
    assert_close(encoder.encode(items), alone)
    assert_close(encoder.encode(items[::-1]), alone[::-1])


def test_forward_is_encode_with_a_gradient_for_every_tower(own_qwen: Callable[..., Any]) -> None:
    encoder = own_qwen(**LOW)
    rendered = [encoder.render(item) for item in mixed_items()]
    vectors = encoder.forward(encoder.prepare(rendered))
    assert_close(vectors.detach().numpy(), encoder.encode(mixed_items()))
    (vectors * torch.arange(vectors.numel()).reshape(vectors.shape).cos()).sum().backward()
    idle = [
        name
        for name, parameter in encoder.module.named_parameters()
        if parameter.grad is None or not parameter.grad.abs().sum() > 0
    ]
    assert idle == []


def test_a_gradient_is_the_slope_of_the_vectors(own_qwen: Callable[..., Any]) -> None:
    encoder = own_qwen(**LOW)
    batch = encoder.prepare([encoder.render(item) for item in mixed_items()[:2]])
    weight = encoder.module.get_parameter("language_model.layers.0.self_attn.q_proj.weight")
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    chosen = torch.randn(2, 64, generator=torch.Generator().manual_seed(2))
    (encoder.forward(batch) * chosen).sum().backward()
    slope, step, values = float((weight.grad * direction).sum()), 1e-3, []
    with torch.no_grad():
        for sign in (1, -1):
            weight += sign * step * direction
            values.append(float((encoder.forward(batch).double() * chosen).sum()))
            weight -= sign * step * direction
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-2)
    assert abs(slope) > 1e-3


def test_a_saved_encoder_loads_from_its_folder_with_its_card(
    qwen: Callable[..., Any], tmp_path: Path
) -> None:
    encoder = qwen(
        **LOW, adapter=RANDOM_ADAPTER, normalize=False, positions="mrope", min_pixels=200_000
    )
    encoder.save(tmp_path / "saved")
    again = mh.load_encoder(str(tmp_path / "saved"), device="cpu")
    assert_close(again.encode(mixed_items()), encoder.encode(mixed_items()), 1e-6)
    assert again.card.name == "saved"
    assert again.card.adapter is None
    assert again.card.vector_settings() == encoder.card.vector_settings()
    assert mh.load_encoder(str(tmp_path / "saved"), normalize=True).card.normalize is True


# -- adapters --------------------------------------------------------------------------------------


def modern(key: str) -> str:
    """Return an adapter key of the reference in the names that today's model has."""
    return key.replace("base_model.model.model.", "base_model.model.language_model.")


def changed_adapter(
    goldens: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], **config: Any
) -> str:
    """Copy the random adapter into `folder`, with its tensors and its configuration changed."""
    source = goldens / "models" / RANDOM_ADAPTER
    tensors = load_file(source / "adapter_model.safetensors")
    change(tensors)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = json.loads((source / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    return str(folder)


QUERY_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
DOWN_MAGNITUDE = "base_model.model.model.layers.1.mlp.down_proj.lora_magnitude_vector"


@pytest.mark.parametrize("name", [RANDOM_ADAPTER, NEW_ADAPTER])
def test_every_tensor_of_an_adapter_is_bound(
    name: str, own_qwen: Callable[..., Any], goldens: Path
) -> None:
    folder = goldens / "models" / name
    stored = load_file(folder / "adapter_model.safetensors")
    assert len(stored) == 30
    bound = bind_adapter(own_qwen().load_module(), folder, Qwen2VL.adapter_rules)
    parameters = dict(bound.named_parameters())
    for key, value in stored.items():
        path = modern(key).removesuffix(".weight")
        name = f"{path}.default.weight"
        assert torch.equal(parameters.pop(name), value)
    assert [name for name in parameters if "lora_" in name] == []


def test_an_adapter_saved_before_safetensors_is_bound_too(
    qwen: Callable[..., Any], own_qwen: Callable[..., Any], goldens: Path, tmp_path: Path
) -> None:
    folder = Path(changed_adapter(goldens, tmp_path / "old", lambda tensors: None))
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    vectors = own_qwen(**LOW, adapter=str(folder)).encode(mixed_items())
    assert_close(vectors, qwen(**LOW, adapter=RANDOM_ADAPTER).encode(mixed_items()), 1e-6)


def test_an_old_adapter_that_would_run_code_is_refused(
    own_qwen: Callable[..., Any], goldens: Path, tmp_path: Path
) -> None:
    class Code:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    folder = Path(changed_adapter(goldens, tmp_path / "old", lambda tensors: None))
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"lora": Code()}, folder / "adapter_model.bin")
    with pytest.raises(AdapterMismatch, match="cannot be read"):
        own_qwen(**LOW, adapter=str(folder)).encode(mixed_items())
    assert not (tmp_path / "ran").exists()


def test_a_merged_dora_weight_is_magnitude_times_direction(
    own_qwen: Callable[..., Any], qwen: Callable[..., Any], goldens: Path
) -> None:
    stored = load_file(goldens / "models" / RANDOM_ADAPTER / "adapter_model.safetensors")
    base = dict(own_qwen().load_module().named_parameters())
    merged = dict(qwen(**LOW, adapter=RANDOM_ADAPTER).module.named_parameters())
    touched = set()
    for key in [key for key in stored if key.endswith("lora_A.weight")]:
        stem = key.removesuffix("lora_A.weight")
        name = modern(stem).removeprefix("base_model.model.") + "weight"
        update = (64 / 8) * stored[f"{stem}lora_B.weight"] @ stored[key]
        direction = base[name].detach() + update
        length = direction.norm(dim=1, keepdim=True)
        wanted = stored[f"{stem}lora_magnitude_vector"][:, None] * direction / length
        assert_close(merged[name].detach(), wanted.detach(), 1e-6)
        assert not torch.equal(merged[name], base[name])
        touched.add(name)
    assert len(touched) == 10
    assert merged.keys() == base.keys()
    assert all(torch.equal(merged[name], base[name]) for name in base.keys() - touched)


def test_an_adapter_changes_the_vectors(qwen: Callable[..., Any]) -> None:
    base, adapted = (
        qwen(**options).encode(mixed_items())
        for options in (LOW, {**LOW, "adapter": RANDOM_ADAPTER})
    )
    assert np.abs(base - adapted).max(axis=1).min() > 1e-3


@pytest.mark.parametrize(
    ("change", "named"),
    [
        pytest.param(
            lambda tensors: tensors.update(
                {QUERY_A.replace("lora_A", "lora_X"): tensors.pop(QUERY_A)}
            ),
            ("layers.0.self_attn.q_proj.lora_A.weight", "layers.0.self_attn.q_proj.lora_X.weight"),
            id="one key renamed",
        ),
        pytest.param(
            lambda tensors: tensors.pop(DOWN_MAGNITUDE),
            ("layers.1.mlp.down_proj.lora_magnitude_vector",),
            id="one magnitude missing",
        ),
        pytest.param(
            lambda tensors: tensors.update({QUERY_A: tensors[QUERY_A][:, :32].contiguous()}),
            ("layers.0.self_attn.q_proj.lora_A.weight", "(8, 32)", "(8, 64)"),
            id="one shape wrong",
        ),
        pytest.param(
            lambda tensors: tensors.update({QUERY_A.replace(".0.", ".7."): torch.ones(8, 64)}),
            ("layers.7.self_attn.q_proj.lora_A.weight",),
            id="one tensor too many",
        ),
        pytest.param(
            lambda tensors: tensors.update({modern(QUERY_A): tensors[QUERY_A] + 1}),
            ("layers.0.self_attn.q_proj.lora_A.weight",),
            id="one module twice, in both namings",
        ),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_the_name_of_its_key(
    change: Callable[[dict[str, torch.Tensor]], Any],
    named: tuple[str, ...],
    own_qwen: Callable[..., Any],
    goldens: Path,
    tmp_path: Path,
) -> None:
    adapter = changed_adapter(goldens, tmp_path / "adapter", change)
    with pytest.raises(AdapterMismatch) as refusal:
        own_qwen(**LOW, adapter=adapter).encode(mixed_items())
    for name in named:
        assert name in str(refusal.value)


def test_an_adapter_whose_magnitudes_its_configuration_denies_is_refused(
    own_qwen: Callable[..., Any], goldens: Path, tmp_path: Path
) -> None:
    adapter = changed_adapter(goldens, tmp_path / "adapter", lambda _: None, use_dora=False)
    with pytest.raises(AdapterMismatch, match=r"no module takes 10 tensors .*lora_magnitude"):
        own_qwen(**LOW, adapter=adapter).encode(mixed_items())


@pytest.mark.parametrize("prefix", ["model.language_model.", "language_model."])
def test_an_adapter_with_todays_keys_binds_the_same(
    prefix: str,
    own_qwen: Callable[..., Any],
    qwen: Callable[..., Any],
    goldens: Path,
    tmp_path: Path,
) -> None:
    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for key in list(tensors):
            tensors[key.replace("base_model.model.model.", f"base_model.model.{prefix}")] = (
                tensors.pop(key)
            )

    adapter = changed_adapter(goldens, tmp_path / "adapter", rename)
    found = own_qwen(**LOW, adapter=adapter).encode(mixed_items())
    assert_close(found, qwen(**LOW, adapter=RANDOM_ADAPTER).encode(mixed_items()), 1e-6)


def test_an_adapter_folder_alone_is_put_onto_the_base_that_it_names(
    qwen: Callable[..., Any], goldens: Path, tmp_path: Path
) -> None:
    base = str(goldens / "models/tiny-qwen2vl")
    adapter = changed_adapter(
        goldens, tmp_path / "adapter", lambda _: None, base_model_name_or_path=base
    )
    found = mh.load_encoder(f"qwen2-vl:{adapter}", device="cpu", **LOW).encode(mixed_items())
    assert_close(found, qwen(**LOW, adapter=RANDOM_ADAPTER).encode(mixed_items()), 1e-6)


# -- lengths ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_length", [10, IMAGE_TOKENS_LOW, 30, 64])
def test_text_is_cut_and_image_tokens_are_not(
    max_length: int, own_qwen: Callable[..., Any]
) -> None:
    encoder = own_qwen(image_resolution="low", max_length=max_length)
    long = " ".join(f"word{number}" for number in range(200))
    words = own_qwen(image_resolution="low").tokenizer(long)["input_ids"]
    for text in (f"{PLACEHOLDER}{long}", f"{long}{PLACEHOLDER}", f"{long}{PLACEHOLDER}{long}"):
        rendered = encoder.render(mh.Item(text=text, image=shapes()[0]))
        batch = encoder.prepare([rendered])
        assert int(batch.is_image_BL.sum()) == IMAGE_TOKENS_LOW
        assert batch.ids_BL.shape[1] == max(max_length, IMAGE_TOKENS_LOW) == encoder.size(rendered)
        kept = batch.ids_BL[~batch.is_image_BL].tolist()
        assert kept == words[: max(0, max_length - IMAGE_TOKENS_LOW)]
        assert np.isfinite(encoder.encode([mh.Item(text=text, image=shapes()[0])])).all()


def test_text_alone_is_cut_at_its_end(own_qwen: Callable[..., Any]) -> None:
    long = " ".join(f"word{number}" for number in range(50))
    whole, cut = own_qwen(), own_qwen(max_length=12)
    ids = whole.prepare([whole.render(mh.Item(text=long))]).ids_BL[0].tolist()
    assert len(ids) > 50
    rendered = cut.render(mh.Item(text=long))
    assert cut.prepare([rendered]).ids_BL[0].tolist() == ids[:12]
    assert cut.size(rendered) == 12


@pytest.mark.parametrize(
    ("resolution", "limits"),
    [
        ("low", {}),
        ("mid", {}),
        pytest.param("high", {}, marks=pytest.mark.thorough),
        ("default", {}),
        ("processor", {}),
        ("processor", {"min_pixels": 40_000, "max_pixels": 90_000}),
    ],
)
def test_size_is_the_length_of_the_prepared_row(
    resolution: str, limits: dict[str, int], qwen: Callable[..., Any], tmp_path: Path
) -> None:
    encoder = qwen(image_resolution=resolution, **limits)
    sizes = [(1, 1), (27, 200), (28, 29), (41, 1000), (333, 517), (640, 30), (1350, 28)]
    for width, height in sizes:
        path = tmp_path / f"{width}x{height}.png"
        Image.linear_gradient("L").resize((width, height)).convert("RGB").save(path)
        rendered = encoder.render(mh.Item(text=f"{PLACEHOLDER} what is this?", image=path))
        batch = encoder.prepare([rendered])
        assert encoder.size(rendered) == batch.ids_BL.shape[1]
        assert int(batch.is_image_BL.sum()) == int(batch.images["grids"].prod()) // 4
        assert batch.images["pixels"].shape[0] == int(batch.images["grids"].prod())
        if limits:
            assert batch.images["pixels"].shape[0] * 14 * 14 <= 90_000


# -- placeholders ----------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_a_stray_placeholder_stays_text_beside_images(
    positions: str, own_qwen: Callable[..., Any]
) -> None:
    encoder = own_qwen(**LOW, positions=positions)
    stray = mh.Item(text=f"{PLACEHOLDER}\nRepresent the text: a cat")
    items = [mixed_items()[1], stray, mixed_items()[3]]
    alone = np.concatenate([encoder.encode([item]) for item in items])
    rendered = [encoder.render(item) for item in items]
    batch = encoder.prepare(rendered)
    assert batch.is_image_BL.sum(1).tolist() == [IMAGE_TOKENS_LOW, 0, IMAGE_TOKENS_LOW]
    with torch.no_grad():
        assert_close(encoder.forward(batch).numpy(), alone)
    bare = encoder.encode([mh.Item(text="Represent the text: a cat")])
    assert np.abs(alone[1] - bare[0]).max() > 1e-3


def test_a_stray_placeholder_can_be_dropped(qwen: Callable[..., Any]) -> None:
    encoder = qwen(**LOW, stray_placeholder="drop")
    stray = mh.Item(text=f"{PLACEHOLDER}\nRepresent the text: a cat")
    bare = mh.Item(text="Represent the text: a cat")
    assert encoder.render(stray) == encoder.render(bare)
    assert_close(encoder.encode([stray]), qwen(**LOW).encode([bare]), 1e-6)
    with_image = mixed_items()[1]
    assert_close(encoder.encode([with_image]), qwen(**LOW).encode([with_image]), 1e-6)


def test_an_image_without_placeholder_gets_one_in_front(qwen: Callable[..., Any]) -> None:
    encoder, image = qwen(**LOW), shapes()[0]
    bare, placed = mh.Item(text="a cat", image=image), f"{PLACEHOLDER}\na cat"
    assert_close(encoder.encode([bare]), encoder.encode([mh.Item(text=placed, image=image)]), 1e-6)


@pytest.mark.parametrize(
    ("item", "why"),
    [
        (mh.Item(), "neither text nor image"),
        (mh.Item(text=""), "neither text nor image"),
        (mh.Item(text=f"{PLACEHOLDER} {PLACEHOLDER}", image=shapes()[0]), "2 placeholders"),
    ],
)
def test_an_unusable_item_is_refused_when_it_is_rendered(
    item: mh.Item, why: str, qwen: Callable[..., Any]
) -> None:
    with pytest.raises(ItemError, match=why):
        qwen(**LOW).render(item)


def test_a_plain_prompt_is_the_text_without_instruction_and_placeholder(
    qwen: Callable[..., Any],
) -> None:
    instruction = "Represent the given image with the following question:"
    text = f"{PLACEHOLDER}\n{instruction} how many?\n"
    encoder = qwen(**LOW, prompt="plain")
    item = mh.Item(text=text, instruction=instruction)
    assert encoder.render(item).text == "how many?"
    with_image = mh.Item(text=text, instruction=instruction, image=shapes()[0])
    assert encoder.render(with_image).text == "<|image_pad|>\nhow many?"


# -- transformers by hand --------------------------------------------------------------------------


def by_hand(goldens: Path, item: mh.Item, encoder: Any, *, rope: bool) -> np.ndarray[Any, Any]:
    """Embed one item with nothing of ours but the token ids and the pixel values."""
    from transformers import Qwen2VLModel

    model = Qwen2VLModel.from_pretrained(goldens / "models/tiny-qwen2vl").eval()
    batch = encoder.prepare([encoder.render(item)])
    length = batch.ids_BL.shape[1]
    images = batch.images or {"pixels": None, "grids": None}
    places = (
        {"mm_token_type_ids": (batch.ids_BL == 582).int()}
        if rope
        else {"position_ids": torch.arange(length).expand(3, 1, length)}
    )
    with torch.no_grad():
        hidden_1LD = model(
            input_ids=batch.ids_BL,
            attention_mask=torch.ones_like(batch.ids_BL),
            pixel_values=images["pixels"],
            image_grid_thw=images["grids"],
            **places,
        ).last_hidden_state
    last_D = hidden_1LD[0, -1].numpy()
    unit: np.ndarray[Any, Any] = last_D / np.linalg.norm(last_D)
    return unit


@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_vectors_are_those_of_transformers_called_by_hand(
    positions: str, qwen: Callable[..., Any], goldens: Path
) -> None:
    encoder = qwen(image_resolution="processor", positions=positions)
    found = encoder.encode(mixed_items())
    wanted = [by_hand(goldens, item, encoder, rope=positions == "mrope") for item in mixed_items()]
    assert_close(found, np.stack(wanted))


def test_mrope_moves_items_with_an_image_and_no_others(qwen: Callable[..., Any]) -> None:
    sequential, rope = (
        qwen(**LOW, positions=positions).encode(mixed_items())
        for positions in ("sequential", "mrope")
    )
    moved = np.abs(sequential - rope).max(axis=1)
    has_image = np.array([item.image is not None for item in mixed_items()])
    assert moved[has_image].min() > 1e-3
    assert moved[~has_image].max() <= 1e-5


# -- what the configuration of an adapter says of single modules ---------------------------------


@pytest.mark.thorough
def test_patterns_and_full_names_in_the_older_layout_mean_the_same_modules(
    own_qwen: Callable[..., Any], goldens: Path, tmp_path: Path
) -> None:
    def vectors(name: str, layout: Callable[[str], str], **config: Any) -> Any:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            renamed = {layout(key): value for key, value in tensors.items()}
            tensors.clear()
            tensors.update(renamed)

        adapter = changed_adapter(goldens, tmp_path / name, change, **config)
        return own_qwen(**LOW, adapter=adapter).encode(mixed_items())

    old, new = "model.layers.0.self_attn.q_proj", "language_model.layers.0.self_attn.q_proj"
    plain = vectors("plain", modern)
    wanted = vectors("new", modern, alpha_pattern={new: 512})
    assert np.abs(wanted - plain).max() > 1e-2
    assert_close(vectors("old", str, alpha_pattern={old: 512}), wanted, 1e-6)
    regular = {r"model\.layers\.0\.self_attn\.q_proj": 512}
    assert_close(vectors("regular", str, alpha_pattern=regular), wanted, 1e-6)
    with pytest.raises(AdapterMismatch, match=r"alpha_pattern names 'layers.7.q_proj', which is"):
        vectors("nothing", str, alpha_pattern={"layers.7.q_proj": 512})
    unused = vectors("unused", modern, alpha_pattern={new: 512, "gate_proj": 2})
    assert_close(unused, wanted, 1e-6)  # a module of the model, though no target: as peft has it
    first = vectors("first", str, alpha_pattern={old: 512, r"model\.layers\.0\..*": 64})
    assert_close(first, wanted, 1e-6)
    pattern = r"model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|down)_proj"
    assert_close(vectors("pattern", str, target_modules=pattern), plain, 1e-6)
    stored = load_file(goldens / "models" / RANDOM_ADAPTER / "adapter_model.safetensors")
    full = sorted({key.removeprefix("base_model.model.").partition(".lora_")[0] for key in stored})
    assert_close(vectors("full", str, target_modules=full), plain, 1e-6)


@pytest.mark.parametrize("layout", ["old", "new"])
def test_a_truncated_adapter_is_refused_though_its_targets_are_a_pattern(
    layout: str, own_qwen: Callable[..., Any], goldens: Path, tmp_path: Path
) -> None:
    def cut(tensors: dict[str, torch.Tensor]) -> None:
        kept = {key: value for key, value in tensors.items() if "layers.1." not in key}
        tensors.clear()
        tensors.update({modern(key) if layout == "new" else key: kept[key] for key in kept})

    root = {"old": "model", "new": "language_model"}[layout]
    pattern = rf"{root}\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|down)_proj"
    adapter = changed_adapter(goldens, tmp_path / "a", cut, target_modules=pattern)
    with pytest.raises(AdapterMismatch, match="it lacks"):
        own_qwen(**LOW, adapter=adapter).encode(mixed_items())


def test_an_adapter_of_ones_own_drops_the_pinned_commit_of_the_cards() -> None:
    card = mh.Card(
        name="x", factory="x:X", adapter="a/b", adapter_revision="c0ffee",
        options=("base", "adapter", "adapter_revision"),
    )  # fmt: skip
    assert card.with_options({"adapter": "./mine"}).adapter_revision is None
    assert card.with_options({"adapter": "c/d", "adapter_revision": "e"}).adapter_revision == "e"
    assert card.with_options({}).adapter_revision == "c0ffee"


def test_an_adapter_that_is_no_lora_is_refused_by_its_folder(
    own_qwen: Callable[..., Any], goldens: Path, tmp_path: Path
) -> None:
    adapter = changed_adapter(goldens, tmp_path / "a", lambda tensors: None, peft_type="IA3")
    with pytest.raises(AdapterMismatch, match=r"/a \(IA3\) says what this peft does not"):
        own_qwen(**LOW, adapter=adapter).encode(mixed_items())
    (tmp_path / "a/adapter_config.json").write_text("{")
    with pytest.raises(AdapterMismatch, match=r"adapter_config\.json cannot be read"):
        mh.load_encoder(f"qwen2-vl:{tmp_path / 'a'}")


def test_values_that_peft_drops_are_found(
    own_qwen: Callable[..., Any], goldens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import peft

    write = peft.set_peft_model_state_dict

    def drop_magnitudes(model: Any, tensors: dict[str, Any]) -> Any:
        return write(model, {key: one for key, one in tensors.items() if "magnitude" not in key})

    monkeypatch.setattr(peft, "set_peft_model_state_dict", drop_magnitudes)
    adapter = str(goldens / "models" / RANDOM_ADAPTER)
    with pytest.raises(AdapterMismatch, match="was not bound: 10 tensors"):
        own_qwen(**LOW, adapter=adapter).encode(mixed_items())


def test_an_adapter_is_merged_in_float32_whatever_the_dtype(
    own_qwen: Callable[..., Any], goldens: Path
) -> None:
    adapter = str(goldens / "models" / RANDOM_ADAPTER)
    base = own_qwen(dtype="bfloat16").load_module()
    stored = load_file(goldens / "models" / RANDOM_ADAPTER / "adapter_model.safetensors")
    merged = dict(own_qwen(dtype="bfloat16", adapter=adapter).load_module().named_parameters())
    name = "language_model.layers.0.self_attn.q_proj.weight"
    stem = QUERY_A.removesuffix("lora_A.weight")
    update = (64 / 8) * stored[f"{stem}lora_B.weight"] @ stored[QUERY_A]
    direction = dict(base.named_parameters())[name].detach().float() + update
    length = direction.norm(dim=1, keepdim=True)
    wanted = (stored[f"{stem}lora_magnitude_vector"][:, None] * direction / length).bfloat16()
    assert merged[name].dtype == torch.bfloat16
    assert (merged[name] == wanted).float().mean() > 0.99  # the rest: a last bit of float32


def test_a_commit_of_a_folder_is_refused(goldens: Path) -> None:
    folder = goldens / "models/tiny-qwen2vl"
    for options in ({"revision": "abc"}, {"adapter_revision": "abc"}):
        with pytest.raises(UsageError, match="only a Hub id has commits"):
            mh.load_encoder(f"qwen2-vl:{folder}", **options)
