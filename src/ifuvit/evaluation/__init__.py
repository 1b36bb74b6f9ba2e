"""What `ifuvit evaluate` does: the protocol, the real images, the images that are judged, and the evaluators."""
