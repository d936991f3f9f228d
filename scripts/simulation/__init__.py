"""A retraining over many made-up hospitals on one machine: the product's own code on Flower's simulation engine."""
