"""What the hospital knows of the AI's errors."""
