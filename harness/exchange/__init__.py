"""Scores in the forms that MMEB's own scripts write, out and in.

`v1` and `v2` each know one form; `writing` and `reading` serve both, and `ranking` gives the
measures beside hit@1 that the second has.
"""

from mmeb_harness.exchange.reading import import_scores
from mmeb_harness.exchange.writing import Exported, export_run

__all__ = ["Exported", "export_run", "import_scores"]
