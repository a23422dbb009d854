"""What our benchmarks are measured against: other ways to do the same, each run as a process of its own."""
