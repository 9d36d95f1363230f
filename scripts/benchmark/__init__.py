"""What `scripts/bench` is made of; standard library only (docs/benchmarks.md)."""
