"""Old paths of `protoseg.config`, kept for one release."""
