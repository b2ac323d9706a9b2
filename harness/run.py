"""The job: tasks to items, items to keys, keys to a plan, batches to vectors, vectors to scores.

It goes one way and prints nothing. Each result is written as its task is done, and whatever ends
the job early, what was computed is kept.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmeb_harness import environment, runfolder
from mmeb_harness.assess import assess, failed
from mmeb_harness.encode import encode_missing, missing_batches
from mmeb_harness.encoder import Packing
from mmeb_harness.engines.batch import reason
from mmeb_harness.engines.engine import EngineSettings, open_engine
from mmeb_harness.errors import (
    ANY_OF_OTHERS,
    DataMissing,
    EncoderFailed,
    EnvironmentFault,
    HarnessError,
    TaskError,
)
from mmeb_harness.files import FileIndex, check_writable
from mmeb_harness.forecast import Forecast, expected_place, forecast
from mmeb_harness.gather import Gathered, Work, gather_task, name_item
from mmeb_harness.hits import write_hits
from mmeb_harness.keys import digest_of, numeric_stack
from mmeb_harness.plan import (
    Key,
    Plan,
    make_plan,
    new_plan_name,
    plan_identity,
    read_plan,
    write_plan,
)
from mmeb_harness.progress import Progress
from mmeb_harness.registry import Registry
from mmeb_harness.result import Run, RunRecord, TaskName, TaskResult
from mmeb_harness.rows import TaskItems, TaskRows, clusters_of, items_of, rows_of
from mmeb_harness.score import Scoring, score_task
from mmeb_harness.store import VectorStore, describe_namespace
from mmeb_harness.subject import Subject
from mmeb_harness.task import DataLocation, Task
from mmeb_harness.taskdata import TaskData

CPU_BATCH_TOKENS = 1024
DEVICE_BATCH_TOKENS = 32768


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What is to be run, resolved: nothing here is left to be looked up."""

    suite: str
    suite_tasks: Sequence[Task]
    tasks: Sequence[Task]
    location: DataLocation
    output_dir: Path
    cache_dir: Path
    fresh: bool = False
    limit: int | None = None
    scoring: Scoring = "expected"
    batch_tokens: int | None = None
    packing: Packing = "auto"
    engine: EngineSettings = field(default_factory=EngineSettings)


@dataclass
class _Open:
    """A task under way: its data, the key of each of its items, and the keys still to come."""

    task: Task
    data: TaskData
    gathered: Gathered
    waiting: set[Key] = field(default_factory=set)

    @property
    def keys(self) -> list[Key]:
        return self.gathered.keys


