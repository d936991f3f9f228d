"""What a hospital and the coordinator agree on: model versions, messages, statistics, errors."""
