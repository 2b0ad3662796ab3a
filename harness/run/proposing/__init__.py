"""A proposed table for a model that nobody has read: its values are compared with the golden's taps.

functions.py   functions of the model's own modules, and a few of JAX
asking.py      the program of a model that looks at values
watched.py     the model on one case, every value of every call shown to a handler
layouts.py     which layouts of a tap a value's shape allows
matching.py    which taps a value equals within the noise
search.py      the model on golden values: what matches, and where it stops, what stands there
places.py      how a place can be written as a row
patterns.py    rows of single layers -> rows with {i}
with_cache.py  rows that hold for calls through a cache as well
proposal.py    all of it for one port: plain data
"""
