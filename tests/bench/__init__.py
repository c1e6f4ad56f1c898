"""Figures: the agent beside s5cmd and rclone, on one machine and into one store. Not run by `make test`."""
