"""A proposed table for a model that nobody has read: its values are compared with the golden's taps.

watched.py     the model's program, with every value marked that a call of its modules and functions has
flat.py        the program without nesting, and its variables: of calls, or all of them (`goldens port --discover`)
values.py      its values, golden ones in the place of some
layouts.py     which layouts of a tap a value's shape allows
matching.py    which taps a value equals within the noise
dataflow.py    one pass through the program: what equals a tap, and where it stops
standing.py    which tap feeds which, and what stands there
places.py      how a place can be written as a row, and rows of single layers as one with {i}
rows.py        the plainest rows for every kind of tap, which hold for calls through a cache as well
proposal.py    all of it for one port: plain data
"""
