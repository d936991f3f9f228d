"""What a hospital has to be able to show: every algorithm on site, and the evidence for each version."""
