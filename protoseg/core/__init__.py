"""The algorithms in plain torch: prototypes, clustering, losses, contrast, weak supervision."""
