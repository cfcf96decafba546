"""Training, checkpoints, translation of files, and evaluation."""
