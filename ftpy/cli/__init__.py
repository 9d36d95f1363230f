"""The commands: the only place that prints, and that knows terminals and exit codes."""
