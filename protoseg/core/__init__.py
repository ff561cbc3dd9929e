"""The algorithm of ProtoSeg in plain torch: distances, clustering, prototypes, losses."""
