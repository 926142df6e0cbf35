"""Training: heads, models, datasets, optimisers, packs, metrics and the loop. It writes nothing to disk."""
