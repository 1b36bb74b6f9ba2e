"""What `ifuvit bench` times: contestants side by side, on the same tensors, in one run."""
