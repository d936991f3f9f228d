"""Where clinicians meet the AI's results: worklist, verdicts and the readers who give them."""
