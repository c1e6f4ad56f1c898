"""A folder to put before the installed packages, so that an agent of its own process finds our `smbus2` first."""
