"""Reinforcement learning: replay, rollouts, and the deterministic policy gradient; networks arrive as arguments."""
