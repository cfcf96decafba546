"""Losses: functions of tensors and logits; no networks, no state."""
