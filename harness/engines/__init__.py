"""Where batches are run: on this machine's device, and later on many."""
