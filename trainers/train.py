"""The loop: batches to gradients, gradients to steps, now and then a checkpoint and scores.

All that a step does is decided by the configuration, the seed and the step's number, so that a
training that was stopped goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from time import perf_counter
from typing import Any

from mmeb_harness.card import dataset_name, relabel
from mmeb_harness.encoder import TrainableEncoder
from mmeb_harness.engines.workers import in_workers
from mmeb_harness.environment import cores
from mmeb_harness.errors import EnvironmentFault, TaskError, UsageError
from mmeb_harness.result import Run
from mmeb_harness.task import Pair
from mmeb_harness.trainer import Subset, Trained, TrainingProgress
from mmeb_harness.trainers import processes as several
from mmeb_harness.trainers import sharding
from mmeb_harness.trainers.batches import BatchOrder
from mmeb_harness.trainers.chunks import Preparer, ReadyBatch
from mmeb_harness.trainers.config import ContrastiveConfig
from mmeb_harness.trainers.folder import TrainingFolder
from mmeb_harness.trainers.gradcache import RandomState
from mmeb_harness.trainers.lora import choose_parameters, to_training
from mmeb_harness.trainers.loss import InfoNCE
from mmeb_harness.trainers.optimizer import learning_rate, make_optimizer
from mmeb_harness.trainers.step import Diverged, Stepper
from mmeb_harness.trainers.trackers import Trackers

Evaluate = Callable[[Any, Path], Run]

CPU_CHUNK_TOKENS, DEVICE_CHUNK_TOKENS = 2048, 16384
"""Tokens of a chunk, where none are given; on an accelerator, halved when memory runs out."""

CHECKPOINTS = 10
"""How many checkpoints a training writes, unless told."""

WORKERS_AT_MOST = 2
"""Processes that prepare batches, unless told: each holds a whole share with its pixels, which for
128 pairs of large images is 6 GB; a step on them takes far longer than to prepare them."""

TOLD_OF = 20
"""How many pairs that were left out are named."""


def train(
    config: ContrastiveConfig,
    encoder: TrainableEncoder,
    data: Sequence[Subset],
    evaluate: Evaluate | None = None,
    progress: TrainingProgress | None = None,
) -> Trained:
    """Train an encoder on pairs, or go on where the newest checkpoint is.

    Raises:
        UsageError: for settings that do not fit the model, the data or the folder.
        Diverged: where the loss is no number any more; checkpoints are kept.
        EnvironmentFault: for a full disk or memory; checkpoints are kept.
    """
    return Training(config, encoder, data, evaluate, progress or TrainingProgress()).run()


class Training:
    """One training under way."""

    def __init__(
        self,
        config: ContrastiveConfig,
        encoder: TrainableEncoder,
        data: Sequence[Subset],
        evaluate: Evaluate | None,
        progress: TrainingProgress,
    ) -> None:
        self.config, self.encoder, self.data, self.evaluate = config, encoder, data, evaluate
        if config.run.shard and evaluate is not None:
            raise UsageError("evaluation: a sharded model is scored from its checkpoints (run -m)")
        self.trackers = Trackers(config)
        self.processes = self.trackers.processes or several.start(config.run.device)
        self.progress = progress if self.processes.is_main else TrainingProgress()
        self.order = BatchOrder(data, config.batch, config.run.seed)
        self.steps = config.run.steps or self._steps_of(config.run.epochs or 1.0)
        self.folder = TrainingFolder(config, data, self.processes, self.steps)
        self.left_out, self.told_equal = 0, False

    def run(self) -> Trained:
        """Train to the end."""
        try:
            return self._run()
        finally:
            self.folder.end()

    def _run(self) -> Trained:
        done = self.folder.begin()
        self.log = self.folder.open_log(done)
        unscored = self.processes.from_main(self._is_unscored(done))
        if done < self.steps or unscored:
            self.trackers.begin()
            self._prepare(done)
            try:
                if unscored:
                    self._evaluate(done)
                for step in range(done, self.steps):
                    self._step(step)
                    self._now_and_then(step + 1)
            finally:
                self.ready.close()  # its workers end now
        else:
            self.folder.draw()  # which a kill may have left undone
            self.progress.warned(f"finished after {done:,} steps: run.fresh=true starts again")
        self.trackers.end()
        evaluation = self.folder.last("evaluation")
        return Trained(
            output_dir=self.config.run.output_dir,
            steps=self.steps,
            loss=self.folder.last("step").get("loss"),
            scores={**evaluation.get("scores", {}), **evaluation.get("tasks", {})},
        )

    # -- before the first step -----------------------------------------------------------------

    def _steps_of(self, epochs: float) -> int:
        pairs_a_step = self.config.batch.size * self.config.batch.accumulate
        return max(1, math.ceil(epochs * self.order.pairs_in_epoch / pairs_a_step))

    def _prepare(self, done: int) -> None:
        """Load the weights, choose what is trained, and put everything where it was."""
        import torch

        torch.manual_seed(self.config.run.seed)
        self.chosen = choose_parameters(self.encoder, self.config)
        module: Any = self.encoder.module
        if self._device.startswith("cuda"):  # whose random numbers are kept for dropout
            torch.cuda.set_device(self._device)
        if self.config.run.checkpointing:
            _save_memory(module)
        to_training(module)
        self.processes.broadcast(module.state_dict().values())
        self.sharded = self.config.run.shard and self.processes.count > 1
        if self.sharded:
            sharding.shard(self.encoder, self.processes)
        self.parameters = [one for one in module.parameters() if one.requires_grad]
        self.optimizer = make_optimizer(self.parameters, self.config.optimizer)
        self.stepper = self._stepper()
        torch.manual_seed(self.config.run.seed + self.processes.rank)
        if done:
            self._restore(done)
        self.ready = self._ready_batches(done)
        facts = self._facts()
        self.folder.write_record({**facts, "adapted": list(self.chosen.adapted)})
        self._write({"kind": "start", "step": done, "steps": self.steps, **facts})
        self.progress.started(self.steps, done, facts)

    def _stepper(self) -> Stepper:
        batch, loss = self.config.batch, self.config.loss
        card: Any = getattr(self.encoder, "card", None)
        on_cpu = self._device.startswith("cpu")
        usual = CPU_CHUNK_TOKENS if on_cpu else DEVICE_CHUNK_TOKENS
        preparer = Preparer(
            encoder=self.encoder,
            tokens=batch.chunk_tokens or usual,
            items=batch.chunk_items,
            negatives=loss.hard_negatives,
            skips=self.config.data.missing_images == "skip",
        )
        return Stepper(
            self.encoder,
            InfoNCE(
                temperature=loss.temperature,
                similarity=loss.similarity or ("cosine" if card is None else card.similarity),
                mask_equal_targets=loss.mask_equal_targets,
                symmetric=loss.symmetric,
                dimensions=loss.dimensions,
            ),
            preparer,
            self.processes,
            precision=self.config.precision_on(self._device),
            sync=partial(sharding.sum_after, self.encoder.module) if self.sharded else None,
        )

    @property
    def _device(self) -> str:
        return str(next(self.encoder.module.parameters()).device)

    def _facts(self) -> dict[str, Any]:
        """Return what is worth knowing of this training, for its record and its reader."""
        total = sum(one.numel() for one in self.encoder.module.parameters())
        share = 100 * self.chosen.numbers / total
        return {
            "model": self.config.model.name,
            "trained": f"{self.chosen.numbers:,} of {total:,} parameters ({share:.3g} %)",
            "adapted_modules": len(self.chosen.adapted),
            "pairs": {subset.name: len(subset.pairs) for subset in self.data},
            "batch": f"{self.config.batch.size} pairs x {self.config.batch.accumulate}",
            "processes": self.processes.count,
            "device": self._device,
            "precision": self.config.precision_on(self._device),
        }

    # -- batches -------------------------------------------------------------------------------

    def _ready_batches(self, step: int) -> Generator[ReadyBatch, None, None]:
        """Yield this process's share of every batch from a step on, prepared ahead."""
        first = step * self.config.batch.accumulate
        count = (self.steps - step) * self.config.batch.accumulate
        shares = map(self._share, islice(self.order.batches(first), count))
        return in_workers(self.stepper.preparer, shares, self._workers(), ahead=1)

    def _share(self, batch: Sequence[tuple[int, int]]) -> list[Pair]:
        own = batch[self.processes.share(len(batch))]
        return [self.data[subset].pairs[row] for subset, row in own]

    def _workers(self) -> int:
        """Return how many processes prepare batches: by default none on a CPU, which the model
        needs itself."""
        if self.config.run.workers is not None or self._device.startswith("cpu"):
            return self.config.run.workers or 0
        own = cores() // self.processes.count
        return max(0, min(WORKERS_AT_MOST, own - 1))

    # -- steps ---------------------------------------------------------------------------------

    def _step(self, step: int) -> None:
        started, recuts = perf_counter(), self.stepper.recuts
        rate = learning_rate(step, self.steps, self.config.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._named(step):
            batches = islice(self.ready, self.config.batch.accumulate)
            result = self.stepper.gradients(batches, self.parameters)
            norm = several.clip(self.parameters, self.config.optimizer.clip)
            if not math.isfinite(norm):
                raise Diverged("the gradient is not finite")
            self.optimizer.step()
        self._tell_left_out(step, result.left_out)
        if result.negatives < 1 and not self.told_equal:
            self.told_equal = True
            self._warn(step + 1, "nearly all targets of a batch are equal: it teaches nothing")
        if self.stepper.recuts > recuts:
            self._warn(step + 1, f"memory ran out: {self.stepper.preparer.most} from now on")
            self.ready.close()
            self.ready = self._ready_batches(step + 1)
        record = {**asdict(result), "grad_norm": norm, "lr": rate}
        del record["left_out"]
        record["seconds"] = perf_counter() - started
        self._write({"kind": "step", "step": step + 1, **record})
        self.trackers.log(step + 1, record)
        self.progress.stepped(step + 1, record)

    @contextmanager
    def _named(self, step: int) -> Iterator[None]:
        """Have whatever goes wrong say in which step it did."""
        import torch

        try:
            yield
        except Diverged as error:
            raise self._diverged(step, error) from None
        except TaskError as error:
            raise TaskError(f"step {step + 1}: {error}") from None
        except torch.OutOfMemoryError as error:
            raise EnvironmentFault(
                f"step {step + 1}: memory ran out where smaller chunks are no help: lora instead "
                "of lora: false, a smaller batch.size or run.shard=true may be"
            ) from error

    def _diverged(self, step: int, error: Diverged) -> Diverged:
        kept = self.folder.checkpoints.steps()
        last = f"the checkpoint of step {kept[-1]} is kept" if kept else "there is no checkpoint"
        return Diverged(
            f"step {step + 1}: {error}; training stops, {last} in {self.folder.path}. A lower "
            "optimizer.lr, more optimizer.warmup or run.precision=float32 may help"
        )

    def _tell_left_out(self, step: int, left_out: Sequence[str]) -> None:
        for why in left_out:
            self.left_out += 1
            if self.left_out <= TOLD_OF:
                self._warn(step + 1, f"a pair was left out: {why}")
            elif self.left_out == TOLD_OF + 1:
                self._warn(step + 1, "more pairs are left out: counted in the log, but not named")

    def _now_and_then(self, done: int) -> None:
        """After a step: a checkpoint, scores, the curve, when it is time for them."""
        every = self.config.run.checkpoint_every or math.ceil(self.steps / CHECKPOINTS)
        saves = done % every == 0 or done == self.steps
        if saves or self._scores_at(done):
            self._check_finite(done)
        if saves:
            self._save(done)
        if self._scores_at(done):
            self._evaluate(done)

    def _scores_at(self, done: int) -> bool:
        section = self.config.evaluation
        return section is not None and (done % section.every == 0 or done == self.steps)

    def _is_unscored(self, done: int) -> bool:
        """Whether the scores from where it goes on are wanted and not in the log."""
        there = self.folder.last("evaluation").get("step")
        return self._scores_at(done) and there != done

    def _check_finite(self, done: int) -> None:
        """Refuse to keep or score weights that a step has spoilt: the next one would show it."""
        values = sharding.own_values(self.encoder.module).values()
        odd = sum(not value.isfinite().all() for value in values)
        if self.processes.maximum(odd):
            raise self._diverged(done - 1, Diverged("it left weights that are not finite"))

    def _evaluate(self, done: int) -> None:
        """Score the encoder as it is, in the first process; leave the random numbers alone."""
        self.processes.wait()
        if self.processes.is_main and self.evaluate is not None:
            random = RandomState.now()
            self.encoder.module.eval()
            run = self.evaluate(self.encoder, self.folder.evaluation(done))
            to_training(self.encoder.module)
            random.restore()
            for name, task in run.tasks.items():
                if task.status != "ok":
                    self._warn(done, f"{name} was not scored: {task.error}")
            scores = {"overall": run.overall, "ind": run.ind, "ood": run.ood}
            tasks = {name: task.score for name, task in run.tasks.items()}
            self._write({"kind": "evaluation", "step": done, "scores": scores, "tasks": tasks})
            self.trackers.log(done, {**scores, **tasks})
            self.folder.draw()
            self.progress.evaluated(done, run)
        self.processes.wait()

    # -- checkpoints ---------------------------------------------------------------------------

    def _save(self, done: int) -> None:
        random = RandomState.now()
        whole = None
        if self.sharded:  # beside an adapter, the base need not be gathered
            names = self.chosen.parameters if self.chosen.adapted else None
            whole = sharding.whole_state(self.encoder.module, self.processes, names)
        state: dict[str, Any] = {"random": {"cpu": random.cpu, "device": random.device}}
        if self.sharded or self.processes.is_main:  # the same in all, unless dealt out
            state["processes"] = self.processes.count
            state["values"] = sharding.own_values(self.encoder.module)
            state["optimizer"] = sharding.optimizer_state(self.optimizer)

        def save_model(folder: Path) -> None:
            self.encoder.save(folder) if whole is None else self.encoder.save(folder, whole)
            relabel(folder, name=self.config.run.output_dir.resolve().name, **self._trained_on())

        folder = self.folder.checkpoints.write(done, save_model, state)
        self._write({"kind": "checkpoint", "step": done})
        self.folder.draw()
        self.progress.saved(done, folder)

    def _restore(self, done: int) -> None:
        import torch

        state = self.folder.checkpoints.read(done)
        same_count = state["processes"] == self.processes.count
        if self.sharded and not same_count:
            raise UsageError(
                f"the checkpoint is of {state['processes']} processes with parts of the model each;"
                f" {self.processes.count} cannot go on with it"
            )
        sharding.put_values(self.encoder.module, state["values"])
        sharding.put_optimizer_state(self.optimizer, state["optimizer"])
        if same_count:
            RandomState(**state["random"]).restore()
        else:
            torch.manual_seed(self.config.run.seed + done + self.processes.rank)

    def _trained_on(self) -> dict[str, Any]:
        """Return what the card says of the training data: with the suite's, what was before."""
        suite = self.config.data.suite
        if suite is None:
            return {}
        before = getattr(getattr(self.encoder, "card", None), "training_datasets", None) or ()
        names = (*before, *(dataset_name(suite, subset.name) for subset in self.data))
        return {"training_datasets": tuple(dict.fromkeys(names))}

    # -- writing down --------------------------------------------------------------------------

    def _write(self, record: dict[str, Any]) -> None:
        if self.log is not None:
            self.log.write(record)

    def _warn(self, step: int, message: str) -> None:
        self._write({"kind": "warning", "step": step, "message": message})
        self.progress.warned(message)


def _save_memory(module: Any) -> None:
    """Have layers computed again on the way back instead of kept."""
    names = ("activation_checkpointing_enable", "gradient_checkpointing_enable")  # new, and old
    enable = next((getattr(module, name) for name in names if hasattr(module, name)), None)
    if enable is None:
        raise UsageError("run.checkpointing: this model's module has no gradient checkpointing")
    enable({"use_reentrant": False})
