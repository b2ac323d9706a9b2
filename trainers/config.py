"""The sections that the contrastive trainer adds: batch, loss, lora, optimizer, run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from mmeb_harness.trainconfig import RunSection, Section, TrainConfig, Words
from pydantic import Field, PositiveInt, model_validator


class BatchSection(Section):
    """Which pairs meet in a step, and how many items go through the model at once.

    `size` pairs, over all processes, are negatives of one another; `accumulate` such batches make
    one step of the optimiser. `mixed` draws pairs of all subsets in proportion to their size (or
    weight); `homogeneous` fills the batch with runs of `sub_batch` pairs of one subset, drawn;
    `round_robin` takes the subsets in turn for those runs. A chunk holds `chunk_tokens` tokens
    with its padding at most (default: by device, halved when memory runs out), or `chunk_items`.
    """

    size: int = Field(default=64, ge=1)
    accumulate: int = Field(default=1, ge=1)
    composition: Literal["mixed", "homogeneous", "round_robin"] = "mixed"
    sub_batch: int | None = Field(default=None, ge=1)
    distinct_positives: bool = False
    chunk_tokens: int | None = Field(default=None, ge=1)
    chunk_items: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> BatchSection:
        if self.chunk_tokens and self.chunk_items:
            raise ValueError("give chunk_tokens or chunk_items, not both")
        if self.sub_batch and self.composition == "mixed":
            raise ValueError("sub_batch is for composition homogeneous or round_robin")
        if self.sub_batch and self.sub_batch > self.size:
            raise ValueError(f"sub_batch {self.sub_batch} exceeds size {self.size}")
        return self


class LossSection(Section):
    """InfoNCE: each query against all targets of the batch, over all processes.

    `mask_equal_targets` leaves out targets equal to a query's own; `hard_negatives` adds the
    pairs' negatives to the targets; `symmetric` adds each target against all queries;
    `dimensions` repeats the loss over the first so many numbers of each vector, averaged.
    `similarity`: as the model's card scores, unless given.
    """

    temperature: float = Field(default=0.02, gt=0)
    similarity: Literal["cosine", "dot"] | None = None
    mask_equal_targets: bool = True
    hard_negatives: bool = False
    symmetric: bool = False
    dimensions: tuple[PositiveInt, ...] = ()


class LoraSection(Section):
    """A low-rank adapter. `targets` and `exclude` are regular expressions on the ends of module
    names (`q_proj`, `language_model.*up_proj`); default: what suits the model's family.
    `go_on: true` trains the adapter that the model has already."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=64, gt=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    dora: bool = False
    rslora: bool = False
    init: Literal["default", "gaussian", "orthogonal"] = "default"
    targets: Words | None = None
    exclude: Words = ()
    go_on: bool = False

    @model_validator(mode="after")
    def _can_be_orthogonal(self) -> LoraSection:
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"init orthogonal needs an even rank, not {self.rank}")
        return self

    @model_validator(mode="after")
    def _goes_on_as_it_is(self) -> LoraSection:
        if self.go_on and (given := self.model_fields_set - {"go_on", "dropout"}):
            raise ValueError(
                f"go_on trains the adapter as it is; {', '.join(sorted(given))} cannot be given"
            )
        return self


Decay = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSection(Section):
    """AdamW or SGD; a linear or cosine way down to zero (or none) after `warmup` steps; gradients
    clipped to the norm `clip` (null: not)."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(default=2e-5, gt=0)
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    momentum: float = Field(default=0.0, ge=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup: int = Field(default=0, ge=0)
    clip: float | None = Field(default=1.0, gt=0)

    @model_validator(mode="after")
    def _has_what_it_names(self) -> OptimizerSection:
        if self.name == "adamw" and self.momentum:
            raise ValueError("momentum is for name: sgd; adamw has betas")
        return self


class LongRunSection(RunSection):
    """Where it is written, how long it takes, on what.

    Give `steps`, or `epochs` over the pairs. `checkpoint_every` steps the state is written, and
    the newest `keep` are kept. Training goes on from the newest state in `output_dir`, if its
    configuration is the same; `fresh` starts again. With `saved_precision: bfloat16` the weights of
    the finished model (`lora: false`) take half the room; checkpoints stay float32. `trackers` are
    names that accelerate knows.
    """

    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    precision: Literal["float32", "bfloat16"] | None = None
    saved_precision: Literal["float32", "bfloat16"] = "float32"
    checkpointing: bool = False
    checkpoint_every: int | None = Field(default=None, ge=1)
    keep: int = Field(default=2, ge=1)
    fresh: bool = False
    workers: int | None = Field(default=None, ge=0)
    shard: bool = False
    trackers: Words = ()

    @model_validator(mode="after")
    def _one_length(self) -> LongRunSection:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give steps or epochs, one of them (null takes the other out)")
        return self


class ContrastiveConfig(TrainConfig):
    """All that the contrastive trainer is told.

    `lora: false` trains the weights themselves: those that match a pattern in `train` (default
    all) and none in `freeze`.
    """

    batch: BatchSection = Field(default_factory=BatchSection)
    loss: LossSection = Field(default_factory=LossSection)
    lora: LoraSection | None = Field(default_factory=LoraSection)
    train: Words = (".*",)
    freeze: Words = ()
    optimizer: OptimizerSection = Field(default_factory=OptimizerSection)
    run: LongRunSection

    @model_validator(mode="before")
    @classmethod
    def _switched_sections(cls, given: Any) -> Any:
        """Read `lora: true` and `false`; a section with nothing under it has its defaults."""
        if not isinstance(given, Mapping):
            return given
        own = cls._defaulted()
        read = {k: {} if v is None and k in own else v for k, v in given.items()}
        if isinstance(switch := read.get("lora"), bool):
            read["lora"] = {} if switch else None
        return read

    @classmethod
    def _defaulted(cls) -> set[str]:
        return {name for name, one in cls.model_fields.items() if one.default_factory is not None}

    @model_validator(mode="after")
    def _is_all_heard(self) -> ContrastiveConfig:
        if self.lora is not None and (self.train != (".*",) or self.freeze):
            raise ValueError("train and freeze choose weights, where lora: false trains those")
        if self.lora is not None and self.run.saved_precision != "float32":
            raise ValueError("run.saved_precision is for weights (lora: false), not for an adapter")
        steps, warmup = self.run.steps, self.optimizer.warmup
        if steps is not None and warmup > steps:
            raise ValueError(f"optimizer.warmup {warmup} is longer than run.steps {steps}")
        return self

    @model_validator(mode="after")
    def _has_negatives(self) -> ContrastiveConfig:
        if self.batch.size == 1 and not self.loss.hard_negatives:
            raise ValueError(
                "batch.size: a batch of one pair has no negatives, so that nothing is learnt; "
                "give at least 2 (a single device can: chunks keep its memory small)"
            )
        return self

    def weights_dtype(self, device: str) -> str:
        """Weights under training are float32; frozen ones have the run's precision."""
        return "float32" if self.lora is None else self.precision_on(device)

    def precision_on(self, device: str) -> str:
        """Return the numeric type of the arithmetic on a device."""
        usual = "float32" if device.startswith("cpu") else "bfloat16"
        return self.run.precision or usual


def dotted(sections: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested sections as `section.key: value`."""
    flat: dict[str, Any] = {}
    for key, value in sections.items():
        if isinstance(value, Mapping):
            flat |= dotted(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
