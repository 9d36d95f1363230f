"""The host's side: admits connections, proves users, answers requests, drains."""
