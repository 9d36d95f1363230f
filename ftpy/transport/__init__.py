"""Bytes over sockets; every OSError of a socket is translated here and nowhere above."""
