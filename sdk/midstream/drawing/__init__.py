"""A picture of a model: its layers coloured by cost, what flows between them, and where each cut lies."""
