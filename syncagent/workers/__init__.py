"""One pass each: no loop, no sleep, no thread. The supervisor owns all three."""
