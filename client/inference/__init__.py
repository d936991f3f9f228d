"""From a received study to its outcome: scope, engine, pipeline, worker."""
