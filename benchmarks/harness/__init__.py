"""What the benchmarks are made of: processes, links, baselines, rounds, records."""
