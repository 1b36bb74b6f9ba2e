"""The command line: one module a command, which parses arguments, calls and prints."""
