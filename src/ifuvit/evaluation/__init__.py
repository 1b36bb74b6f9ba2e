"""What `ifuvit evaluate` does: the protocol, the real pictures, the pictures that are judged, and the judges."""
