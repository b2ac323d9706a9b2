"""Survives a torchvision that does not fit torch, such as the CUDA build beside a CPU torch.

Such a torchvision fails at import because its compiled operators are missing, and transformers and
peft, which only look whether it is installed, fail with it. Declaring the two operators it asks for
lets the rest of it work; nothing here uses the operators. A torchvision that works is not touched.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from typing import Any

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@cache
def mend_torchvision() -> Any:
    """Make `import torchvision` work if it is installed; to be called before transformers is used.

    Returns the operator library that keeps the declarations alive, or None if none was needed.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
    else:
        return None
    import torch

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch leaves it untyped
    for schema in SCHEMAS:
        library.define(schema)
    importlib.import_module("torchvision")
    return library
