"""Hydra groups with a typed schema; YAML beside it, read once per process by its composition root."""
