"""Handlers, and the process that they run in: nothing here is ever imported by the agent itself."""
