"""What a person types: the `vigie` command, and the demonstration."""
