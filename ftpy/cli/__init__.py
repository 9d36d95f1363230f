"""The commands: the only place that prints, and that knows terminals and exit codes."""

import gc

GARBAGE_THRESHOLD = 50_000
"""Objects between two looks for circles of garbage: trees and imports make many objects and no circles, and a look
costs time. Set before anything else is imported."""

gc.set_threshold(GARBAGE_THRESHOLD)
