"""A proposed table for a model that nobody has read: its values are compared with the golden's taps.

functions.py   functions of the model's own modules, and a few of JAX
watched.py     the model on one case, every value of every call shown to a handler
layouts.py     which layouts of a tap a value's shape allows
matching.py    which taps a value equals within the noise
search.py      the model on golden values: what matches, and where it stops, what stands there
places.py      how a place can be written as a row
patterns.py    rows of single layers -> rows with {i}
with_cache.py  rows that hold for calls through a cache as well
proposal.py    all of it for one port: plain data

Among all variables of the program (`goldens port --discover`):

flat.py        the program without nesting
values.py      its values, golden ones in the place of some
dataflow.py    one pass through it: what equals a tap, and where it stops
standing.py    which tap feeds which, and what stands there
discovery.py   the table of that
"""
