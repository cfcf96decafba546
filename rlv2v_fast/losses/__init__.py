"""Losses as functions of tensors and logits, without networks or state."""
