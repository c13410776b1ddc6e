"""Model to model: replaced masks, layers, positions and vocabularies."""
