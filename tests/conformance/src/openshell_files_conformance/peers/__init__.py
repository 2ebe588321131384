"""The other ends: what surrounds the implementation under test, well-behaved or not."""
