"""``Client``: a server as an object, a method per verb; each theme's methods are a part, in a module of its own."""

from __future__ import annotations

from ftpy.client.changes import Changes
from ftpy.client.commands import Commands
from ftpy.client.probes import Probes
from ftpy.client.reads import Reads
from ftpy.client.swapping import Swapping
from ftpy.client.syncs import Syncs
from ftpy.client.telling import Telling


class Client(Swapping, Syncs, Reads, Changes, Commands, Probes, Telling):
    """A connection to one server, made again when it breaks; use it in a ``with``. Not safe in several threads.

    ``limit`` bytes a second pass at most, over all connections and both ways together; one that ``explains`` measures
    what its transfers spend their time on. ``notify`` hears a sentence for everything that a user should know while it
    happens: a lost connection and the next try, a transfer that starts over. Every method raises the errors of
    ``ftpy.errors`` and no others.
    """
