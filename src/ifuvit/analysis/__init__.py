"""Why a model does what it does: attention maps, their rank, ablations of text by block, linear probes."""
