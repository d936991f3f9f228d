"""One hospital: everything that may touch an image."""
