"""One module per outside system; its SDK is imported there and nowhere else."""
