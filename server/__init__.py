"""The coordinator: aggregates, tracks and releases; never sees an image."""
