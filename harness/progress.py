"""What a long job says of itself while it runs; the job prints nothing, whoever listens does."""

from __future__ import annotations

from mmeb_harness.result import TaskResult


class Progress:
    """A silent listener; override what you want to hear."""

    def gathering(self, task: str, items: int) -> None:
        """A task's items are about to be rendered and looked up."""

    def gathered(self, items: int) -> None:
        """So many more items have been looked up."""

    def planning(self, items: int) -> None:
        """So many items lack a vector; their tokens are about to be counted."""

    def planned(self, items: int, tokens: int, reused: int) -> None:
        """So much is to be encoded; so many vectors are there already."""

    def loading(self, model: str) -> None:
        """The model's weights are about to be loaded."""

    def encoded(self, items: int, tokens: int) -> None:
        """So much more is encoded."""

    def scored(self, result: TaskResult) -> None:
        """A task is done, scored or failed, and written."""

    def warned(self, message: str) -> None:
        """Something the user should know, which is also in the result."""
