"""Speed of this package on one machine: cases timed in interleaved rounds, on the same tensors, in one process."""
