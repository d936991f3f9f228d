"""Learning with other hospitals: the Flower client, the border, and what may cross it."""
