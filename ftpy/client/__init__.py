"""The workstation's side: connect, prove, transfer, resume."""