class Job:
    """One run of one encoder. `run` does it; `forecast` says what it would do."""

    def __init__(
        self,
        subject: Subject,
        settings: RunSettings,
        registry: Registry,
        index: FileIndex,
        progress: Progress | None = None,
    ) -> None:
        self.subject, self.settings, self.registry = subject, settings, registry
        self.progress = progress or Progress()
        self.index = index
        self.warnings: list[str] = []
        self.results: dict[str, TaskResult] = {}
        self.computed = 0
        self.plan_name, self.fresh = new_plan_name(), settings.fresh
        self.reused: Counter[str] = Counter()
        self._claimed = False
        self.packed = subject.encoder.pack(settings.packing)
        self.record = self._new_record()

    def run(self) -> Run:
        """Do the job. Raises EnvironmentFault where it cannot go on; what is done is kept."""
        folder = self.settings.output_dir
        self._check_folder(folder)
        for message in self.subject.warnings:
            self._warn(message)
        before, store = self._open_store()
        work, tasks = self._gather(store)
        plan = self._plan(work, tasks, before)
        self._claim(folder, plan, store)
        self.reused.update(store.sources(work.stored))
        if work.stored and not self.subject.kept:
            self._warn(
                f"{self.subject.name} has no fingerprint: the {len(work.stored)} vectors in this "
                "folder are taken to be its own (--fresh computes them anew)"
            )
        self._encode(plan, work, tasks, store)
        self._finish()
        run = runfolder.read_run(folder)
        write_hits(run)
        return run

    def forecast(self) -> Forecast:
        """Render, look up and cut batches; time one of them; write nothing in the run's folder."""
        before, store = self._open_store()
        work, tasks = self._gather(store)
        plan = self._plan(work, tasks, before)
        missing = {name: result.error or "" for name, result in self.results.items()}
        keys_of = {task.task.name: task.keys for task in tasks}
        batches = len(missing_batches(plan, work))
        place = expected_place(self.settings.engine, self.subject.encoder, batches)
        return forecast(self.subject.encoder, plan, work, keys_of, missing, place)

    # -- steps ---------------------------------------------------------------------------------

    def _check_folder(self, folder: Path) -> None:
        """Refuse a folder that holds another run, or that cannot be written, before any work."""
        old = None if self.settings.fresh else runfolder.read_record(folder)
        if old is not None and runfolder.holds_scores(folder, old):
            runfolder.check_same_run(folder, old, self.record)
        check_writable(folder)

    def _claim(self, folder: Path, plan: Plan, store: VectorStore) -> None:
        """Make the folder this run's own: only now, when there is something to run."""
        if self.settings.fresh:
            runfolder.clear(folder)
        describe_namespace(store.folder, {"model": self.subject.name, **self.record.overrides})
        runfolder.write_record(folder, self.record)
        write_plan(plan, folder)
        store.plan = plan.name
        self._claimed = True
        self._notify("run_started", run=self.record)
        for result in list(self.results.values()):
            self._publish(result, None)

    def _open_store(self) -> tuple[Plan | None, VectorStore]:
        """Open the encoder's vectors, and the plan that an earlier run of this folder left."""
        folder = self.subject.vector_folder(self.settings.cache_dir, self.settings.output_dir)
        before = None if self.settings.fresh else read_plan(self.settings.output_dir)
        self.fresh = self.settings.fresh
        if before is not None and before.fresh:  # go on as it was begun: nothing older counts
            self.fresh, self.plan_name = True, before.name
        only = self.plan_name if self.fresh else None
        return before, VectorStore(folder, run=str(self.settings.output_dir), only_plan=only)

    def _gather(self, store: VectorStore) -> tuple[Work, list[_Open]]:
        work, tasks = Work(), []
        absent: list[tuple[Task, DataMissing]] = []
        for task in self.settings.tasks:
            try:
                data = self._load(task)
                self.progress.gathering(task.name, len(data.items))
                gathered = gather_task(
                    data, self.subject.encoder, self.index, store, work, self.progress.gathered
                )
                tasks.append(_Open(task=task, data=data, gathered=gathered))
            except DataMissing as error:
                absent.append((task, error))
            except EnvironmentFault:
                raise
            except HarnessError as error:
                self._fail(task, str(error))
        if absent and len(absent) == len(self.settings.tasks):
            raise absent[0][1]
        for task, missing in absent:
            self._fail(task, str(missing))
        for damage in store.damaged:
            self._warn(f"stored vectors: {damage}; they are computed again")
        return work, tasks

    def _load(self, task: Task) -> TaskData:
        """Load a task; whatever is wrong with a stranger's loader fails that task alone."""
        try:
            data: Any = task.load(self.settings.location)
        except (DataMissing, TaskError):
            raise
        except ANY_OF_OTHERS as error:
            raise TaskError(f"its loader failed: {reason(error)}") from error
        if not isinstance(data, TaskData):
            raise TaskError(f"its loader gave {type(data).__name__}, not TaskData")
        data.check()
        return data if self.settings.limit is None else data.head(self.settings.limit)

    def _plan(self, work: Work, tasks: Sequence[_Open], before: Plan | None) -> Plan:
        """Continue the folder's plan where it is for this very work, else make one."""
        wanted = list(dict.fromkeys(key for task in tasks for key in task.keys))
        identity = plan_identity(self.subject.namespace, wanted, self._batch_tokens)
        plan = before
        if plan is None or plan.identity != identity or not work.missing.keys() <= set(plan.keys):
            plan = self._new_plan(work, identity)
        for task in tasks:
            task.waiting = {key for key in task.keys if key in work.missing}
        tokens = sum(int(plan.sizes[rows].sum()) for rows in missing_batches(plan, work))
        self.progress.planned(len(work.missing), tokens, len(work.stored))
        return plan

    def _new_plan(self, work: Work, identity: str) -> Plan:
        self.progress.planning(len(work.missing))
        sizes = work.measure(self.subject.encoder)
        return make_plan(
            list(work.missing),
            sizes,
            budget=self._batch_tokens,
            identity=identity,
            name=self.plan_name,
            fresh=self.fresh,
            pictures=work.pictures(),
            pads=self.subject.encoder.pads,
        )

    def _encode(self, plan: Plan, work: Work, tasks: list[_Open], store: VectorStore) -> None:
        """Encode what is missing; score each task as soon as its vectors are there."""
        self._score_ready(tasks, work.faults, store)
        batches = len(missing_batches(plan, work))
        if batches:
            by_ray = ", in copies that Ray starts" if self.settings.engine.wants_ray else ""
            self.progress.loading(f"{self.subject.name}{by_ray}")
        try:
            encoder = self.subject.encoder
            engine = open_engine(self.settings.engine, encoder, batches)
            place = {name: getattr(engine, name) for name in ("name", "actors", "workers")}
            self.record = self.record.model_copy(update={"engine": place.pop("name"), **place})
            with contextlib.closing(encode_missing(plan, work, store, engine)) as steps:
                for step in steps:
                    self.computed += step.computed
                    if step.recut:
                        self._warn("a batch did not fit or failed, and was cut into smaller ones")
                    self.progress.encoded(len(step.keys), step.tokens)
                    for task in tasks:
                        task.waiting.difference_update(step.keys)
                    self._score_ready(tasks, work.faults, store)
        except EncoderFailed as error:
            for task in tasks:
                self._fail(task.task, str(error))
            tasks.clear()

    def _score_ready(
        self, tasks: list[_Open], failures: Mapping[Key, str], store: VectorStore
    ) -> None:
        """Score the tasks whose vectors are all there, and let go of them."""
        for task in [task for task in tasks if not task.waiting]:
            tasks.remove(task)
            fault = next((key for key in task.keys if key in failures), None)
            if fault is None:
                self._score(task, store)
            else:
                item = task.data.items[task.keys.index(fault)]
                self._fail(task.task, name_item(item, failures[fault]))

    def _score(self, open_task: _Open, store: VectorStore) -> None:
        data = open_task.data
        vectors = store.get(open_task.keys)
        try:
            outcomes = score_task(
                vectors,
                data.queries,
                data.candidates,
                data.gold,
                similarity=self.subject.similarity,
                scoring=self.settings.scoring,
                overwrite=True,
            )
        except TaskError as error:
            self._fail(open_task.task, str(error))
            return
        data = replace(
            data,
            digest=digest_of({"rows": data.digest, "images": open_task.gathered.images_digest}),
        )
        rows = rows_of(outcomes, data, open_task.gathered)
        facts = {"clusters": clusters_of(rows), **self._result_facts()}
        result = assess(open_task.task, data, outcomes, vectors, facts)
        self._done(result, (rows, items_of(data, open_task.gathered)))

    @property
    def any_failed(self) -> bool:
        """Whether one of the tasks asked for failed."""
        return any(result.status == "failed" for result in self.results.values())

    # -- small parts ---------------------------------------------------------------------------

    def _fail(self, task: Task, why: str) -> None:
        self._done(failed(task, why, self._result_facts()), None)

    def _done(self, result: TaskResult, tables: tuple[TaskRows, TaskItems] | None) -> None:
        self.results[result.name] = result
        if self._claimed:  # what fails before the folder is ours is written when it is
            self._publish(result, tables)

    def _publish(self, result: TaskResult, tables: tuple[TaskRows, TaskItems] | None) -> None:
        runfolder.write_task(self.settings.output_dir, result, tables)
        self.progress.scored(result)
        self._notify("task_scored", run=self.record, task=result)

    def _result_facts(self) -> dict[str, Any]:
        return {
            "encoder": self.record.encoder,
            "scoring": self.settings.scoring,
            "similarity": self.subject.similarity,
            "limit": self.settings.limit,
        }

    @property
    def _batch_tokens(self) -> int:
        return batch_budget(self.subject, self.settings.batch_tokens)

    def _new_record(self) -> RunRecord:
        settings, subject = self.settings, self.subject
        return RunRecord(
            model=subject.name,
            card=subject.card,
            overrides=dict(subject.overrides),
            plugin=dict(subject.plugin),
            encoder=subject.namespace,
            revisions=dict(subject.revisions),
            suite=settings.suite,
            suite_tasks=tuple(_name(task) for task in settings.suite_tasks),
            tasks=tuple(task.name for task in settings.tasks),
            limit=settings.limit,
            scoring=settings.scoring,
            similarity=subject.similarity,
            data_dir=_absolute(settings.location.data_dir),
            image_dir=_absolute(settings.location.image_dir),
            stack=dict(numeric_stack()),
            versions=environment.versions(),
            dtype=subject.dtype,
            device=subject.device,
            device_name=environment.device_name(subject.device),
            attention=getattr(subject.encoder, "attention", None),
            batch_tokens=self._batch_tokens,
            packed=self.packed,
            workers=self.settings.engine.workers or 0,
            command=environment.command_line(),
            started=environment.now(),
        )

    def _finish(self) -> None:
        self.record = self.record.model_copy(
            update={
                "finished": environment.now(),
                "computed": self.computed,
                "reused": dict(self.reused),
                "warnings": tuple(self.warnings),
            }
        )
        self._notify("run_finished", run=self.record)
        self.record = self.record.model_copy(update={"warnings": tuple(self.warnings)})
        runfolder.write_record(self.settings.output_dir, self.record)

    def _warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
            self.progress.warned(message)

    def _notify(self, notice: str, **values: Any) -> None:
        for fault in self.registry.notify(notice, **values):
            self._warn(fault)


def batch_budget(subject: Subject, wanted: int | None) -> int:
    """Return the token budget of a batch: what is wanted, or what suits the device."""
    if wanted is not None:
        return wanted
    on_cpu = (subject.device or "cpu").startswith("cpu")
    return CPU_BATCH_TOKENS if on_cpu else DEVICE_BATCH_TOKENS


def _name(task: Task) -> TaskName:
    return TaskName(name=task.name, meta_task=task.meta_task, split=task.split)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(path.absolute())
