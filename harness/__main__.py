"""`python -m mmeb_harness`."""

from mmeb_harness.cli import main

main()
