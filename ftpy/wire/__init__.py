"""The protocol without I/O: no socket, file, thread, clock or random source (docs/protocol.md)."""
