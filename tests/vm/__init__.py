"""The package in a machine that boots: `make test-vm`."""
