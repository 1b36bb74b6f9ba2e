"""What `ifuvit bench` times: cases side by side, on the same tensors, in one run."""
