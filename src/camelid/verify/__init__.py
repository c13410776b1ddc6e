"""Rules that give a text a score, without a model."""
