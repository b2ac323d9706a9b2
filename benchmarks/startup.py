"""How long a command takes to begin: to its help, to a list, and to the first batch of vectors.

    OMP_NUM_THREADS=1 python benchmarks/startup.py

Each command is a process of its own, timed from its start to its end; all take turns in every
round, beside `import torch; import transformers`, without which no model runs. The run to the first
batch is `mmeb-harness run` of `mini-vlm` over all 36 embedded tasks (`--tasks` for others), left
for good when the first vectors have come back from the engine: everything before them is in it, the
reading of all tasks, the digests of all images, the plan, the weights. `nothing cached` makes the
embedded tasks' data, too; `again` finds them and the images' digests, and computes every vector
anew.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import measuring
from measuring import Took, described, say

BARE = "import torch; import transformers"
CLI = "import sys; from mmeb_harness.cli import main; sys.exit(main())"
UNTIL_VECTORS = """
import os
import sys
from mmeb_harness.cli import main
from mmeb_harness.engines.batch import Launched

whole = Launched.result

def first(launched):
    vectors = whole(launched).vectors
    os._exit(0 if len(vectors) else 3)

Launched.result = first
sys.exit(main() or 4)
"""

BASE = "torch, transformers"


def took(arguments: Sequence[str], environment: dict[str, str]) -> Took:
    """Run Python with these arguments to its end."""
    before, begun = _children(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"{arguments}: {done.stdout}{done.stderr}")
    return Took(wall=wall, cpu=_children() - before)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def commands(folder: Path, tasks: str) -> dict[str, list[str]]:
    """Return what is run, by name: the arguments of Python."""
    run = ["-c", UNTIL_VECTORS, "run", "-m", "mini-vlm", "--suite", "mini", "--tasks", tasks]
    return {
        BASE: ["-c", BARE],
        "mmeb-harness --help": ["-c", CLI, "--help"],
        "mmeb-harness list models": ["-c", CLI, "list", "models"],
        "to the first batch, nothing cached": [*run, "-o", str(folder / "first")],
        "to the first batch, again": [*run, "-o", str(folder / "again"), "--fresh"],
    }


def measure(rounds: int, tasks: str) -> dict[str, list[Took]]:
    """Time each command in every round."""
    found: dict[str, list[Took]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        chosen = commands(folder, tasks)
        kept = os.environ | {"MMEB_HARNESS_CACHE_DIR": str(folder / "cache")}
        took(chosen["to the first batch, again"], kept)  # and the disk's cache is warm
        for number in range(rounds):
            for name in measuring.turned(list(chosen), number):
                own = kept
                if name.endswith("nothing cached"):
                    own = kept | {"MMEB_HARNESS_CACHE_DIR": str(folder / f"cache-{number}")}
                found.setdefault(name, []).append(took(chosen[name], own))
                say(f"round {number + 1}, {name}: {found[name][-1]}")
    return {name: found[name] for name in chosen}


def report(found: dict[str, list[Took]], tasks: str) -> str:
    """Return the section of results."""
    rows = [
        [
            name,
            *(f"{statistics.median(getattr(one, by) for one in times):.2f}" for by in BY),
            *(measuring.ratio(*([getattr(o, by) for o in t] for t in (times, found[BASE])))
              for by in BY),
        ]
        for name, times in found.items()
    ]  # fmt: skip
    head = ["process", "wall s", "CPU s", f"wall, over {BASE}", "by CPU"]
    rounds = len(found[BASE])
    return "\n".join(
        [
            measuring.heading("Time to begin", "cpu"),
            f"Tasks of the run: {tasks}; {rounds} rounds in turn; medians, ratios round by round "
            "with the smallest and largest.\n",
            measuring.table(head, rows),
            "",
        ]
    )


BY = ("wall", "cpu")


def main() -> None:
    """Measure, and print the section of results."""
    parser = described(__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tasks", default="all", help="as `mmeb-harness run --tasks` takes them")
    arguments = parser.parse_args()
    print(report(measure(arguments.rounds, arguments.tasks), arguments.tasks))


if __name__ == "__main__":
    main()
