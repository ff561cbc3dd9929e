"""The algorithms in plain torch: distances, clustering, prototypes and losses of ProtoSeg, pixel
contrast and its memory, pixel queries, and what weak supervision needs."""
