"""The command line: it reads options, shows progress, prints results, and decides nothing."""

from mmeb_harness.cli.main import main

__all__ = ["main"]
