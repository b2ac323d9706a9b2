"""Dotted paths `package.module:attribute`, imported when they are needed and not before."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from mmeb_harness.errors import EnvironmentFault


def load_object(path: str) -> Any:
    """Import what `package.module:attribute` names."""
    module_name, _, attribute = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise EnvironmentFault(f"{path} cannot be imported: {error}") from error


def call_with_known(function: Callable[..., Any], offered: Mapping[str, Any]) -> Any:
    """Call a function with those of the offered arguments that it takes by name, as pluggy does."""
    parameters = inspect.signature(function).parameters
    return function(**{name: value for name, value in offered.items() if name in parameters})
