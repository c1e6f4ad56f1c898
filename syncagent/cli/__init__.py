"""The command line: arguments, output and exit codes, one module per verb."""
