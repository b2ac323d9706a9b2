"""Where batches are run: on this machine's device, or by many copies of the encoder."""
