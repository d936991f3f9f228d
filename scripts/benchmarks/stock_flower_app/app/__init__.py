"""FedAvg with nothing to compute."""
